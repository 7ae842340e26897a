package blob

import (
	"context"
	_ "crypto/sha512" // blobs may have digests of this kind
	"errors"
	"fmt"
	"io"

	digest "github.com/opencontainers/go-digest"

	"imagefs/store"
	"imagefs/store/layer"
)

// marker is what a file of the cache says of a layer that was read and found to fit.
const marker = "verified\n"

// markerName names it: after the digests, and where the bytes lie.
func (l *Layer) markerName() string {
	return fileName("verified", l.s.Origin, string(l.s.DiffID), string(l.s.Blob))
}

// indexName names the file that keeps the layer's index. The chain says what is below.
func (l *Layer) indexName() string {
	return fileName("index", string(l.s.ChainID), string(l.s.Blob))
}

// seekName names the file that keeps the seek index of a compressed layer.
func (l *Layer) seekName() string {
	if l.s.Blob == "" {
		return fileName("seek", l.s.Origin, string(l.s.DiffID))
	}
	return fileName("seek", string(l.s.Blob), string(l.s.DiffID))
}

// keeps tells whether something of the layer can be kept for the next process.
func (l *Layer) keeps() bool { return l.c.opts.Dir != "" && l.s.Origin != "" }

// wasVerified tells whether these bytes, at this place, were verified before.
func (l *Layer) wasVerified() bool {
	if !l.keeps() {
		return false
	}
	r := l.c.dir()
	if r == nil {
		return false
	}
	defer r.Close()
	f, err := openKept(r, l.markerName())
	if err != nil {
		l.marked = false
		return false
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, int64(len(marker))+1))
	l.marked = err == nil && string(b) == marker
	return l.marked
}

// keptStream returns the layer's tar by the seek index that an earlier pass has
// kept. Its pages were verified; the blob may still be another than it was.
func (l *Layer) keptStream(ctx context.Context) *stream {
	if !l.keeps() {
		return nil
	}
	s := l.c.keptStream(ctx, l.data, l.s.Size, l.form, l.seekName())
	if s != nil && l.wasVerified() {
		l.verified.Store(true)
	}
	return s
}

// keptIndex returns the index that is kept of the layer, nil if there is none,
// or its tar is not known to be the one that the index was made of.
func (l *Layer) keptIndex() *layer.Mapped {
	if l.form == uncompressed {
		if !l.wasVerified() {
			return nil
		}
		l.verified.Store(true)
	}
	if !l.keeps() {
		return nil
	}
	r := l.c.dir()
	if r == nil {
		return nil
	}
	defer r.Close()
	f, err := openKept(r, l.indexName())
	if err != nil {
		return nil
	}
	defer f.Close()
	m, err := layer.OpenIndex(f)
	if err != nil {
		l.c.log.Warn("a kept index is damaged and made again", "layer", l.s.DiffID, "err", err)
		return nil
	}
	if m.Info.DiffID != l.s.DiffID || m.Info.TarSize != l.tar.Size() {
		m.Close()
		return nil
	}
	return m
}

// Verify reads the whole layer and compares its digests, if that was not done
// before. An error that wraps store.ErrCorrupt is Err's from then on.
func (l *Layer) Verify(ctx context.Context) error {
	if err := l.verify(ctx); err != nil {
		return err
	}
	for _, b := range l.s.Lower {
		// The index depends on the layers below.
		if below, ok := b.(*Layer); ok && below.verify(ctx) != nil {
			return nil
		}
	}
	if err := acquire(ctx, l.lock, nil); err != nil {
		return err
	}
	defer l.lock.Give()
	l.remember()
	return nil
}

// verify is Verify without what is below.
func (l *Layer) verify(ctx context.Context) error {
	o, err := l.open(ctx)
	if err != nil || l.verified.Load() {
		return err
	}
	ctx, stop := l.while(ctx)
	defer stop()
	if err := l.digests(ctx, o.tar); err != nil {
		if ctx.Err() != nil {
			return l.ended(ctx.Err())
		}
		return l.fail(err)
	}
	l.verified.Store(true)
	return nil
}

// lowerVerified tells whether all layers below are known to be right.
func (l *Layer) lowerVerified() bool {
	for _, b := range l.s.Lower {
		if below, ok := b.(*Layer); ok && !below.Verified() {
			return false
		}
	}
	return true
}

// remember keeps the index and that the bytes were verified; l.lock is held.
func (l *Layer) remember() {
	if l.marked || !l.keeps() {
		return
	}
	if l.raw != nil {
		l.c.keep(l.indexName(), l.raw)
		l.raw = nil
	}
	l.c.keep(l.markerName(), []byte(marker))
	l.marked = true
}

// digests hashes the blob, and the tar if the one does not say what the other is.
func (l *Layer) digests(ctx context.Context, t body) error {
	if l.form == uncompressed || l.s.Blob == "" {
		if err := check(ctx, t, t.Size(), "diff ID", l.s.DiffID); err != nil || l.s.Blob == "" || l.s.Blob == l.s.DiffID {
			return err
		}
	}
	return check(ctx, l.data, l.s.Size, "blob", l.s.Blob)
}

// blame looks for the reason why a layer cannot be read: if its digest is
// another, that is what there is to say.
func (l *Layer) blame(ctx context.Context, err error) error {
	var below belowError
	if errors.As(err, &below) {
		return err
	}
	want, what := l.s.Blob, "blob"
	if want == "" && l.form == uncompressed {
		want, what = l.s.DiffID, "diff ID"
	}
	if want != "" && errors.Is(err, store.ErrCorrupt) {
		l.slowly()
		if cerr := check(ctx, l.data, l.s.Size, what, want); cerr != nil {
			return cerr
		}
	}
	return err
}

// check hashes bytes and compares.
func check(ctx context.Context, r io.ReaderAt, size int64, what string, want digest.Digest) error {
	sum := want.Algorithm().Digester()
	n, err := io.CopyBuffer(struct{ io.Writer }{sum.Hash()}, store.Interruptible(ctx, io.NewSectionReader(r, 0, size)), make([]byte, 256<<10))
	if err != nil {
		return err
	}
	if n != size {
		return fmt.Errorf("%d bytes where %d were: %w", n, size, store.ErrGone)
	}
	if got := sum.Digest(); got != want {
		return mismatch(what, want, got)
	}
	return nil
}

func mismatch(what string, want, got digest.Digest) error {
	return fmt.Errorf("%s: expected %s, found %s: %w", what, want, got, store.ErrCorrupt)
}
