package containerd

import (
	"cmp"
	"context"
	"fmt"
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
	p := &plan{d: d, used: map[digest.Digest]string{}, ways: map[digest.Digest]int{}, stacks: map[digest.Digest]stack{}, users: map[digest.Digest]int{}}
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
	kept   []int                    // records that lead to images
	used   map[digest.Digest]string // target → a container that uses it
	ways   map[digest.Digest]int    // image → how many records lead to it
	stacks map[digest.Digest]stack  // by image
	users  map[digest.Digest]int    // chain ID → how many images have the layer
}

// remove adds a removal to the plan.
func (p *plan) remove(r store.Removal) (out store.Removed, err error) {
	id, ref := digest.Digest(r.Ref), ""
	if !store.IsID(id) {
		id, ref = cmp.Or(p.d.c.names.Tags[r.Ref], p.d.c.names.Digests[r.Ref]), r.Ref
	}
	if r.Still != "" && id != r.Still {
		return out, fmt.Errorf("%s is another image's by now: %w", r.Ref, store.ErrNotFound)
	}
	_, known, err := p.d.meant(id, ref, false)
	if err != nil {
		return out, err
	}
	target := known[0]
	all := p.records(target)
	same := all
	if ref != "" {
		same = p.same(ref, all)
	}
	if len(same) < len(all) {
		p.take(same, &out)
		return out, nil
	}
	if ref == "" && len(all) > 1 {
		return out, fmt.Errorf("conflict: unable to delete %s (must be forced) - image is referenced in multiple repositories: %w", short(target), store.ErrBusy)
	}
	if c, used := p.used[target]; used {
		return out, fmt.Errorf("conflict: unable to delete %s - container %.12s is using the image: %w", short(target), c, store.ErrBusy)
	}
	parent := p.d.c.records[all[0]].parent
	if len(all) == 1 && p.hasChildren(target) {
		// It stays for them, without a name.
		if r := p.d.c.records[all[0]]; !r.isDangling() {
			out.Untagged = append(out.Untagged, p.d.shown(r.name))
		}
		return out, nil
	}
	p.take(all, &out)
	for parent != "" {
		up := p.records(parent)
		_, used := p.used[parent]
		if len(up) != 1 || used || !p.d.c.records[up[0]].isDangling() {
			break
		}
		parent = p.d.c.records[up[0]].parent
		p.take(up, &out)
	}
	return out, nil
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

// same returns the records that go with a reference: its own, digests with the
// last tag of a repository, all tags with a digest, and what keeps it without a name.
func (p *plan) same(ref string, all []int) (out []int) {
	mine, _ := familiarName(p.d.c.records[p.d.c.of[ref]].name)
	if _, tagged := p.d.c.names.Tags[ref]; !tagged {
		mine.tag = ""
	}
	var digests []int
	others := false
	for _, i := range all {
		r := p.d.c.records[i]
		f, ok := familiarName(r.name)
		switch {
		case r.isDangling() || !ok:
			out = append(out, i)
		case f.repo != mine.repo:
		case mine.tag == "" || f.tag == mine.tag:
			out = append(out, i)
		case f.tag == "":
			digests = append(digests, i)
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
		p.d.gone[i] = true
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
