package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"imagefs/store"
)

// namesShown is how many names an error lists.
const namesShown = 5

// adviseImages adds to an error about images that a user named what there is
// instead, where that is near: other tags of the repository. err comes back as
// it is if it is about something else.
func adviseImages(ctx context.Context, st store.Store, images []string, err error) error {
	if !errors.Is(err, store.ErrNotFound) {
		return err
	}
	names, nerr := st.Names(ctx)
	if nerr != nil {
		return err
	}
	for _, image := range images {
		ref, rerr := store.FamiliarTag(image)
		if rerr != nil || names.Tags[ref] != "" {
			continue
		}
		if _, _, rerr := store.Resolve(ctx, st, image); !errors.Is(rerr, store.ErrNotFound) {
			continue
		}
		repo := ref[:strings.LastIndexByte(ref, ':')+1]
		var near []string
		for n := range names.Tags {
			if strings.HasPrefix(n, repo) {
				near = append(near, n)
			}
		}
		if len(near) > 0 {
			return advised{err, "there is " + listed(near)}
		}
		return err
	}
	return err
}

// adviseRemoval adds to an error about an ID that several repositories have the names that keep it.
func adviseRemoval(ctx context.Context, st store.Store, image string, err error) error {
	if !errors.Is(err, store.ErrBusy) {
		return adviseImages(ctx, st, []string{image}, err)
	}
	id, ref, rerr := store.Resolve(ctx, st, image)
	names, nerr := st.Names(ctx)
	if rerr != nil || nerr != nil || ref != "" {
		return err
	}
	var own []string
	repos := map[string]bool{}
	for n, of := range names.Tags {
		if of == id {
			own = append(own, n)
			repos[n[:strings.LastIndexByte(n, ':')]] = true
		}
	}
	if len(repos) < 2 {
		return err
	}
	return advised{err, fmt.Sprintf("its %d names are %s: use -f, or remove these first", len(own), listed(own))}
}

// listed is a list of names, cut where it is long.
func listed(names []string) string {
	slices.Sort(names)
	if n := len(names) - namesShown; n > 0 {
		return strings.Join(names[:namesShown], ", ") + fmt.Sprintf(" and %d more", n)
	}
	return strings.Join(names, ", ")
}
