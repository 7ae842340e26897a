package union

import (
	"context"
	"fmt"
	"slices"
	"sync"

	digest "github.com/opencontainers/go-digest"

	"imagefs/store"
)

// scan is what is known of the layers of a part that cannot find them itself.
type scan struct {
	mu     sync.Mutex // held while the part is looked through
	ids    []digest.Digest
	known  bool
	layers map[digest.Digest]store.Layer // by chain ID, of images that are whole
}

// find returns the topmost layer of a stack as a part has it, whole.
func (u *Union) find(ctx context.Context, p store.Part, stack []digest.Digest) (candidate, error) {
	if f, ok := p.Store.(store.LayerFinder); ok {
		l, err := f.FindLayer(ctx, stack)
		return candidate{p, l}, err
	}
	u.mu.Lock()
	s := u.scans[p.Name]
	if s == nil {
		s = &scan{}
		u.scans[p.Name] = s
	}
	u.mu.Unlock()
	ids, err := p.Store.IDs(ctx)
	if err != nil {
		return candidate{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.known || !slices.Equal(s.ids, ids) {
		s.layers = map[digest.Digest]store.Layer{}
		for _, id := range ids {
			img, err := p.Store.Image(ctx, id)
			if ctx.Err() != nil {
				return candidate{}, ctx.Err()
			}
			if err != nil || img.Err() != nil {
				continue
			}
			for _, l := range img.Layers() {
				if _, ok := s.layers[l.ChainID()]; !ok {
					s.layers[l.ChainID()] = l
				}
			}
		}
		s.ids, s.known = ids, true
	}
	chain := store.ChainID(stack)
	l, ok := s.layers[chain]
	if !ok {
		return candidate{}, fmt.Errorf("layer %s: %w", chain, store.ErrNotFound)
	}
	return candidate{p, l}, nil
}
