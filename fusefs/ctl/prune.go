package ctl

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"imagefs/store"
	"imagefs/store/prune"
)

// Pruned is what a prune did beside removing names and images.
type Pruned struct {
	DryRun    bool     `json:"dry_run,omitempty"` // it is what would be done
	Reclaimed int64    `json:"reclaimed"`         // bytes
	Skipped   []string `json:"skipped,omitempty"` // what had to stay, and why
}

// Prune handles words in any order: "dangling" or "all", "dry-run", and the
// conditions "label=…", "label!=…" and "until=…"; one with blanks is quoted.
func (c *Ctl) Prune(ctx context.Context, uid uint32, cmd []byte) error {
	return c.command(uid, "prune", cmd, func(s string) (r Result, err error) {
		o, err := pruneOptions(s)
		if err != nil {
			return r, err
		}
		o.InUse = c.o.InUse
		done, err := prune.Run(ctx, c.st, o)
		r.Pruned = &Pruned{DryRun: o.DryRun, Reclaimed: done.Reclaimed}
		for _, step := range done.Removed {
			r.Tags = append(r.Tags, step.Untagged...)
			r.Deleted = append(r.Deleted, step.Deleted...)
		}
		for _, p := range done.Skipped {
			r.Pruned.Skipped = append(r.Pruned.Skipped, p.Image+": "+sentence(p.Err))
		}
		for _, p := range done.Failed {
			err = errors.Join(err, fmt.Errorf("%s: %w", p.Image, p.Err))
		}
		return r, err
	})
}

func pruneOptions(s string) (o prune.Options, err error) {
	list, err := words(s)
	if err != nil {
		return o, err
	}
	if len(list) == 0 {
		return o, fmt.Errorf("want dangling or all: %w", store.ErrInvalid)
	}
	dangling := false
	for _, w := range list {
		switch {
		case w == "dangling":
			dangling = true
		case w == "all":
			o.All = true
		case w == "dry-run":
			o.DryRun = true
		case strings.Contains(w, "="):
			if err := o.Add(w); err != nil {
				return o, err
			}
		default:
			return o, fmt.Errorf("%.200q is none of dangling, all, dry-run, label=…, label!=…, until=…: %w", w, store.ErrInvalid)
		}
	}
	if dangling && o.All {
		return o, fmt.Errorf("dangling and all: want one of them: %w", store.ErrInvalid)
	}
	return o, nil
}
