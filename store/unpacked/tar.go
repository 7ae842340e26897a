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

// TarSize is as store.Layer has it.
func (l *Layer) TarSize(ctx context.Context) (int64, error) {
	_, info, err := l.view(ctx)
	if err != nil {
		return 0, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.tarSize >= 0 {
		return l.tarSize, nil
	}
	if info.TarSize >= 0 {
		l.tarSize = info.TarSize
		return l.tarSize, nil
	}
	z, err := l.src.Split()
	if err != nil {
		return 0, err
	}
	defer z.Close()
	n, err := layer.SplitSize(z)
	if err != nil {
		return 0, fmt.Errorf("layer %s: %w", l.key, err)
	}
	l.tarSize = n
	return n, nil
}

// Tar is as store.Layer has it. All users of one layer share the map of its tar.
func (l *Layer) Tar(ctx context.Context) (store.File, error) {
	_, info, err := l.view(ctx)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.tar == nil {
		t, err := l.openTar(info.Spilled)
		if err != nil {
			return nil, err
		}
		l.tar = t
	}
	l.tar.uses++
	return &tarHandle{File: l.tar.File, l: l, t: l.tar}, nil
}

// openTar opens the tar; l.mu is held.
func (l *Layer) openTar(spilled bool) (*sharedTar, error) {
	dir, err := l.open()
	if err != nil {
		return nil, err
	}
	t := &sharedTar{}
	if k, ok := l.src.(Keeper); ok && spilled {
		if t.spill, err = k.Spill(); err != nil {
			return nil, fmt.Errorf("layer %s: %w: %w", l.key, store.ErrCorrupt, err)
		}
	}
	t.File, err = layer.OpenTar(layer.TarSource{Split: l.src.Split, Dir: dir, Spill: t.spill, Temp: TempFile})
	if err != nil {
		if t.spill != nil {
			t.spill.Close()
		}
		return nil, fmt.Errorf("layer %s: %w", l.key, err)
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
