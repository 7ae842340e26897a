package unpacked

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"

	"imagefs/store"
	"imagefs/store/beneath"
	"imagefs/store/layer"
)

// sharedTar is an open tar with the number of its users.
type sharedTar struct {
	store.File
	spill *os.File
	uses  int
}

// tarHandle is one user's hold on a sharedTar.
type tarHandle struct {
	store.File
	l    *Layer
	t    *sharedTar
	once sync.Once
}

// ReadAt implements io.ReaderAt.
func (h *tarHandle) ReadAt(p []byte, off int64) (int, error) {
	n, err := h.File.ReadAt(p, off)
	if err == nil || err == io.EOF {
		return n, err
	}
	return n, h.l.failed(err)
}

var _ store.PartReader = (*tarHandle)(nil)

// InParts implements store.PartReader, for all users of the tar together.
func (h *tarHandle) InParts() bool {
	p, ok := h.File.(store.PartReader)
	return ok && p.InParts()
}

func (h *tarHandle) Close() error {
	h.once.Do(func() {
		h.l.mu.Lock()
		defer h.l.mu.Unlock()
		if h.t.uses--; h.t.uses > 0 {
			return
		}
		h.t.File.Close()
		if h.t.spill != nil {
			h.t.spill.Close()
		}
		if h.l.tar == h.t {
			h.l.tar = nil
		}
	})
	return nil
}

// TarSize is as store.Layer has it. Where only the tar-split tells it, that is
// read once, by one at a time.
func (l *Layer) TarSize(ctx context.Context) (int64, error) {
	_, info, err := l.view(ctx)
	if err != nil {
		return 0, l.failed(err)
	}
	if n, ok := l.knownSize(info); ok {
		return n, nil
	}
	if err := l.split.Take(ctx); err != nil {
		return 0, err
	}
	defer l.split.Give()
	if n, ok := l.knownSize(info); ok {
		return n, nil // somebody else has found out meanwhile
	}
	z, err := l.openSplit(ctx)
	if err != nil {
		return 0, l.failed(err)
	}
	defer z.Close()
	n, err := layer.SplitSize(z)
	if err != nil {
		return 0, l.failed(l.splitError(ctx, err))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tarSize = n
	return n, nil
}

// knownSize returns the tar's size if it is known.
func (l *Layer) knownSize(info layer.Meta) (int64, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.tarSize < 0 {
		l.tarSize = info.TarSize
	}
	return l.tarSize, l.tarSize >= 0
}

// openSplit opens the tar-split to be read as long as ctx lasts.
func (l *Layer) openSplit(ctx context.Context) (io.ReadCloser, error) {
	z, err := l.src.Split()
	if err != nil {
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{store.Interruptible(ctx, z), z}, nil
}

// splitError is the error of reading the tar-split as the layer's users see it.
func (l *Layer) splitError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("layer %s: %w", l.key, err)
}

// Tar is as store.Layer has it. All users of one layer share the map of its tar.
func (l *Layer) Tar(ctx context.Context) (store.File, error) {
	_, info, err := l.view(ctx)
	if err != nil {
		return nil, l.failed(err)
	}
	if h := l.useTar(nil); h != nil {
		return h, nil
	}
	if err := l.split.Take(ctx); err != nil {
		return nil, err
	}
	defer l.split.Give()
	if h := l.useTar(nil); h != nil {
		return h, nil // somebody else has opened it meanwhile
	}
	t, err := l.openTar(ctx, info.Spilled)
	if err != nil {
		return nil, l.failed(err)
	}
	return l.useTar(t), nil
}

// useTar returns another hold on the tar that is open: from now on opened, if
// that is not nil. nil if there is none.
func (l *Layer) useTar(opened *sharedTar) store.File {
	l.mu.Lock()
	defer l.mu.Unlock()
	if opened != nil {
		l.tar, l.tarSize = opened, opened.Size()
	}
	if l.tar == nil {
		return nil
	}
	l.tar.uses++
	return &tarHandle{File: l.tar.File, l: l, t: l.tar}
}

// openTar opens the tar, in the caller's turn at the tar-split.
func (l *Layer) openTar(ctx context.Context, spilled bool) (*sharedTar, error) {
	dir, err := l.Dir()
	if err != nil {
		return nil, err
	}
	t := &sharedTar{}
	if k, ok := l.src.(Keeper); ok && spilled {
		if t.spill, err = k.Spill(); err != nil {
			return nil, fmt.Errorf("layer %s: %w: %w", l.key, store.ErrCorrupt, err)
		}
	}
	split := func() (io.ReadCloser, error) { return l.openSplit(ctx) }
	t.File, err = layer.OpenTar(layer.TarSource{Split: split, Dir: dir, Spill: t.spill, Temp: TempFile})
	if err != nil {
		if t.spill != nil {
			t.spill.Close()
		}
		return nil, l.splitError(ctx, err)
	}
	return t, nil
}

// TempFile makes a file that has no name.
func TempFile() (*os.File, error) {
	f, err := os.CreateTemp("", "imagefs-")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// OpenSplit opens the tar-split of a layer, which lies gzip-compressed in a file
// of the store. store.ErrUnsupported if there is none.
func OpenSplit(root *beneath.Root, path string, chain digest.Digest) (io.ReadCloser, error) {
	f, err := root.OpenFile(path, os.O_RDONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("layer %s has no tar-split: %w", chain, store.ErrUnsupported)
	}
	if err != nil {
		return nil, err
	}
	z, err := Gunzip(f)
	if err != nil {
		return nil, fmt.Errorf("layer %s: %w", chain, err)
	}
	return z, nil
}

// Gunzip reads a gzip-compressed tar-split and closes it, also if it returns an
// error, which wraps store.ErrCorrupt.
func Gunzip(f *os.File) (io.ReadCloser, error) {
	z, err := gzip.NewReader(f)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("tar-split: %w: %w", store.ErrCorrupt, err)
	}
	return struct {
		io.Reader
		io.Closer
	}{z, f}, nil
}
