package unpacked

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"sync"

	digest "github.com/opencontainers/go-digest"

	"imagefs/overlay"
	"imagefs/store"
	"imagefs/store/layer"
	"imagefs/store/turn"
)

// Set is what the layers of one store share. Its fields are not changed after
// the first layer was made.
type Set struct {
	Path  string // of the store, absolute: the cache tells stores apart by it
	Cache string // directory for indexes; "" keeps them in memory
	Lazy  bool   // read layers that have no index as they are looked into, and index them later
	Log   *slog.Logger

	later later
}

// Close ends the work in the background.
func (s *Set) Close() { s.later.close() }

// Source is a layer as a kind of store finds it. Safe for concurrent use.
type Source interface {
	// Dir opens the directory that has the layer's files; the caller closes it.
	// store.ErrGone if it is not there.
	Dir() (*os.File, error)
	// Split opens the layer's tar-split, not compressed. store.ErrUnsupported if it has none.
	Split() (io.ReadCloser, error)
	// Scan collects the layer's records. dir is what Dir opened.
	Scan(ctx context.Context, dir *os.File) (*overlay.Builder, error)
	// There tells whether the layer is still in the store as it was found: its
	// record and its directory. It is asked after an error.
	There() bool
	// Lazy opens the layer to be read as it is looked into; nil if only the
	// whole of it tells what it shows. dir stays open as long as that is used.
	Lazy(dir *os.File) (*layer.Lazy, error)
}

// Keeper is a Source whose store keeps files of ours beside the layer.
type Keeper interface {
	// Kept opens the layer's index, for the caller to close; an error if there is none.
	Kept() (*os.File, error)
	// Spill opens content that only the tar has, for the caller to close; nil if there is none.
	Spill() (*os.File, error)
}

// Layer is a layer with its index. Safe for concurrent use.
type Layer struct {
	set  *Set
	src  Source
	key  string
	diff digest.Digest
	near layer.Near

	split turn.Turn // had while the tar-split is read; taken before mu

	mu      sync.Mutex // guards what follows; held while an index is built
	dir     *os.File
	index   *layer.Mapped
	lazy    *layer.Lazy // what users see instead, if there was no index when they came
	tarSize int64       // -1: not known yet
	tar     *sharedTar
}

var _ store.Trimmer = (*Layer)(nil)

// New makes a layer. key tells it from all others of the store, and from what
// was in its place before; it names no file by itself.
func (s *Set) New(key string, diff digest.Digest, src Source) *Layer {
	return &Layer{set: s, src: src, key: key, diff: diff, split: turn.New(), tarSize: -1}
}

// Key returns what New was given.
func (l *Layer) Key() string { return l.key }

// DiffID returns what New was given.
func (l *Layer) DiffID() digest.Digest { return l.diff }

// Index is as store.Layer has it.
func (l *Layer) Index(ctx context.Context) (overlay.Layer, error) {
	x, _, err := l.view(ctx)
	return x, l.failed(err)
}

// view returns the layer as its users see it, whose inode numbers stay the same
// as long as the Layer is used, and what is known of it besides.
func (l *Layer) view(ctx context.Context) (overlay.Layer, layer.Meta, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lazy == nil && l.index == nil && l.set.Lazy {
		if err := l.openLazy(); err != nil {
			return nil, layer.Meta{}, err
		}
	}
	if l.lazy != nil {
		return l.lazy, layer.Meta{DiffID: l.diff, TarSize: -1, Size: -1}, nil
	}
	m, err := l.mappedLocked(ctx)
	if err != nil {
		return nil, layer.Meta{}, err
	}
	return m.Index, m.Info, nil
}

// openLazy lets the layer be read as it is looked into, if it has no index and
// its directory tells everything; l.mu is held.
func (l *Layer) openLazy() error {
	dir, err := l.open()
	if err != nil {
		return err
	}
	if l.index = l.kept(dir); l.index != nil {
		return nil
	}
	if l.lazy, err = l.src.Lazy(dir); err != nil || l.lazy == nil {
		return err
	}
	l.lazy.Failed = l.failed
	l.set.later.add(l)
	return nil
}

// open opens the directory; l.mu is held.
func (l *Layer) open() (*os.File, error) {
	if l.dir != nil {
		return l.dir, nil
	}
	d, err := l.src.Dir()
	if err != nil {
		return nil, err
	}
	l.dir = d
	return d, nil
}

// Dir returns the layer's directory, which stays the Layer's and open until Close.
func (l *Layer) Dir() (*os.File, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.open()
}

// files returns what a file of the layer is found with.
func (l *Layer) files(ctx context.Context) (dir *os.File, ix overlay.Layer, err error) {
	if ix, _, err = l.view(ctx); err == nil {
		dir, err = l.Dir()
	}
	return dir, ix, l.failed(err)
}

// Open is as store.Layer has it.
func (l *Layer) Open(ctx context.Context, i overlay.Ino) (store.File, error) {
	dir, ix, err := l.files(ctx)
	if err != nil {
		return nil, err
	}
	f, err := l.near.Open(dir, ix, i)
	return f, l.failed(err)
}

// failed is what an error of reading the layer is to its users: store.ErrCorrupt
// if something of it is missing or wrong while the layer itself is still in the
// store, store.ErrGone if it is being removed.
func (l *Layer) failed(err error) error {
	var m *layer.MissingError
	switch missing := errors.As(err, &m); {
	case err == nil:
		return nil
	case missing && l.src.There():
		return fmt.Errorf("layer %s: %.300q is missing in its directory: %w", l.key, m.Path, store.ErrCorrupt)
	case missing, !errors.Is(err, store.ErrCorrupt) && !errors.Is(err, store.ErrUnsupported) && !errors.Is(err, fs.ErrNotExist), l.src.There():
		return err
	}
	return fmt.Errorf("layer %s is no longer in the store (%v): %w", l.key, err, store.ErrGone)
}

var _ store.WholeReader = (*Layer)(nil)

// ReadWhole implements store.WholeReader.
func (l *Layer) ReadWhole(ctx context.Context, i overlay.Ino, p []byte) error {
	dir, ix, err := l.files(ctx)
	if err != nil {
		return err
	}
	return l.failed(l.near.ReadWhole(dir, ix, i, p))
}

// Mapped returns the layer's index, whole: from memory, from its file, or built now.
func (l *Layer) Mapped(ctx context.Context) (*layer.Mapped, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mappedLocked(ctx)
}

// Known returns what the layer's index says besides, if the index was read already.
func (l *Layer) Known() (layer.Meta, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.index == nil {
		return layer.Meta{}, false
	}
	return l.index.Info, true
}

// Trim implements store.Trimmer.
func (l *Layer) Trim() {
	l.near.Trim()
	if !l.mu.TryLock() {
		return // an index is being built; the next time, then
	}
	defer l.mu.Unlock()
	if l.index != nil {
		l.index.Trim()
	}
}

// Close lets go of the descriptors. The index stays mapped: trees may still use it.
func (l *Layer) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dir != nil {
		l.dir.Close()
		l.dir = nil
	}
	l.near.Close()
}

// Forget frees everything. Nothing that came from the layer may be used afterwards.
func (l *Layer) Forget() {
	l.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.index != nil {
		l.index.Close()
		l.index = nil
	}
	l.lazy = nil
}
