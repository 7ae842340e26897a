package containers

import (
	"context"
	"fmt"

	digest "github.com/opencontainers/go-digest"

	"imagefs/store"
)

// stack finds the layers of a stack of diff IDs, bottom first, by the ID of the
// topmost: configs have them from the bottom, layers.json from the top. A layer
// that is not found is there, and broken. rest is the ID of what the store has
// below them, "" if that is nothing.
func (s *Store) stack(c *catalog, at int, id string, diffs []digest.Digest) (layers []*layerRec, rest string) {
	layers = make([]*layerRec, len(diffs))
	seen := map[string]bool{}
	var lost error // why there is nothing below
	for n := len(diffs) - 1; n >= 0; n-- {
		l := &layerRec{s: s, diff: diffs[n]}
		layers[n] = l
		switch {
		case lost != nil:
		case id == "":
			lost = fmt.Errorf("the store has %d layers of %d: %w", len(diffs)-1-n, len(diffs), store.ErrCorrupt)
		case seen[id]:
			lost = fmt.Errorf("layer %.80s is its own parent: %w", id, store.ErrCorrupt)
		default:
			seen[id] = true
			var p *place
			var rec *layerRecord
			if p, rec, lost = s.layer(c, at, id); lost == nil {
				at, id = p.index, rec.Parent
				l.place, l.rec = p, rec
				l.broken = l.check()
				continue
			}
		}
		l.broken = lost
	}
	var chain digest.Digest
	var below *layerRec
	for n, l := range layers {
		chain = store.NextChainID(chain, l.diff)
		l.chain, l.below = chain, below
		below = s.keep(c, l)
		layers[n] = below
	}
	if lost != nil {
		return layers, ""
	}
	return layers, id
}

var _ store.LayerFinder = (*Store)(nil)

// FindLayer implements store.LayerFinder.
func (s *Store) FindLayer(ctx context.Context, diffIDs []digest.Digest) (store.Layer, error) {
	c := s.now()
	if len(diffIDs) == 0 || len(diffIDs) > store.MaxLayers {
		return nil, fmt.Errorf("a stack of %d layers: %w", len(diffIDs), store.ErrNotFound)
	}
	top := diffIDs[len(diffIDs)-1]
	for _, t := range c.tops()[top] {
		layers, rest := s.stack(c, t.at, t.id, diffIDs)
		if l := layers[len(layers)-1]; rest == "" && l.whole() {
			return l, nil
		}
	}
	return nil, fmt.Errorf("no layer %s: %w", store.ChainID(diffIDs), store.ErrNotFound)
}

// whole tells whether nothing is wrong with the layer and those below it.
func (l *layerRec) whole() bool {
	for ; l != nil; l = l.below {
		if l.broken != nil {
			return false
		}
	}
	return true
}

// top is a layer by its ID in a place.
type top struct {
	at int
	id string
}

// findTops groups the layers by diff ID. A store may have several of one diff
// ID, on different ones below; how many are looked at is bounded.
func (c *catalog) findTops() map[digest.Digest][]top {
	m := map[digest.Digest][]top{}
	for at, l := range c.lists {
		for id, rec := range l.layers {
			if rec.DiffID != "" && len(m[rec.DiffID]) < maxTops {
				m[rec.DiffID] = append(m[rec.DiffID], top{at, id})
			}
		}
	}
	return m
}

const maxTops = 256
