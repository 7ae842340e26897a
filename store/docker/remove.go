package docker

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"

	digest "github.com/opencontainers/go-digest"

	"imagefs/store"
	"imagefs/store/beneath"
	"imagefs/store/daemon/api"
)

// Remove implements store.Remover, by the rules of dockerd's image deletion.
func (s *Store) Remove(ctx context.Context, refOrID string, force bool) (out store.Removed, err error) {
	err = s.change(ctx,
		func() (err error) { out, err = s.removeDisk(ctx, refOrID, force); return err },
		func(c *api.Client) (err error) { out, err = s.removeLive(ctx, c, refOrID, force); return err })
	return out, err
}

// removeDisk is Remove with the lock held.
func (s *Store) removeDisk(ctx context.Context, refOrID string, force bool) (store.Removed, error) {
	id, ref, err := store.Resolve(ctx, s, refOrID)
	if err != nil {
		return store.Removed{}, err
	}
	p, err := s.planner(ctx)
	if err != nil {
		return store.Removed{}, err
	}
	out, err := p.step(id, ref, refOrID, force)
	if err != nil {
		return store.Removed{}, err
	}
	return out, p.carryOut()
}

// carryOut does what was planned. The lock is held.
func (p *planner) carryOut() error {
	if len(p.rec.Images)+len(p.rec.Untag) == 0 {
		return nil
	}
	if len(p.rec.Images) == 0 {
		// Names alone are one step and need no journal.
		return p.s.changeNames(nil, slices.Collect(maps.Keys(p.rec.Untag)))
	}
	file, err := p.s.begin(p.rec)
	if err != nil {
		return err
	}
	beneath.Step()
	return p.s.finish(file, p.rec, p.s.doRemove(p.rec))
}

var (
	_ store.Previewer   = (*Store)(nil)
	_ store.BulkRemover = (*Store)(nil)
)

// RemoveEach implements store.BulkRemover. A daemon removes one after the other.
func (s *Store) RemoveEach(ctx context.Context, list ...store.Removal) (out []store.Removed, errs []error, err error) {
	err = s.change(ctx, func() error {
		var p *planner
		if p, out, errs, err = s.plan(ctx, list); err != nil {
			return err
		}
		return p.carryOut()
	}, func(c *api.Client) error {
		out, errs = s.removeEachLive(ctx, c, list)
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	return out, errs, nil
}

// Preview implements store.Previewer. What a daemon would do is worked out by the
// same rules, which are its own.
func (s *Store) Preview(ctx context.Context, list ...store.Removal) ([]store.Removed, []error, error) {
	if err := s.writable(); err != nil {
		return nil, nil, err
	}
	if s.opts.ReadOnly {
		return nil, nil, fmt.Errorf("store %s was opened read-only: %w", s.path, store.ErrReadOnly)
	}
	if s.Live() {
		if _, err := s.daemon(ctx); err != nil {
			return nil, nil, err
		}
	}
	_, out, errs, err := s.plan(ctx, list)
	return out, errs, err
}

// plan plans several removals, one after the other.
func (s *Store) plan(ctx context.Context, list []store.Removal) (*planner, []store.Removed, []error, error) {
	p, err := s.planner(ctx)
	if err != nil {
		return nil, nil, nil, err
	}
	out, errs := make([]store.Removed, len(list)), make([]error, len(list))
	for i, r := range list {
		if err := ctx.Err(); err != nil {
			return nil, nil, nil, err
		}
		id, ref, err := p.meant(r)
		if err == nil {
			out[i], err = p.step(id, ref, r.Ref, false)
		}
		errs[i] = err
	}
	return p, out, errs, nil
}

// meant returns what a removal is of: an image, and its reference if one was given.
func (p *planner) meant(r store.Removal) (id digest.Digest, ref string, err error) {
	id = digest.Digest(r.Ref)
	if !store.IsID(id) {
		id, ref = cmp.Or(p.names.Tags[r.Ref], p.names.Digests[r.Ref]), r.Ref
	}
	if _, ok := p.images[id]; !ok || !p.live(id) {
		return "", "", noName(r.Ref)
	}
	return id, ref, r.Foreseen(p.names)
}
