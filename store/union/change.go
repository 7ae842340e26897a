package union

import (
	"context"
	"errors"
	"fmt"
	"slices"

	digest "github.com/opencontainers/go-digest"

	"imagefs/store"
)

// changing is a union of which at least one part can be changed.
type changing struct{ u *Union }

var (
	_ store.Tagger  = changing{}
	_ store.Renamer = changing{}
	_ store.Remover = changing{}
)

// fixed is the error of a part that is only read.
func fixed(p store.Part) error {
	return fmt.Errorf("the store %s at %s is only read; %s: %w", p.Name, p.Path, p.Fixed, store.ErrReadOnly)
}

// cannot is the error of a part whose kind cannot do something.
func cannot(p store.Part, do string) error {
	what := p.Name
	if p.Kind != "" && p.Kind != p.Name {
		what += " (" + p.Kind + ")"
	}
	return fmt.Errorf("the store %s at %s cannot %s; load the image into a store that can be written first: %w", what, p.Path, do, store.ErrUnsupported)
}

// able returns the ability of a part, or why it cannot be used.
func able[T any](p store.Part, do string) (t T, err error) {
	ability, ok := p.Store.(T)
	switch {
	case !ok:
		return t, cannot(p, do)
	case p.Fixed != "":
		return t, fixed(p)
	}
	return ability, nil
}

// Tag implements store.Tagger: the name is made in the first part that has the
// image and can be changed. store.ErrExists if a part that goes before has the
// name already, which would hide the new one.
func (c changing) Tag(ctx context.Context, ref string, id digest.Digest) error {
	parts, err := c.u.holders(ctx, id)
	if err != nil {
		return err
	}
	var why error
	for _, p := range parts {
		t, err := able[store.Tagger](p, "name images")
		if err != nil {
			if why == nil {
				why = err
			}
			continue
		}
		if err = c.hidden(ctx, p, ref); err == nil {
			err = t.Tag(ctx, ref, id)
		} else if unable := store.Unable(p.Store); unable != nil {
			err = unable // and so hides nothing
		}
		if !elsewhere(err) {
			return err
		}
		if why == nil || errors.Is(why, store.ErrUnsupported) {
			why = err
		}
	}
	return why
}

// elsewhere tells whether a part could not do something that another may: it has
// the image, and not as one that it can change.
func elsewhere(err error) bool {
	return errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrUnsupported)
}

// hidden fails if a part that goes before p has the name.
func (c changing) hidden(ctx context.Context, p store.Part, ref string) error {
	for _, q := range c.u.Parts() {
		if q.Name == p.Name {
			return nil
		}
		names, err := q.Store.Names(ctx)
		if err != nil {
			continue // what cannot be read hides nothing
		}
		if _, ok := names.Tags[ref]; ok {
			return fmt.Errorf("the store %s has the name %s and goes before %s, which has the image; remove the name first: %w", q.Name, ref, p.Name, store.ErrExists)
		}
	}
	return nil
}

// named returns the part whose name shows.
func (c changing) named(ctx context.Context, ref string) (store.Part, error) {
	for _, p := range c.u.Parts() {
		names, err := p.Store.Names(ctx)
		if err != nil {
			continue
		}
		if _, ok := names.Tags[ref]; ok {
			return p, nil
		}
		if _, ok := names.Digests[ref]; ok {
			return p, nil
		}
	}
	return store.Part{}, noImage(ref)
}

// Untag implements store.Tagger: in the part whose name shows. The same name of
// a later part shows from then on.
func (c changing) Untag(ctx context.Context, ref string) error {
	p, err := c.named(ctx, ref)
	if err != nil {
		return err
	}
	t, err := able[store.Tagger](p, "remove names")
	if err != nil {
		return err
	}
	return t.Untag(ctx, ref)
}

// Rename implements store.Renamer: in the part whose names show, which must be
// one. As with Tag, no part that goes before it may have a new name already.
func (c changing) Rename(ctx context.Context, moves map[string]string) error {
	var part store.Part
	for from := range moves {
		p, err := c.named(ctx, from)
		if err != nil {
			return err
		}
		if part.Name != "" && part.Name != p.Name {
			return fmt.Errorf("%s is a name of the store %s, and others are of %s: %w", from, p.Name, part.Name, store.ErrInvalid)
		}
		part = p
	}
	if part.Name == "" {
		return nil
	}
	r, err := able[store.Renamer](part, "rename images")
	if err != nil {
		return err
	}
	for _, to := range moves {
		if err := c.hidden(ctx, part, to); err != nil {
			return err
		}
	}
	return r.Rename(ctx, moves)
}

// Remove implements store.Remover: a name in the part whose name shows, an ID
// in the first part that has the image and can be changed.
func (c changing) Remove(ctx context.Context, refOrID string, force bool) (store.Removed, error) {
	id, ref, err := store.Resolve(ctx, c.u, refOrID)
	if err != nil {
		return store.Removed{}, err
	}
	if ref != "" {
		p, err := c.named(ctx, ref)
		if err != nil {
			return store.Removed{}, err
		}
		r, err := able[store.Remover](p, "remove images")
		if err != nil {
			return store.Removed{}, err
		}
		return r.Remove(ctx, ref, force)
	}
	parts, err := c.u.holders(ctx, id)
	if err != nil {
		return store.Removed{}, err
	}
	// An engine's digest is more than the ID, and one part's.
	what := refOrID
	if its := slices.DeleteFunc(slices.Clone(parts), func(p store.Part) bool {
		is, _, err := store.Resolve(ctx, p.Store, refOrID)
		return err != nil || is != id
	}); len(its) > 0 {
		parts = its
	} else {
		what = string(id)
	}
	var why error
	for _, p := range parts {
		r, err := able[store.Remover](p, "remove images")
		if err == nil {
			var out store.Removed
			if out, err = r.Remove(ctx, what, force); !elsewhere(err) {
				return out, err
			}
		}
		if why == nil || errors.Is(why, store.ErrUnsupported) {
			why = err
		}
	}
	return store.Removed{}, why
}

// taking is a union that takes in new images.
type taking struct{ u *Union }

var _ store.Ingester = taking{}

// Ingest implements store.Ingester.
func (t taking) Ingest(ctx context.Context) (store.Ingest, error) {
	in, err := t.u.target()
	if errors.Is(err, store.ErrNotFound) && t.u.o.Make != nil {
		in, err = t.u.make()
	}
	if err != nil {
		return nil, err
	}
	return in.Ingest(ctx)
}

// make makes the part that takes in images, once.
func (u *Union) make() (store.Ingester, error) {
	u.making.Lock()
	defer u.making.Unlock()
	if in, err := u.target(); err == nil {
		return in, nil
	}
	p, err := u.o.Make()
	if err != nil {
		return nil, err
	}
	in, err := able[store.Ingester](p, "take in images")
	if err == nil {
		err = u.add(p)
	}
	if err != nil {
		p.Store.Close()
		return nil, err
	}
	return in, nil
}

// target returns the part that takes in images. ErrNotFound if Into is not
// there, ErrUnsupported if no part can, or several could.
func (u *Union) target() (store.Ingester, error) {
	var can []store.Ingester
	var names string
	var why error
	for _, p := range u.Parts() {
		in, err := able[store.Ingester](p, "take in images")
		if err == nil {
			err = store.Unable(p.Store)
		}
		if u.o.Into == p.Name {
			return in, err
		}
		if err == nil {
			can = append(can, in)
			names += " " + p.Name
		} else if _, kind := p.Store.(store.Ingester); kind && why == nil {
			why = err
		}
	}
	switch {
	case u.o.Into != "" || u.o.Make != nil:
		return nil, fmt.Errorf("no store %s: %w", u.o.Into, store.ErrNotFound)
	case len(can) == 1:
		return can[0], nil
	case len(can) > 1:
		return nil, fmt.Errorf("several stores can take in images:%s; name just one: %w", names, store.ErrUnsupported)
	}
	if why != nil {
		return nil, why
	}
	return nil, store.Cannot(u, "load images")
}
