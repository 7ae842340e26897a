package containerd

import (
	"context"
	"fmt"
	"slices"
	"strings"

	digest "github.com/opencontainers/go-digest"

	"imagefs/store"
	"imagefs/store/daemon/api"
)

var _ store.Remover = (*Store)(nil)

// Remove implements store.Remover.
func (s *Store) Remove(ctx context.Context, refOrID string, force bool) (out store.Removed, err error) {
	d, err := s.dockerd(ctx, "remove images")
	if err != nil {
		return out, err
	}
	id, ref, err := store.Resolve(ctx, s, refOrID)
	if err != nil {
		return out, err
	}
	what, err := d.meant(id, ref, refOrID, force)
	if err != nil {
		return out, err
	}
	before := s.stacks(d.c, func(r record) bool {
		return r.space == d.space && slices.ContainsFunc(what, func(m meant) bool { return m.target == r.target.Digest })
	})
	deleted := map[digest.Digest]bool{}
	for _, m := range what {
		var done []api.Removed
		done, err = d.Client.Remove(ctx, m.name, force, false)
		for _, r := range done {
			if r.Untagged != "" && !strings.HasPrefix(r.Untagged, dangling+"@") {
				out.Untagged = append(out.Untagged, d.shown(r.Untagged))
			}
			deleted[digest.Digest(r.Deleted)] = true
		}
		if err != nil {
			break
		}
	}
	out.Deleted = s.lost(context.WithoutCancel(ctx), d, before, id, deleted)
	return out, err
}

// stack is what an image is made of.
type stack struct {
	id     digest.Digest
	chains []digest.Digest // bottom first
	blobs  []digest.Digest // of the layers
}

// stacks returns the images that the records lead to for which of returns true.
func (s *Store) stacks(c *catalog, of func(record) bool) []stack {
	var out []stack
	seen := map[digest.Digest]bool{}
	for i, r := range c.records {
		if c.found[i] == nil || !of(r) {
			continue
		}
		for _, id := range c.found[i].all() {
			if !seen[id] {
				seen[id] = true
				out = append(out, s.stack(c, id))
			}
		}
	}
	return out
}

// stack returns an image; of one that is broken the ID alone.
func (s *Store) stack(c *catalog, id digest.Digest) stack {
	st := stack{id: id}
	e := c.images[id]
	if e == nil || len(e.manifests) == 0 {
		return st
	}
	m := e.manifests[0]
	_, config, err := s.config(m)
	if err != nil || len(config.DiffIDs) != len(m.layers) {
		return st
	}
	st.chains = chains(config)
	for _, l := range m.layers {
		st.blobs = append(st.blobs, l.Digest)
	}
	return st
}

// lost returns which images are not there any more after the daemon deleted what
// it knows by digests, that of first before all others, each with those of its
// layers that are gone too, from the top.
func (s *Store) lost(ctx context.Context, d *dockerd, before []stack, first digest.Digest, deleted map[digest.Digest]bool) []digest.Digest {
	now, err := s.catalog(ctx)
	if err != nil {
		return nil // what there is to see is not worse for it
	}
	// Parents go with the last image that was built on them.
	parents := s.stacks(d.c, func(r record) bool { return r.space == d.space && deleted[r.target.Digest] })
	if n := slices.IndexFunc(before, func(st stack) bool { return st.id == first }); n > 0 {
		before[0], before[n] = before[n], before[0]
	}
	var out []digest.Digest
	for _, st := range append(before, parents...) {
		if now.images[st.id] != nil || slices.Contains(out, st.id) {
			continue
		}
		out = append(out, st.id)
		snapshots, err := s.readSnapshots(ctx, now.spaces, st.chains)
		for n, chain := range slices.Backward(st.chains) {
			if _, there := snapshots[chain]; err == nil && !there && !s.hasBlob(st.blobs[n]) && !slices.Contains(out, chain) {
				out = append(out, chain)
			}
		}
	}
	return out
}

// meant is what the daemon is asked to remove.
type meant struct {
	name   string        // what it is asked for: a reference or a digest
	target digest.Digest // by which it knows that
}

// meant returns what is meant by a reference, or with ref "" by the ID of an
// image or an engine's digest, whole or its beginning, that was given for it.
func (d *dockerd) meant(id digest.Digest, ref, given string, force bool) ([]meant, error) {
	if ref == "" {
		return d.meantByID(id, given, force)
	}
	r, err := d.own(ref)
	if err != nil {
		return nil, err
	}
	repo, of, digested := strings.Cut(ref, "@")
	switch {
	case !digested:
		return []meant{{r.name, r.target.Digest}}, nil
	case of != string(r.target.Digest):
		return nil, fmt.Errorf("%s is no name of Docker's: it is a platform of %s@%s, and goes with that: %w", ref, repo, r.target.Digest, store.ErrNotFound)
	}
	f, _ := familiarName(r.name)
	return []meant{{f.repo + "@" + of, r.target.Digest}}, nil
}

// meantByID is meant without a reference.
func (d *dockerd) meantByID(id digest.Digest, given string, force bool) ([]meant, error) {
	of, err := d.targets(id)
	if err != nil {
		return nil, err
	}
	prefix := strings.TrimPrefix(given, "sha256:")
	alias := !strings.HasPrefix(id.Encoded(), prefix)
	names := 0
	var out []meant
	for _, k := range of {
		if alias && !strings.HasPrefix(k.digest.Encoded(), prefix) {
			continue // another image to Docker
		}
		if k.named {
			names++
		}
		out = append(out, meant{string(k.digest), k.digest})
	}
	switch {
	case len(out) == 0:
		return nil, fmt.Errorf("%.80s is none of Docker's images: it is a platform of %s, and goes with that: %w", given, of[0].digest, store.ErrNotFound)
	case names > 1 && !force:
		return nil, fmt.Errorf("conflict: unable to delete %s (must be forced) - image is referenced in multiple repositories: %w", short(id), store.ErrBusy)
	}
	return out, nil
}

// short is a digest as engines name images in sentences.
func short(d digest.Digest) string { return d.Encoded()[:12] }
