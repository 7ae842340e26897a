package prune

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	digest "github.com/opencontainers/go-digest"

	"imagefs/store"
)

// Options of Run.
type Options struct {
	Filter
	DryRun bool // only tell what would go
	// InUse tells why an image must stay although the store could remove it, nil if nothing forbids it; may be nil.
	InUse func(ctx context.Context, refOrID string) error
	// Progress, if not nil, is told how many of the images that may go are done.
	Progress func(done, of int)
}

// Result is what a prune did, or would do, in the order in which it was done.
type Result struct {
	Removed   []store.Removed
	Reclaimed int64     // bytes of the layers that were deleted
	Skipped   []Problem // images that have to stay
	Failed    []Problem // images that could not be removed
}

// Problem is why an image is still there.
type Problem struct {
	Image string // a reference or an ID
	Err   error
}

// Run prunes a store, or each of the stores it is made of that can be changed.
// When ctx ends, what was done stays done and is in the result. Errors: those
// of a store that cannot be changed (store.ErrReadOnly, store.ErrUnsupported)
// or read, store.ErrInvalid for filters that contradict each other. What goes
// wrong with one image is in the result only.
func Run(ctx context.Context, st store.Store, o Options) (Result, error) {
	var r Result
	if err := o.check(); err != nil {
		return r, err
	}
	parts, err := able(st)
	if err != nil {
		return r, err
	}
	for _, p := range parts {
		if err := o.one(ctx, p, &r); err != nil {
			return r, err
		}
	}
	return r, nil
}

// remover is a store that can be pruned.
type remover interface {
	store.Store
	store.Remover
}

// Able returns why a store cannot be pruned, nil if it is worth trying.
func Able(st store.Store) error {
	_, err := able(st)
	return err
}

// able returns the stores that can be pruned, or why none can.
func able(st store.Store) ([]remover, error) {
	parts := []store.Part{{Store: st}}
	if p, ok := st.(store.Parter); ok {
		parts = p.Parts()
	}
	var out []remover
	var why error
	for _, part := range parts {
		r, ok := part.Store.(remover)
		if !ok {
			continue
		}
		var err error
		if part.Fixed != "" {
			err = fmt.Errorf("the store %s at %s is only read; %s: %w", part.Name, part.Path, part.Fixed, store.ErrReadOnly)
		} else {
			err = store.Unable(part.Store)
		}
		if err == nil {
			out = append(out, r)
		} else if why == nil {
			why = err
		}
	}
	switch {
	case len(out) > 0:
		return out, nil
	case why == nil:
		why = store.Cannot(st, "remove images")
	}
	return nil, why
}

// candidate is an image that may go.
type candidate struct {
	id      digest.Digest
	refs    []string // one by one; the ID if there are none
	created time.Time
}

// one prunes one store.
func (o *Options) one(ctx context.Context, st remover, r *Result) error {
	s, err := survey(ctx, st)
	if err != nil {
		return err
	}
	list := s.candidates(&o.Filter, r)
	if o.DryRun {
		p, ok := st.(store.Previewer)
		if !ok {
			return store.Cannot(st, "tell what a removal would do")
		}
		list = slices.DeleteFunc(list, func(c candidate) bool { return o.busy(ctx, c, r) })
		return r.all(ctx, s, list, p.Preview)
	}
	size := 1
	bulk, ok := st.(store.BulkRemover)
	if ok && o.InUse == nil {
		size = batch // nobody need be asked between two images
	}
	for n := 0; n < len(list); {
		if err := ctx.Err(); err != nil {
			return err
		}
		some := list[n:min(n+size, len(list))]
		n += len(some)
		switch {
		case size > 1:
			err = r.all(ctx, s, some, bulk.RemoveEach)
		case !o.busy(ctx, some[0], r):
			err = r.remove(ctx, st, s, some[0])
		}
		if err != nil {
			return err
		}
		if o.Progress != nil {
			o.Progress(n, len(list))
		}
	}
	return nil
}

// batch is how many images are removed in one step where that can be.
const batch = 32

// busy tells whether something else than the store keeps an image.
func (o *Options) busy(ctx context.Context, c candidate, r *Result) bool {
	if o.InUse == nil {
		return false
	}
	err := o.InUse(ctx, string(c.id))
	if errors.Is(err, store.ErrBusy) {
		r.Skipped = append(r.Skipped, Problem{c.refs[0], err})
		return true
	}
	return false // anything else the store will tell itself
}

func (r *Result) remove(ctx context.Context, st remover, s *state, c candidate) error {
	for _, ref := range c.refs {
		if err := ctx.Err(); err != nil {
			return err
		}
		is, err := c.is(ctx, st, ref)
		if err != nil {
			return err
		}
		if !is {
			continue
		}
		done, err := st.Remove(ctx, ref, false)
		if err := r.add(ctx, s, ref, done, err); err != nil {
			return err
		}
	}
	return nil
}

// is tells whether a reference is still the candidate's, or with its ID, whether
// it still has no name: another process may have tagged since the survey.
func (c candidate) is(ctx context.Context, st store.Store, ref string) (bool, error) {
	names, err := st.Names(ctx)
	if err != nil {
		return false, err
	}
	return store.Removal{Ref: ref, Still: c.id}.Foreseen(names) == nil, nil
}

// all does something with all references of candidates: removes them, or tells what that would do.
func (r *Result) all(ctx context.Context, s *state, list []candidate, do func(context.Context, ...store.Removal) ([]store.Removed, []error, error)) error {
	var what []store.Removal
	for _, c := range list {
		for _, ref := range c.refs {
			what = append(what, store.Removal{Ref: ref, Still: c.id})
		}
	}
	removed, errs, err := do(ctx, what...)
	for i := range removed {
		if err := r.add(ctx, s, what[i].Ref, removed[i], errs[i]); err != nil {
			return err
		}
	}
	return err
}

// add notes what became of a removal. The error is one that ends the prune.
func (r *Result) add(ctx context.Context, s *state, ref string, done store.Removed, err error) error {
	if len(done.Untagged)+len(done.Deleted) > 0 {
		r.Removed = append(r.Removed, done)
	}
	for _, id := range done.Deleted {
		r.Reclaimed += s.sizes[id]
		delete(s.sizes, id)
	}
	switch {
	case err == nil, errors.Is(err, store.ErrNotFound): // it went with another, or by another hand
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, store.ErrReadOnly):
		return err
	case errors.Is(err, store.ErrBusy), errors.Is(err, store.ErrUnsupported): // of this image: the store was asked before
		r.Skipped = append(r.Skipped, Problem{ref, err})
	default:
		r.Failed = append(r.Failed, Problem{ref, err})
	}
	return nil
}

// state is a store before it is pruned.
type state struct {
	images   []store.Image
	refs     map[digest.Digest][]string
	tagged   map[digest.Digest]bool
	children map[digest.Digest]bool  // images that others were built on
	sizes    map[digest.Digest]int64 // chain ID → bytes
}

func survey(ctx context.Context, st store.Store) (*state, error) {
	names, err := st.Names(ctx)
	if err != nil {
		return nil, err
	}
	ids, err := st.IDs(ctx)
	if err != nil {
		return nil, err
	}
	s := &state{refs: map[digest.Digest][]string{}, tagged: map[digest.Digest]bool{}, children: map[digest.Digest]bool{}, sizes: map[digest.Digest]int64{}}
	for ref, id := range names.Tags {
		s.refs[id] = append(s.refs[id], ref)
		s.tagged[id] = true
	}
	for ref, id := range names.Digests {
		s.refs[id] = append(s.refs[id], ref)
	}
	for _, refs := range s.refs {
		sortRefs(refs)
	}
	for _, id := range ids {
		img, err := st.Image(ctx, id)
		if err != nil {
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			continue // removed since the IDs were read
		}
		s.images = append(s.images, img)
		s.children[img.Parent()] = true
		for _, l := range img.Layers() {
			s.sizes[l.ChainID()] = max(l.Size(), 0)
		}
	}
	return s, nil
}

// sortRefs brings references into Docker's order, that of the full names.
func sortRefs(refs []string) {
	full := map[string]string{}
	for _, r := range refs {
		full[r] = r
		if c, ok := store.Canonical(r); ok {
			full[r] = c
		}
	}
	slices.SortFunc(refs, func(a, b string) int { return cmp.Compare(full[a], full[b]) })
}

// candidates returns the images that may go, newest first. Broken ones that
// would are put down as skipped.
func (s *state) candidates(f *Filter, r *Result) []candidate {
	var out []candidate
	for _, img := range s.images {
		id := img.ID()
		refs := s.refs[id]
		if s.children[id] && (!f.All || len(refs) == 0) || s.tagged[id] && !f.All {
			continue
		}
		if len(refs) == 0 {
			refs = []string{string(id)}
		}
		if !f.match(img) {
			continue
		}
		if err := img.Err(); err != nil {
			r.Skipped = append(r.Skipped, Problem{refs[0], err})
			continue
		}
		out = append(out, candidate{id, refs, img.Config().Created})
	}
	slices.SortStableFunc(out, func(a, b candidate) int { return b.created.Compare(a.created) })
	return out
}
