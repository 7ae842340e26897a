package docker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"

	digest "github.com/opencontainers/go-digest"

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
	d, err := l.s.root.Dir(overlayDir + "/" + l.cache + "/diff")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("layer %s: %w: %w", l.chain, store.ErrGone, err)
	}
	return d, err
}

// Split implements unpacked.Source.
func (l *layerRec) Split() (io.ReadCloser, error) {
	f, err := l.s.root.OpenFile(layerDir+"/"+l.chain.Encoded()+"/tar-split.json.gz", os.O_RDONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("layer %s has no tar-split: %w", l.chain, store.ErrUnsupported)
	}
	if err != nil {
		return nil, err
	}
	z, err := unpacked.Gunzip(f)
	if err != nil {
		return nil, fmt.Errorf("layer %s: %w", l.chain, err)
	}
	return z, nil
}

// Kept implements unpacked.Keeper.
func (l *layerRec) Kept() (*os.File, error) {
	return l.s.root.OpenFile(indexDir+"/"+l.Key(), os.O_RDONLY, 0)
}

// Spill implements unpacked.Keeper.
func (l *layerRec) Spill() (*os.File, error) {
	f, err := l.s.root.OpenFile(spillDir+"/"+l.Key(), os.O_RDONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return f, err
}

// Lazy implements unpacked.Source.
func (l *layerRec) Lazy(dir *os.File) (*layer.Lazy, error) {
	st, err := l.s.root.Stat(overlayDir + "/" + l.cache)
	if err != nil || st.Uid != 0 || l.s.root.Exists(spillDir+"/"+l.Key()) {
		return nil, err
	}
	return layer.NewLazy(dir, layer.Limits{})
}

// Scan implements unpacked.Source: it reads the diff directory. Where that
// cannot tell owners, because it is not root's, the headers in the tar-split do.
func (l *layerRec) Scan(ctx context.Context, dir *os.File) (*overlay.Builder, error) {
	st, err := l.s.root.Stat(overlayDir + "/" + l.cache)
	if err != nil {
		return nil, err
	}
	if st.Uid != 0 {
		z, err := l.Split()
		if err == nil {
			var b *overlay.Builder
			b, err = layer.ScanSplit(ctx, z, func() (*overlay.Tree, error) { return l.below(ctx) }, layer.Limits{})
			z.Close()
			if err == nil {
				return b, nil
			}
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		l.s.log.Warn("owners are those on disk: the tar-split cannot be read", "layer", l.chain, "err", err)
	}
	return layer.Scan(ctx, dir, layer.Limits{})
}

// below merges the layers below this one.
func (l *layerRec) below(ctx context.Context) (*overlay.Tree, error) {
	if l.parent == "" {
		return nil, nil
	}
	var layers []overlay.Layer // top first
	for chain := l.parent; chain != ""; {
		d := layerDir + "/" + chain.Encoded() + "/"
		diff, err := l.s.root.Read(d+"diff", maxSmall)
		if err != nil {
			return nil, err
		}
		parent, err := l.s.root.Read(d+"parent", maxSmall)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		if len(layers) == store.MaxLayers || !isID(digest.Digest(diff)) || store.NextChainID(digest.Digest(parent), digest.Digest(diff)) != chain {
			return nil, fmt.Errorf("layer %s: %w", chain, store.ErrCorrupt)
		}
		x, err := l.s.layer(chain, digest.Digest(parent), digest.Digest(diff)).Index(ctx)
		if err != nil {
			return nil, err
		}
		layers = append(layers, x)
		chain = digest.Digest(parent)
	}
	slices.Reverse(layers)
	return overlay.Merge(layers...)
}
