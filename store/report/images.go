package report

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/distribution/reference"
	digest "github.com/opencontainers/go-digest"

	"imagefs/store"
	"imagefs/store/filter"
)

// Summary is what a list of images tells about one.
type Summary struct {
	ID          digest.Digest
	Parent      digest.Digest
	RepoTags    []string
	RepoDigests []string
	Created     time.Time // zero if unknown
	Size        int64     // -1 if unknown
	Err         error     // what is broken about the image
	Stores      []string  // of several, those that have it, in order
}

// Images lists the images of a store that pass a filter, as `docker images`
// does: newest first; images without a name only if no other image was built
// on them, or with f.All. A broken image is listed with what is known of it.
func Images(ctx context.Context, st store.Store, f Filter) ([]Summary, error) {
	names, err := st.Names(ctx)
	if err != nil {
		return nil, err
	}
	ids, err := st.IDs(ctx)
	if err != nil {
		return nil, err
	}
	span, err := f.span(ctx, st)
	if err != nil {
		return nil, err
	}
	refs := NewRefs(names)
	children := map[digest.Digest]bool{}
	var all []store.Image
	for _, id := range ids {
		img, err := st.Image(ctx, id)
		if err != nil {
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			continue // removed since the IDs were read
		}
		all = append(all, img)
		children[img.Parent()] = true
	}
	stores, err := holders(ctx, st)
	if err != nil {
		return nil, err
	}
	var out []Summary
	for _, img := range all {
		if !span.has(img.Config().Created) || !f.labels.Match(img) {
			continue
		}
		s := Summary{ID: img.ID(), Parent: img.Parent(), Created: img.Config().Created, Size: Size(img), Err: img.Err(), Stores: stores[img.ID()]}
		ok, err := f.names(&s, refs[img.ID()], children[img.ID()])
		if err != nil {
			return nil, err
		}
		if ok {
			out = append(out, s)
		}
	}
	slices.SortStableFunc(out, func(a, b Summary) int {
		return cmp.Or(b.Created.Compare(a.Created), strings.Compare(a.name(), b.name()))
	})
	return out, nil
}

// holders tells which of the stores that a store is made of have an image; nil if it is one.
func holders(ctx context.Context, st store.Store) (map[digest.Digest][]string, error) {
	p, ok := st.(store.Parter)
	if !ok {
		return nil, nil
	}
	out := map[digest.Digest][]string{}
	for _, part := range p.Parts() {
		ids, err := part.Store.IDs(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			continue // it shows nothing either
		}
		for _, id := range ids {
			out[id] = append(out[id], part.Name)
		}
	}
	return out, nil
}

// name is what images of one age are sorted by.
func (s Summary) name() string {
	switch {
	case len(s.RepoTags) > 0:
		return s.RepoTags[0]
	case len(s.RepoDigests) > 0:
		return s.RepoDigests[0]
	}
	return "~" + string(s.ID)
}

// names decides which of an image's references are listed, and whether the image is.
func (f Filter) names(s *Summary, refs ImageRefs, hasChildren bool) (bool, error) {
	if f.dangling == yes && (len(refs.Tags) > 0 || hasChildren) {
		return false, nil
	}
	var err error
	if s.RepoTags, err = f.matching(refs.Tags); err != nil {
		return false, err
	}
	if s.RepoDigests, err = f.matching(refs.Digests); err != nil {
		return false, err
	}
	if len(s.RepoTags)+len(s.RepoDigests) > 0 {
		return true, nil
	}
	return f.dangling != no && len(f.references) == 0 && (f.All || !hasChildren), nil
}

// matching returns the references that match one of the patterns.
func (f Filter) matching(refs []string) ([]string, error) {
	if len(f.references) == 0 {
		return refs, nil
	}
	var out []string
	for _, r := range refs {
		n, err := reference.ParseNormalizedNamed(r)
		if err != nil {
			continue
		}
		for _, p := range f.references {
			ok, err := reference.FamiliarMatch(p, n)
			if err != nil {
				return nil, filter.BadPattern("reference", p)
			}
			if ok {
				out = append(out, r)
				break
			}
		}
	}
	return out, nil
}
