package union

import (
	"context"
	"fmt"
	"slices"

	digest "github.com/opencontainers/go-digest"

	"imagefs/store"
	"imagefs/store/turn"
)

// scan is what is known of the layers of a part that cannot find them itself:
// which image has them. The layers themselves are always those that the image
// has now, since what a store reads an image from can be replaced while the image
// stays the same.
type scan struct {
	turn   turn.Turn // had while the part is looked through; guards what follows
	ids    []digest.Digest
	known  bool
	images map[digest.Digest]digest.Digest // chain ID → an image that is whole
}

// asked has the images that parts were asked for in one call of the union's, so
// that each is asked for once. nil keeps nothing.
type asked map[askedKey]store.Image

type askedKey struct {
	part string
	id   digest.Digest
}

// image asks a part for an image that is whole, once.
func (a asked) image(ctx context.Context, p store.Part, id digest.Digest) (store.Image, error) {
	k := askedKey{p.Name, id}
	if img := a[k]; img != nil {
		return img, nil
	}
	img, err := p.Store.Image(ctx, id)
	if err == nil {
		err = img.Err()
	}
	if err != nil {
		return nil, err
	}
	if a != nil {
		a[k] = img
	}
	return img, nil
}

// find returns the topmost layer of a stack as a part has it now, whole.
func (u *Union) find(ctx context.Context, p store.Part, stack []digest.Digest, a asked) (candidate, error) {
	if f, ok := p.Store.(store.LayerFinder); ok {
		l, err := f.FindLayer(ctx, stack)
		return candidate{p, l}, err
	}
	u.mu.Lock()
	s := u.scans[p.Name]
	if s == nil {
		s = &scan{turn: turn.New()}
		u.scans[p.Name] = s
	}
	u.mu.Unlock()
	ids, err := p.Store.IDs(ctx)
	if err != nil {
		return candidate{}, err
	}
	if err := s.turn.Take(ctx); err != nil {
		return candidate{}, err
	}
	defer s.turn.Give()
	chain := store.ChainID(stack)
	if s.known && slices.Equal(s.ids, ids) {
		id, ok := s.images[chain]
		if !ok {
			return candidate{}, noLayer(chain)
		}
		if img, err := a.image(ctx, p, id); err == nil {
			if l := layerOf(img, chain); l != nil {
				return candidate{p, l}, nil
			}
		}
		if ctx.Err() != nil {
			return candidate{}, ctx.Err()
		}
		// The image is no longer whole; another may have the layer.
	}
	var found store.Layer
	images := map[digest.Digest]digest.Digest{}
	for _, id := range ids {
		img, err := a.image(ctx, p, id)
		if ctx.Err() != nil {
			return candidate{}, ctx.Err()
		}
		if err != nil {
			continue
		}
		for _, l := range img.Layers() {
			if _, ok := images[l.ChainID()]; !ok {
				images[l.ChainID()] = id
				if l.ChainID() == chain {
					found = l
				}
			}
		}
	}
	s.ids, s.images, s.known = ids, images, true
	if found == nil {
		return candidate{}, noLayer(chain)
	}
	return candidate{p, found}, nil
}

func layerOf(img store.Image, chain digest.Digest) store.Layer {
	for _, l := range img.Layers() {
		if l.ChainID() == chain {
			return l
		}
	}
	return nil
}

func noLayer(chain digest.Digest) error {
	return fmt.Errorf("layer %s: %w", chain, store.ErrNotFound)
}
