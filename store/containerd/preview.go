package containerd

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"

	digest "github.com/opencontainers/go-digest"

	"imagefs/store"
)

var _ store.Previewer = (*Store)(nil)

// Preview implements store.Previewer, by the rules of a daemon that has its
// images in a containerd's store (moby, daemon/containerd/image_delete.go).
func (s *Store) Preview(ctx context.Context, list ...store.Removal) ([]store.Removed, []error, error) {
	d, err := s.dockerd(ctx, "remove images")
	if err != nil {
		return nil, nil, err
	}
	containers, err := d.Client.Containers(ctx)
	if err != nil {
		return nil, nil, err
	}
	d.gone = map[int]bool{}
	p := &plan{d: d, names: store.Names{Tags: maps.Clone(d.c.names.Tags), Digests: maps.Clone(d.c.names.Digests)}, refs: map[int][]string{}, used: map[digest.Digest]string{}, ways: map[digest.Digest]int{}, stacks: map[digest.Digest]stack{}, users: map[digest.Digest]int{}}
	for ref, i := range d.c.of {
		p.refs[i] = append(p.refs[i], ref)
	}
	for _, c := range containers {
		p.used[digest.Digest(c.ImageID)] = c.ID
	}
	for i, t := range d.c.found {
		if t == nil {
			continue
		}
		for _, id := range t.all() {
			p.ways[id]++
		}
		p.kept = append(p.kept, i)
	}
	for _, st := range s.stacks(d.c, func(record) bool { return true }) {
		p.stacks[st.id] = st
		for _, chain := range st.chains {
			p.users[chain]++
		}
	}
	out, errs := make([]store.Removed, len(list)), make([]error, len(list))
	for n, r := range list {
		if err := ctx.Err(); err != nil {
			return nil, nil, err
		}
		out[n], errs[n] = p.remove(r)
	}
	return out, errs, nil
}

// plan is what the daemon would do.
type plan struct {
	d      *dockerd
	names  store.Names              // that are left
	refs   map[int][]string         // record → the names that are of it, as they are shown
	kept   []int                    // records that lead to images
	used   map[digest.Digest]string // target → a container that uses it
	ways   map[digest.Digest]int    // image → how many records lead to it
	stacks map[digest.Digest]stack  // by image
	users  map[digest.Digest]int    // chain ID → how many images have the layer
}

// remove adds a removal to the plan.
func (p *plan) remove(r store.Removal) (out store.Removed, err error) {
	if err := r.Foreseen(p.names); err != nil {
		return out, err
	}
	id, ref := digest.Digest(r.Ref), ""
	if !store.IsID(id) {
		id, ref = cmp.Or(p.names.Tags[r.Ref], p.names.Digests[r.Ref]), r.Ref
	}
	what, err := p.d.meant(id, ref, r.Ref, false)
	if err != nil {
		return out, err
	}
	for _, m := range what {
		if err := p.target(m.target, ref, &out); err != nil {
			return out, err
		}
	}
	return out, nil
}

// drop takes a record away, with the names that are of it.
func (p *plan) drop(i int) {
	p.d.gone[i] = true
	for _, ref := range p.refs[i] {
		delete(p.names.Tags, ref)
		delete(p.names.Digests, ref)
	}
}

// target plans the removal of what the daemon knows by a digest, by a name if it is not "".
func (p *plan) target(target digest.Digest, ref string, out *store.Removed) error {
	all := p.records(target)
	if len(all) == 0 {
		return nil // it went with another
	}
	same := p.same(ref, all)
	switch {
	case len(same) == len(all):
	case ref != "":
		p.take(same, out)
		return nil
	default:
		return fmt.Errorf("conflict: unable to delete %s (must be forced) - image is referenced in multiple repositories: %w", short(target), store.ErrBusy)
	}
	if c, used := p.used[target]; used {
		return fmt.Errorf("conflict: unable to delete %s - container %.12s is using the image: %w", short(target), c, store.ErrBusy)
	}
	first := p.d.c.records[all[0]]
	if ref != "" && len(all) == 1 && p.hasChildren(target) {
		// It stays for them, without a name.
		p.drop(all[0])
		out.Untagged = append(out.Untagged, p.d.shown(first.name))
		return nil
	}
	p.take(all, out)
	for parent := first.parent; parent != "" && len(all) == 1; {
		up := p.records(parent)
		_, used := p.used[parent]
		if len(up) != 1 || used || !p.d.c.records[up[0]].isDangling() {
			break
		}
		parent = p.d.c.records[up[0]].parent
		p.take(up, out)
	}
	return nil
}

// records returns those of the daemon's that lead to a target.
func (p *plan) records(target digest.Digest) (out []int) {
	for _, i := range p.kept {
		if r := p.d.c.records[i]; !p.d.gone[i] && r.space == p.d.space && r.target.Digest == target {
			out = append(out, i)
		}
	}
	return out
}

// same returns those of a target's records that go with a reference: its own,
// digests with the last tag of a repository, all tags with a digest, and what is
// no name. Without a reference it is the first name there is.
func (p *plan) same(ref string, all []int) (out []int) {
	var repo, tag string
	if ref != "" {
		repo, tag, _ = p.d.c.records[p.d.c.of[ref]].readName()
		if _, tagged := p.d.c.names.Tags[ref]; !tagged {
			tag = ""
		}
	}
	var digests []int
	others := false
	for _, i := range all {
		r, t, ok := p.d.c.records[i].readName()
		if ok && repo == "" {
			repo, tag = r, t
		}
		switch {
		case !ok:
			out = append(out, i)
		case r != repo:
		case ref != "" && tag == "" || t == tag:
			out = append(out, i)
		case t == "":
			digests = append(digests, i)
		case tag == "":
			tag = t
			out = append(out, i)
		default:
			others = true
		}
	}
	if !others {
		out = append(out, digests...)
	}
	return out
}

// hasChildren tells whether an image was built on what the daemon knows by a digest.
func (p *plan) hasChildren(target digest.Digest) bool {
	return slices.ContainsFunc(p.kept, func(i int) bool {
		r := p.d.c.records[i]
		return !p.d.gone[i] && r.space == p.d.space && r.parent == target
	})
}

// take removes records, and the images to which no other leads.
func (p *plan) take(records []int, out *store.Removed) {
	for _, i := range records {
		p.drop(i)
		r := p.d.c.records[i]
		if !r.isDangling() {
			out.Untagged = append(out.Untagged, p.d.shown(r.name))
		}
		for _, id := range p.d.c.found[i].all() {
			if p.ways[id]--; p.ways[id] > 0 {
				continue
			}
			out.Deleted = append(out.Deleted, id)
			for _, chain := range slices.Backward(p.stacks[id].chains) {
				if p.users[chain]--; p.users[chain] == 0 {
					out.Deleted = append(out.Deleted, chain)
				}
			}
		}
	}
}
