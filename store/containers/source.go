package containers

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"

	"imagefs/overlay"
	"imagefs/store"
	"imagefs/store/layer"
	"imagefs/store/unpacked"
)

// Dir implements unpacked.Source.
func (l *layerRec) Dir() (*os.File, error) {
	if l.broken != nil {
		return nil, l.broken
	}
	d, err := l.place.root.Dir(l.dir())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("layer %s: %w: %w", l.chain, store.ErrGone, err)
	}
	return d, err
}

// There implements unpacked.Source. What was broken when it was found is no less there since.
func (l *layerRec) There() bool { return l.broken != nil || l.current(l.s.now()) }

// Split implements unpacked.Source.
func (l *layerRec) Split() (io.ReadCloser, error) {
	if l.broken != nil {
		return nil, l.broken
	}
	return unpacked.OpenSplit(l.place.root, l.split(), l.chain)
}

// Lazy implements unpacked.Source.
func (l *layerRec) Lazy(dir *os.File) (*layer.Lazy, error) {
	if plain, err := l.plain(); err != nil || !plain {
		return nil, err
	}
	return layer.NewLazy(dir, layer.Limits{})
}

// Scan implements unpacked.Source: from the directory where that tells all,
// else from the headers in the tar-split, and without one from what the
// directory tells.
func (l *layerRec) Scan(ctx context.Context, dir *os.File) (*overlay.Builder, error) {
	plain, err := l.plain()
	if err != nil {
		return nil, err
	}
	if plain {
		return layer.Scan(ctx, dir, layer.Limits{})
	}
	z, err := l.Split()
	if err == nil {
		var b *overlay.Builder
		b, err = layer.ScanSplit(ctx, z, func() (*overlay.Tree, error) { return l.lower(ctx) }, layer.Limits{})
		z.Close()
		if err == nil {
			return b, nil
		}
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	l.s.log.Warn("the layer is what lies on disk: its tar-split cannot be read", "layer", l.chain, "err", err)
	return l.scan(ctx, dir)
}

// scan collects the records of what lies on disk.
func (l *layerRec) scan(ctx context.Context, dir *os.File) (*overlay.Builder, error) {
	fix := l.owners().fix
	switch {
	case l.place.driver != "vfs":
		return layer.ScanFixed(ctx, dir, layer.FuseOverlayfs, fix, layer.Limits{})
	case l.below == nil:
		return layer.ScanFixed(ctx, dir, layer.Whole, fix, layer.Limits{})
	}
	parent, err := l.below.Dir()
	if err != nil {
		return nil, err
	}
	defer parent.Close()
	return layer.ScanTree(ctx, dir, parent, fix, layer.Limits{})
}

// lower merges the layers below this one.
func (l *layerRec) lower(ctx context.Context) (*overlay.Tree, error) {
	if l.below == nil {
		return nil, nil
	}
	var layers []overlay.Layer // top first
	for b := l.below; b != nil; b = b.below {
		x, err := b.Index(ctx)
		if err != nil {
			return nil, err
		}
		layers = append(layers, x)
	}
	slices.Reverse(layers)
	return overlay.Merge(layers...)
}
