package blob

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"

	digest "github.com/opencontainers/go-digest"

	"imagefs/overlay"
	"imagefs/store"
	"imagefs/store/layer"
	"imagefs/store/turn"
)

// Data is the bytes of a blob, safe for concurrent use. What became of the file
// that they lie in is Data's to know: it gives store.ErrGone rather than bytes
// that may be others.
type Data interface {
	io.ReaderAt
	io.Closer
}

// Spec says what a layer is and where its blob lies.
type Spec struct {
	DiffID  digest.Digest
	ChainID digest.Digest
	Blob    digest.Digest // of the bytes as they lie there; "" if nobody says
	Size    int64         // of the blob
	// Origin names the bytes: whoever replaces them gives them another Origin (a
	// path with inode, size and times). "" if that cannot be told.
	Origin string
	// Open opens the blob. It is called when the bytes are first needed.
	Open func() (Data, error)
	// Lower are the layers below, bottom first.
	Lower []store.Layer
	// Scanned, if not nil, is the layer's tar as it was read before, which was
	// not compressed. It is used up.
	Scanned *layer.Streamed
	// Err, if not nil, is why the layer is broken; nothing is read then.
	Err error
}

// Layer is a layer read in place.
type Layer struct {
	c   *Cache
	s   Spec
	key string

	broken   atomic.Pointer[error]
	verified atomic.Bool
	opened   atomic.Pointer[opened] // once there is an index
	ahead    atomic.Pointer[func()] // starts on the layers that go with this one

	life context.Context // ends with Close
	end  context.CancelFunc

	slow     chan struct{} // closed once somebody has had to read the whole blob, or one below, for the index
	slowOnce sync.Once

	lock    turn.Turn // guards what follows; held while the index is built
	data    Data
	form    format // and data are not changed any more once the layer is opened
	tar     body
	stream  *stream        // the tar of a compressed blob
	records *layer.Records // of the tar, if what is below was missing to make an index of them
	raw     []byte         // the index as it is to be kept; nil once it is
	marked  bool           // it is kept that the bytes were verified

	mu        sync.Mutex // guards what follows; held for moments
	holders   int        // of the index
	forgotten bool       // it is unmapped when the last of them is done
}

// opened is a layer that can be read. Immutable.
type opened struct {
	index *layer.Mapped
	tar   body
}

// body is an uncompressed tar, read at random.
type body interface {
	io.ReaderAt
	Size() int64
}

var (
	_ store.Layer     = (*Layer)(nil)
	_ store.TarHolder = (*Layer)(nil)
)

// Layer makes a layer. Nothing is read yet.
func (c *Cache) Layer(s Spec) *Layer {
	l := &Layer{c: c, s: s, key: fileName("key", s.Origin, string(s.ChainID), string(s.Blob)), slow: make(chan struct{}), lock: turn.New()}
	l.life, l.end = context.WithCancel(context.Background())
	if s.Err != nil {
		l.broken.Store(&s.Err)
	}
	return l
}

// DiffID implements store.Layer.
func (l *Layer) DiffID() digest.Digest { return l.s.DiffID }

// ChainID implements store.Layer.
func (l *Layer) ChainID() digest.Digest { return l.s.ChainID }

// Digest implements store.Layer.
func (l *Layer) Digest() digest.Digest {
	if l.s.Blob == l.s.DiffID {
		return "" // it is not compressed
	}
	return l.s.Blob
}

// Key implements store.Layer.
func (l *Layer) Key() string { return l.key }

// HasTar implements store.TarHolder.
func (l *Layer) HasTar() bool { return l.Err() == nil }

// Err tells what is known to be wrong with the layer. Wraps store.ErrCorrupt
// for bytes that are not what the digests say.
func (l *Layer) Err() error {
	if e := l.broken.Load(); e != nil {
		return *e
	}
	return nil
}

// Verified tells whether all bytes were read and fit the digests.
func (l *Layer) Verified() bool { return l.verified.Load() }

// fail notes that a layer is broken, if err says so, and returns err with the blob's name.
func (l *Layer) fail(err error) error {
	err = fmt.Errorf("layer %s: %w", l.name(), err)
	var below belowError
	if !errors.As(err, &below) && (errors.Is(err, store.ErrCorrupt) || errors.Is(err, store.ErrTooLarge)) {
		if l.broken.CompareAndSwap(nil, &err) && l.c.opts.Broken != nil {
			l.c.opts.Broken(l, err)
		}
	}
	return err
}

// name is what the layer is called in messages.
func (l *Layer) name() digest.Digest {
	if l.s.Blob != "" {
		return l.s.Blob
	}
	return l.s.DiffID
}

// Index implements store.Layer.
func (l *Layer) Index(ctx context.Context) (overlay.Layer, error) {
	o, err := l.open(ctx)
	if err != nil {
		return nil, err
	}
	return o.index.Index, nil
}

// open returns the layer's index and its tar.
func (l *Layer) open(ctx context.Context) (*opened, error) {
	if err := l.Err(); err != nil {
		return nil, err
	}
	if o := l.opened.Load(); o != nil {
		return o, nil
	}
	if ahead := l.ahead.Load(); ahead != nil {
		(*ahead)()
	}
	o, err := l.build(ctx, false)
	if err != nil && ctx.Err() == nil {
		err = l.fail(err)
	}
	return o, err
}

// errCostly says that something cannot be had without decompressing a blob.
var errCostly = errors.New("it would have to be decompressed")

// build gets the layer's index, if nobody has meanwhile. cheaply is not by
// decompressing, this layer or one below, nor by waiting for somebody who does:
// errCostly then, and what else is wrong is left to others to say.
func (l *Layer) build(ctx context.Context, cheaply bool) (*opened, error) {
	ctx, stop := l.while(ctx)
	defer stop()
	var giveUp chan struct{}
	if cheaply {
		giveUp = l.slow
	}
	if err := acquire(ctx, l.lock, giveUp); err != nil {
		return nil, l.ended(err)
	}
	defer l.lock.Give()
	if o := l.opened.Load(); o != nil {
		return o, nil
	}
	if err := cmp.Or(l.life.Err(), ctx.Err()); err != nil { // ctx may hear of life's end later
		return nil, l.ended(err)
	}
	index, err := l.load(ctx, cheaply)
	if err != nil && ctx.Err() != nil {
		return nil, l.ended(ctx.Err())
	}
	if err != nil {
		return nil, err
	}
	o := &opened{index, l.tar}
	l.opened.Store(o)
	if l.c.opts.Background && !l.verified.Load() {
		l.c.work.add(l)
	}
	return o, nil
}

// while makes a context that also ends when the layer is closed.
func (l *Layer) while(ctx context.Context) (context.Context, func()) {
	ctx, stop := context.WithCancel(ctx)
	unhook := context.AfterFunc(l.life, stop)
	return ctx, func() { unhook(); stop() }
}

// ended is the error of such a context.
func (l *Layer) ended(err error) error {
	if l.life.Err() != nil {
		return fmt.Errorf("the layer is no longer in use: %w", os.ErrClosed)
	}
	return err
}

// slowly notes that what follows takes reading the whole blob, or one below.
func (l *Layer) slowly() { l.slowOnce.Do(func() { close(l.slow) }) }

// load opens the blob and gets the layer's index; l.lock is held.
func (l *Layer) load(ctx context.Context, cheaply bool) (index *layer.Mapped, err error) {
	if l.data == nil {
		if l.data, err = l.s.Open(); err != nil {
			l.data = nil
			return nil, err
		}
	}
	if l.form, err = formatOf(l.data, l.s.Size); err != nil {
		return nil, err
	}
	var r *layer.Records
	if l.form == uncompressed {
		l.tar = io.NewSectionReader(l.data, 0, l.s.Size)
	} else if r, err = l.loadCompressed(ctx, cheaply); err != nil {
		return nil, err
	}
	if r == nil {
		if m := l.keptIndex(); m != nil {
			return m, nil
		}
		if r, err = l.scan(ctx, cheaply); err != nil {
			return nil, err
		}
	}
	if l.raw, err = l.encode(ctx, r, l.tar.Size(), cheaply); err != nil {
		if errors.As(err, new(belowError)) {
			l.records = r
		}
		if l.verified.Load() || cheaply {
			return nil, err
		}
		return nil, l.blame(ctx, err)
	}
	if index, err = layer.ReadIndex(l.raw); err == nil && l.verified.Load() && l.lowerVerified() {
		l.remember()
	}
	return index, err
}

// scan reads the headers of the tar.
func (l *Layer) scan(ctx context.Context, cheaply bool) (*layer.Records, error) {
	if r := l.records; r != nil {
		l.records = nil
		return r, nil
	}
	if t := l.s.Scanned; t != nil && l.form == uncompressed {
		l.s.Scanned = nil
		if t.DiffID != l.s.DiffID {
			return nil, mismatch("diff ID", l.s.DiffID, t.DiffID)
		}
		l.verified.Store(l.s.Blob == "" || l.s.Blob == l.s.DiffID)
		return t.Records, nil
	}
	if l.form != uncompressed {
		if cheaply {
			return nil, errCostly
		}
		l.slowly()
	}
	r, err := layer.ScanTarAt(ctx, l.tar, l.tar.Size(), layer.Limits{})
	if err != nil && !cheaply {
		return nil, l.blame(ctx, err)
	}
	return r, err
}

// loadCompressed gets the seek index of a compressed layer. If that takes
// reading it, it is verified, and its records come with it.
func (l *Layer) loadCompressed(ctx context.Context, cheaply bool) (*layer.Records, error) {
	if l.stream == nil {
		l.stream = l.keptStream(ctx)
	}
	if l.stream != nil {
		l.tar = l.stream
		return nil, nil
	}
	if cheaply {
		return nil, errCostly
	}
	l.slowly()
	alg := digest.SHA256
	if l.s.Blob != "" {
		alg = l.s.Blob.Algorithm()
	}
	p, err := l.c.newPass(ctx, l.data, l.s.Size, l.form, alg, l.seekName())
	if err != nil {
		return nil, l.blame(ctx, err)
	}
	defer p.close()
	t, err := layer.ScanTarStream(ctx, p, layer.Limits{})
	if err != nil {
		return nil, l.blame(ctx, err)
	}
	if err := p.in.rest(ctx); err != nil {
		return nil, err
	}
	if got := digest.NewDigest(alg, p.in.sum); l.s.Blob != "" && got != l.s.Blob {
		return nil, mismatch("blob", l.s.Blob, got)
	}
	if t.DiffID != l.s.DiffID {
		return nil, mismatch("diff ID", l.s.DiffID, t.DiffID)
	}
	raw, err := p.x.finish(l.s.Size, nil)
	if err != nil {
		return nil, err
	}
	if l.stream, err = p.stream(l.c, l.data, l.form, l.seekName(), raw, l.keeps()); err != nil {
		return nil, err
	}
	l.tar = l.stream
	l.verified.Store(true)
	return t.Records, nil
}

// encode completes the records of the layer.
func (l *Layer) encode(ctx context.Context, r *layer.Records, tarSize int64, cheaply bool) ([]byte, error) {
	for _, b := range l.s.Lower {
		if h, ok := b.(Holder); ok {
			defer h.Hold()()
		}
	}
	b, err := r.Inherit(func() (*overlay.Tree, error) { return l.below(ctx, cheaply) })
	if err != nil {
		return nil, err
	}
	return layer.EncodeIndex(b, layer.Meta{DiffID: l.s.DiffID, TarSize: tarSize, Size: -1, Blob: l.Digest()})
}

// below merges the layers below.
func (l *Layer) below(ctx context.Context, cheaply bool) (*overlay.Tree, error) {
	if len(l.s.Lower) == 0 {
		return nil, nil
	}
	layers := make([]overlay.Layer, len(l.s.Lower))
	for i, b := range l.s.Lower {
		var err error
		if layers[i], err = l.indexOf(ctx, b, cheaply); err != nil {
			return nil, belowError{err}
		}
	}
	return overlay.Merge(layers...)
}

// Cheap is a layer, below another, whose index may take long.
type Cheap interface {
	// IndexCheaply is Index that gives an error where it would have to decompress
	// a blob, or to wait for somebody who does.
	IndexCheaply(ctx context.Context) (overlay.Layer, error)
}

var _ Cheap = (*Layer)(nil)

// IndexCheaply implements Cheap.
func (l *Layer) IndexCheaply(ctx context.Context) (overlay.Layer, error) {
	o, err := l.openCheaply(ctx)
	if err != nil {
		return nil, err
	}
	return o.index.Index, nil
}

// openCheaply is open without decompressing.
func (l *Layer) openCheaply(ctx context.Context) (*opened, error) {
	if err := l.Err(); err != nil {
		return nil, err
	}
	if o := l.opened.Load(); o != nil {
		return o, nil
	}
	return l.build(ctx, true)
}

// Holder is a layer, below another, that can be forgotten while its index is used.
type Holder interface {
	// Hold keeps in memory what comes from the layer until release is called, once.
	Hold() (release func())
}

var _ Holder = (*Layer)(nil)

// Hold implements Holder.
func (l *Layer) Hold() (release func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.holders++
	return l.release
}

func (l *Layer) release() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.holders--
	l.free()
}

// free unmaps the index if nobody needs it any more; l.mu is held.
func (l *Layer) free() {
	if !l.forgotten || l.holders > 0 {
		return
	}
	if o := l.opened.Swap(nil); o != nil {
		o.index.Close()
	}
}

// Forget is Close that frees everything. Nothing that came from the layer may be
// used afterwards but by who holds it.
func (l *Layer) Forget() {
	l.Close() // from here on nobody opens it
	l.mu.Lock()
	defer l.mu.Unlock()
	l.forgotten = true
	l.free()
}

// indexOf gets the index of a layer below.
func (l *Layer) indexOf(ctx context.Context, b store.Layer, cheaply bool) (overlay.Layer, error) {
	if c, ok := b.(Cheap); ok {
		if x, err := c.IndexCheaply(ctx); err == nil || cheaply {
			return x, err
		}
		l.slowly()
	}
	return b.Index(ctx)
}

// belowError is what is wrong with a layer below: this one is not to blame.
type belowError struct{ err error }

func (e belowError) Error() string { return "needs what is below: " + e.err.Error() }
func (e belowError) Unwrap() error { return e.err }

// Size implements store.Layer: the sizes of all files, as Docker counts them.
// -1 as long as that would take decompressing the layer, or one below that it
// takes something from.
func (l *Layer) Size() int64 {
	o, err := l.openCheaply(l.c.ctx)
	if err != nil {
		return -1
	}
	return o.index.Info.Size
}

// Close lets go of the blob. Who waits for the index, and reads after it, fail.
// What came from the index stays valid.
func (l *Layer) Close() {
	l.end()
	_ = acquire(context.Background(), l.lock, nil) // who builds the index stops
	defer l.lock.Give()
	if l.stream != nil {
		l.stream.close()
	}
	if l.data != nil {
		l.data.Close()
	}
}
