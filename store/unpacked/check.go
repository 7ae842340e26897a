package unpacked

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"imagefs/overlay"
	"imagefs/store"
	"imagefs/store/layer"
)

// Check verifies the layer: that its index can be made, and with deep that its
// tar has the diff ID, if it can be put together, and that every file is there.
func (l *Layer) Check(ctx context.Context, deep bool) error {
	m, err := l.Mapped(ctx)
	if err == nil {
		err = m.Check()
	}
	if err != nil || !deep {
		return err
	}
	if err := l.checkTar(ctx); err != nil && !errors.Is(err, store.ErrUnsupported) {
		return err
	}
	return l.checkContent(ctx, m.Index)
}

// checkTar puts the layer's tar together and hashes it.
func (l *Layer) checkTar(ctx context.Context) error {
	t, err := l.Tar(ctx)
	if err != nil {
		return err
	}
	defer t.Close()
	h := sha256.New()
	if _, err := io.Copy(h, store.Interruptible(ctx, io.NewSectionReader(t, 0, t.Size()))); err != nil {
		return err
	}
	if got := digest.NewDigest(digest.SHA256, h); got != l.diff {
		return fmt.Errorf("its content hashes to %s, its diff ID is %s: %w", got, l.diff, store.ErrCorrupt)
	}
	return nil
}

// checkContent opens every file that the index has.
func (l *Layer) checkContent(ctx context.Context, ix *overlay.Index) error {
	dir, err := l.Dir()
	if err != nil {
		return err
	}
	for i := range overlay.Ino(ix.Inodes()) {
		if ix.Stat(i).Mode&unix.S_IFMT != unix.S_IFREG || ix.Whiteout(i) {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		f, err := layer.Open(dir, ix, i)
		if err != nil {
			return err
		}
		f.Close()
	}
	return nil
}
