package report

import (
	"cmp"
	"slices"

	digest "github.com/opencontainers/go-digest"

	"imagefs/store"
)

// ImageRefs are the references of one image, familiar ones, in Docker's order.
type ImageRefs struct{ Tags, Digests []string }

// Refs are the references of all images that have any. Immutable.
type Refs map[digest.Digest]ImageRefs

// NewRefs turns the names of a store around. Docker's order is that of the
// full names: "nginx", which is docker.io/library/nginx, goes before "ghcr.io/x".
func NewRefs(n store.Names) Refs {
	out := Refs{}
	for _, r := range ordered(n.Tags) {
		e := out[n.Tags[r]]
		e.Tags = append(e.Tags, r)
		out[n.Tags[r]] = e
	}
	for _, r := range ordered(n.Digests) {
		e := out[n.Digests[r]]
		e.Digests = append(e.Digests, r)
		out[n.Digests[r]] = e
	}
	return out
}

func ordered(m map[string]digest.Digest) []string {
	type ref struct{ familiar, full string }
	refs := make([]ref, 0, len(m))
	for r := range m {
		e := ref{r, r}
		if full, ok := store.Canonical(r); ok {
			e.full = full
		}
		refs = append(refs, e)
	}
	slices.SortFunc(refs, func(a, b ref) int {
		return cmp.Or(cmp.Compare(a.full, b.full), cmp.Compare(a.familiar, b.familiar))
	})
	out := make([]string, len(refs))
	for i, r := range refs {
		out[i] = r.familiar
	}
	return out
}

// Size is the size of an image in bytes: the sum over its layers. -1 if the
// store does not know one of them, or the image is not whole.
func Size(img store.Image) int64 {
	if img.RawConfig() == nil {
		return -1
	}
	var sum int64
	for _, l := range img.Layers() {
		n := l.Size()
		if n < 0 || sum+n < sum {
			return -1
		}
		sum += n
	}
	return sum
}
