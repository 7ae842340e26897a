package docker

import (
	"context"
	"fmt"

	digest "github.com/opencontainers/go-digest"

	"imagefs/store"
)

var _ store.LayerFinder = (*Store)(nil)

// FindLayer implements store.LayerFinder.
func (s *Store) FindLayer(ctx context.Context, diffIDs []digest.Digest) (store.Layer, error) {
	n := len(diffIDs)
	if n == 0 {
		return nil, fmt.Errorf("a layer of no diff IDs: %w", store.ErrInvalid)
	}
	for _, d := range diffIDs {
		if !store.IsID(d) {
			return nil, fmt.Errorf("diff ID %.80q: %w", string(d), store.ErrInvalid)
		}
	}
	parent := store.ChainID(diffIDs[:n-1])
	l := s.layer(store.NextChainID(parent, diffIDs[n-1]), parent, diffIDs[n-1])
	if l.broken != nil {
		return nil, fmt.Errorf("%w: %w", store.ErrNotFound, l.broken)
	}
	return l, nil
}

// Is tells whether a directory is the root of such a store, without looking below it.
func Is(root string) bool {
	if _, ok, err := named(root); ok || err != nil {
		return ok
	}
	_, ok, _ := dataRoot(root)
	return ok
}
