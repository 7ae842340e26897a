package ctl

import (
	"context"
	"fmt"
	"slices"

	digest "github.com/opencontainers/go-digest"

	"imagefs/store"
)

// File operations on names are commands too: they change the store, and their
// results are told, in the same way. part is the name of one of several stores
// whose names are meant, "" for those of all; args is what failures are listed
// with, of any length and not always one line.

// within returns the store whose names an operation changes.
func (c *Ctl) within(part string) (store.Store, error) {
	if part == "" {
		return c.st, nil
	}
	if p, ok := c.st.(store.Parter); ok {
		for _, p := range p.Parts() {
			if p.Name != part {
				continue
			}
			if p.Fixed != "" {
				return nil, fmt.Errorf("the store %s at %s is only read; %s: %w", p.Name, p.Path, p.Fixed, store.ErrReadOnly)
			}
			return p.Store, nil
		}
	}
	return nil, fmt.Errorf("there is no store %s: %w", part, store.ErrNotFound)
}

// able returns an ability of the store whose names an operation changes.
func able[T any](c *Ctl, part, do string) (T, error) {
	st, err := c.within(part)
	if err != nil {
		var none T
		return none, err
	}
	t, ok := st.(T)
	if !ok {
		return t, store.Cannot(st, do)
	}
	return t, nil
}

// Link gives the image that find finds in a store a name that is not taken.
func (c *Ctl) Link(ctx context.Context, uid uint32, part, args, ref string, find func(store.Store) (digest.Digest, error)) error {
	return c.run(uid, "tag", args, func() (r Result, err error) {
		t, err := able[store.Tagger](c, part, "name images")
		if err != nil {
			return r, err
		}
		st, err := c.within(part)
		if err != nil {
			return r, err
		}
		id, err := find(st)
		if err != nil {
			return r, err
		}
		// Of two at once, one is the first.
		c.naming.Lock()
		defer c.naming.Unlock()
		names, err := st.Names(ctx)
		if err != nil {
			return r, err
		}
		if _, taken := names.Tags[ref]; taken {
			return r, fmt.Errorf("%s is there already; ln -sfn changes it: %w", ref, store.ErrExists)
		}
		return Result{ID: id, Tags: []string{ref}}, t.Tag(ctx, ref, id)
	})
}

// Untag takes a name of an image away, and never the image.
func (c *Ctl) Untag(ctx context.Context, uid uint32, part, args, ref string, id digest.Digest) error {
	return c.run(uid, "untag", args, func() (r Result, err error) {
		t, err := able[store.Tagger](c, part, "remove names")
		if err != nil {
			return r, err
		}
		return Result{ID: id, Tags: []string{ref}}, t.Untag(ctx, ref)
	})
}

// Rename moves names, the first of them that of image id, in one step. moved is
// called when it is done, before anybody is told.
func (c *Ctl) Rename(ctx context.Context, uid uint32, part, args string, moves map[string]string, id digest.Digest, moved func()) error {
	return c.run(uid, "rename", args, func() (r Result, err error) {
		t, err := able[store.Renamer](c, part, "rename images")
		if err != nil {
			return r, err
		}
		r.ID = id
		for _, to := range moves {
			r.Tags = append(r.Tags, to)
		}
		slices.Sort(r.Tags)
		if err := t.Rename(ctx, moves); err != nil {
			return r, err
		}
		moved()
		return r, nil
	})
}

// Directory makes or removes a directory for names, which are no store's matter:
// do does it.
func (c *Ctl) Directory(uid uint32, part, op, args string, do func() error) error {
	return c.run(uid, op, args, func() (r Result, err error) {
		if _, err := able[store.Tagger](c, part, "name images"); err != nil {
			return r, err
		}
		st, err := c.within(part)
		if err == nil {
			err = store.Unable(st) // who names images finds out
		}
		if err != nil {
			return r, err
		}
		return r, do()
	})
}

// Refuse tells of an operation that cannot be meant, and returns err.
func (c *Ctl) Refuse(uid uint32, op, args string, err error) error {
	return c.run(uid, op, args, func() (Result, error) { return Result{}, err })
}
