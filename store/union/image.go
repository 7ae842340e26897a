package union

import (
	"context"
	"errors"
	"fmt"

	digest "github.com/opencontainers/go-digest"

	"imagefs/store"
)

// image is an image of a part, with the layers that all parts share.
type image struct {
	store.Image
	layers []store.Layer
}

// Layers implements store.Image.
func (i *image) Layers() []store.Layer { return i.layers }

var (
	_ store.Manifester = (*image)(nil)
	_ store.Grouped    = (*image)(nil)
)

// RawManifest implements store.Manifester.
func (i *image) RawManifest() []byte {
	if m, ok := i.Image.(store.Manifester); ok {
		return m.RawManifest()
	}
	return nil
}

// Group implements store.Grouped.
func (i *image) Group() []digest.Digest {
	if g, ok := i.Image.(store.Grouped); ok {
		return g.Group()
	}
	return nil
}

// Graph tells where the part's engine keeps the layers, as docker inspect does.
func (i *image) Graph() (driver string, data map[string]string) {
	if g, ok := i.Image.(interface {
		Graph() (string, map[string]string)
	}); ok {
		return g.Graph()
	}
	return "", nil
}

// Image implements store.Store: from the first part where it is whole, else
// from the first that has it.
func (u *Union) Image(ctx context.Context, id digest.Digest) (store.Image, error) {
	var broken store.Image
	var from store.Part
	var bad error
	for _, p := range u.Parts() {
		img, err := p.Store.Image(ctx, id)
		switch {
		case err == nil && img.Err() == nil:
			return u.share(ctx, p, img), nil
		case err == nil:
			// Of two that are broken, the one that shows more.
			if broken == nil || broken.RawConfig() == nil && img.RawConfig() != nil {
				broken, from = img, p
			}
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case bad == nil || errors.Is(bad, store.ErrNotFound) && !errors.Is(err, store.ErrNotFound):
			bad = err
		}
	}
	if broken != nil {
		return u.share(ctx, from, broken), nil
	}
	if bad == nil {
		bad = fmt.Errorf("image %.80q: %w", string(id), store.ErrNotFound)
	}
	return nil, bad
}

// share gives an image the layers that all images share.
func (u *Union) share(ctx context.Context, p store.Part, img store.Image) store.Image {
	own := img.Layers()
	out := &image{Image: img, layers: make([]store.Layer, len(own))}
	stack := make([]digest.Digest, len(own))
	a := asked{}
	for n, l := range own {
		stack[n] = l.DiffID()
		out.layers[n] = u.layer(ctx, stack[:n+1:n+1], candidate{p, l}, img.Err() == nil, a)
	}
	return out
}
