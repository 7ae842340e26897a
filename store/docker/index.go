package docker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

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
	d, err := l.s.root.Dir(l.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("layer %s: %w: %w", l.chain, store.ErrGone, err)
	}
	return d, err
}

// There implements unpacked.Source. What was broken when it was found is no less there since.
func (l *layerRec) There() bool {
	if l.broken != nil {
		return true
	}
	cache, err := l.s.root.Read(l.s.at.layers+"/"+l.chain.Encoded()+"/cache-id", maxSmall)
	return err == nil && strings.TrimSpace(string(cache)) == l.cache && l.s.root.IsDir(l.dir)
}

// Split implements unpacked.Source.
func (l *layerRec) Split() (io.ReadCloser, error) {
	return unpacked.OpenSplit(l.s.root, l.s.at.layers+"/"+l.chain.Encoded()+"/tar-split.json.gz", l.chain)
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

// form tells how the layer's directory says what is taken away from those below.
func (l *layerRec) form() layer.Form {
	if l.upper {
		return layer.Overlayfs
	}
	return l.s.at.form
}

// Lazy implements unpacked.Source.
func (l *layerRec) Lazy(dir *os.File) (*layer.Lazy, error) {
	st, err := l.s.root.Stat(l.s.at.ownerOf(l.cache))
	if err != nil || st.Uid != 0 || l.s.at.trees || l.s.at.form != layer.Overlayfs || l.s.root.Exists(spillDir+"/"+l.Key()) {
		return nil, err
	}
	return layer.NewLazy(dir, layer.Limits{})
}

// Scan implements unpacked.Source: it reads the layer's directory. Where that
// cannot tell owners, because it is not root's, the headers in the tar-split do;
// where it has more than the layer, they tell what of it is the layer's.
func (l *layerRec) Scan(ctx context.Context, dir *os.File) (*overlay.Builder, error) {
	st, err := l.s.root.Stat(l.s.at.ownerOf(l.cache))
	if err != nil {
		return nil, err
	}
	if owners := st.Uid == 0; l.s.at.trees || !owners {
		b, err := l.scanSplit(ctx, dir, owners)
		if err == nil {
			return b, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		l.s.log.Warn("the tar-split cannot be read; the layer is what lies on disk", "layer", l.chain, "err", err)
	}
	if l.s.at.trees && l.parent != "" {
		return l.scanTree(ctx, dir)
	}
	return layer.ScanForm(ctx, dir, l.form(), layer.Limits{})
}

// scanSplit collects the records in the tar-split, of a whole tree whose owners
// are true with the attributes that are there.
func (l *layerRec) scanSplit(ctx context.Context, dir *os.File, owners bool) (*overlay.Builder, error) {
	z, err := l.Split()
	if err != nil {
		return nil, err
	}
	defer z.Close()
	below := func() (*overlay.Tree, error) { return l.below(ctx) }
	if l.s.at.trees && owners {
		return layer.ScanSplitTree(ctx, z, dir, below, layer.Limits{})
	}
	return layer.ScanSplit(ctx, z, below, layer.Limits{})
}

// scanTree compares the layer's tree with that of the layer below.
func (l *layerRec) scanTree(ctx context.Context, dir *os.File) (*overlay.Builder, error) {
	bad := func(err error) error { return fmt.Errorf("layer %s: %w: %w", l.parent, store.ErrCorrupt, err) }
	cache, err := l.s.root.Read(l.s.at.layers+"/"+l.parent.Encoded()+"/cache-id", maxSmall)
	if err != nil {
		return nil, bad(err)
	}
	if !isCacheID(cache) {
		return nil, fmt.Errorf("layer %s: cache-id %.80q: %w", l.parent, cache, store.ErrCorrupt)
	}
	below, upper, err := l.s.content(string(cache))
	if err != nil {
		return nil, bad(err)
	}
	switch {
	case l.upper && !upper:
		// It is the difference to the parent, as an overlayfs wrote it.
		return layer.ScanForm(ctx, dir, layer.Overlayfs, layer.Limits{})
	case l.upper:
		return nil, fmt.Errorf("without its tar-split nothing tells the layer from those below it: %w", store.ErrCorrupt)
	}
	parent, err := l.s.root.Dir(below)
	if err != nil {
		return nil, bad(err)
	}
	defer parent.Close()
	return layer.ScanTree(ctx, dir, parent, nil, layer.Limits{})
}

// below merges the layers below this one.
func (l *layerRec) below(ctx context.Context) (*overlay.Tree, error) {
	if l.parent == "" {
		return nil, nil
	}
	var layers []overlay.Layer // top first
	for chain := l.parent; chain != ""; {
		d := l.s.at.layers + "/" + chain.Encoded() + "/"
		diff, err := l.s.root.Read(d+"diff", maxSmall)
		if err != nil {
			return nil, err
		}
		parent, err := l.s.root.Read(d+"parent", maxSmall)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		if len(layers) == store.MaxLayers || !store.IsID(digest.Digest(diff)) || store.NextChainID(digest.Digest(parent), digest.Digest(diff)) != chain {
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
