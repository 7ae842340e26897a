package blob

import (
	"context"
	"fmt"
	"io"

	"golang.org/x/sys/unix"

	"imagefs/overlay"
	"imagefs/store"
	"imagefs/store/layer"
)

// file is content of a layer. Once the layer is known to be broken it gives no more bytes.
type file struct {
	layer.RefReader
	l *Layer
}

// ReadAt implements io.ReaderAt.
func (f *file) ReadAt(p []byte, off int64) (int, error) {
	if err := f.l.Err(); err != nil {
		return 0, err
	}
	n, err := f.RefReader.ReadAt(p, off)
	if err != nil && err != io.EOF {
		return 0, f.l.fail(err)
	}
	return n, err
}

// Close implements io.Closer.
func (f *file) Close() error { return nil }

// Open implements store.Layer.
func (l *Layer) Open(ctx context.Context, i overlay.Ino) (store.File, error) {
	defer l.Hold()()
	o, err := l.open(ctx)
	if err != nil {
		return nil, err
	}
	m, t := o.index, o.tar
	if int(i) >= m.Inodes() || m.Stat(i).Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, fmt.Errorf("inode %d of layer %s is no regular file: %w", i, l.name(), store.ErrInvalid)
	}
	ref, size := m.Ref(i), int64(m.Stat(i).Size)
	if n, ok := layer.RefBelow(ref); ok {
		if n.Layer() >= len(l.s.Lower) {
			return nil, l.fail(fmt.Errorf("content in layer %d of %d below: %w", n.Layer(), len(l.s.Lower), store.ErrCorrupt))
		}
		f, err := l.s.Lower[n.Layer()].Open(ctx, n.Ino())
		if err != nil {
			return nil, err
		}
		if f.Size() != size {
			f.Close()
			return nil, l.fail(fmt.Errorf("content of %d bytes below where the layer has %d: %w", f.Size(), size, store.ErrCorrupt))
		}
		return f, nil
	}
	r, err := layer.OpenRef(t, t.Size(), ref, size)
	if err != nil {
		return nil, l.fail(err)
	}
	return &file{r, l}, nil
}

// TarSize implements store.Layer.
func (l *Layer) TarSize(ctx context.Context) (int64, error) {
	o, err := l.open(ctx)
	if err != nil {
		return 0, err
	}
	return o.tar.Size(), nil
}

// Tar implements store.Layer.
func (l *Layer) Tar(ctx context.Context) (store.File, error) {
	o, err := l.open(ctx)
	if err != nil {
		return nil, err
	}
	return &file{o.tar, l}, nil
}
