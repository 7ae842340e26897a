package main

import (
	"bufio"
	"context"
	"errors"
	"io"
	"strings"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"imagefs/store"
	"imagefs/store/prune"
)

type pruneOptions struct {
	all     bool
	force   bool
	dryRun  bool
	filters []string
}

func newPruneCommand(a *app) *cobra.Command {
	var o pruneOptions
	cmd := &cobra.Command{
		Use:   "prune",
		Short: "Remove images that nobody needs",
		Long: `Remove dangling images, as docker image prune does: those that have no tag and
that no other image was built on. With -a every image goes that no container
uses, with all its names. The layers that no other image shares go with them.

It asks first, unless -f says not to; the answer is read from standard input.
--dry-run says what would go and changes nothing. Images that must stay,
because a container uses them, are told of on standard error; that is no
failure. What was removed before an interruption stays removed.

Of several stores, each that can be changed is pruned by itself.

Filters: ` + prune.Filters + `
label!= keeps images with that label; until chooses those that were created
before a time (2006-01-02T15:04:05, or seconds since 1970) or longer ago than a
duration (24h).`,
		Example: `  imagefs prune
  imagefs prune -a --dry-run
  imagefs prune -af --filter until=240h --filter label!=keep`,
		Args:              wants(0, 0),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			return runPrune(cmd.Context(), a, o)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&o.all, "all", "a", false, "all images that no container uses, not only dangling ones")
	f.BoolVarP(&o.force, "force", "f", false, "do not ask")
	f.BoolVar(&o.dryRun, "dry-run", false, "only say what would go")
	f.StringArrayVar(&o.filters, "filter", nil, "only images for which `NAME=VALUE` holds")
	return cmd
}

func runPrune(ctx context.Context, a *app, o pruneOptions) error {
	p := prune.Options{Filter: prune.Filter{All: o.all}, DryRun: o.dryRun}
	for _, c := range o.filters {
		if err := p.Add(c); err != nil {
			return usagef("prune: %w", err)
		}
	}
	st, err := a.openStore(openOptions{})
	if named, _ := a.named(); errors.Is(err, store.ErrNotFound) && len(named) == 0 {
		a.complain("prune", err)
		return nil
	}
	if err != nil {
		return during("prune", err)
	}
	defer st.Close()
	if !o.force && !o.dryRun {
		if err := prune.Able(st); err != nil {
			return during("prune", err) // before anybody has to think about it
		}
		if yes, err := a.confirm(ctx, pruneWarning(o.all)); err != nil || !yes {
			return during("prune", err) // a no is no error, as with Docker
		}
	}
	bar := newProgress(a, false)
	defer bar.done()
	p.Progress = func(done, of int) { bar.count("prune", done, of) }
	r, err := prune.Run(ctx, st, p)
	bar.done()
	a.pruned(r, o.dryRun)
	switch {
	case errors.Is(err, store.ErrInvalid):
		return usagef("prune: %w", err)
	case errors.Is(err, context.Canceled):
		return advised{during("prune", err), "what was removed before stays removed"}
	case err != nil:
		return during("prune", err)
	case len(r.Failed) > 0:
		return failed
	}
	return nil
}

func pruneWarning(all bool) string {
	what := "all dangling images"
	if all {
		what = "all images without at least one container associated to them"
	}
	return "WARNING! This will remove " + what + ".\nAre you sure you want to continue?"
}

// confirm asks a question, on standard output as Docker does, and tells whether
// a line of standard input says yes to it.
func (a *app) confirm(ctx context.Context, question string) (bool, error) {
	a.printf("%s [y/N] ", question)
	a.flush()
	answer := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(io.LimitReader(a.in, 1024)).ReadString('\n')
		answer <- line
	}()
	select {
	case line := <-answer:
		return strings.EqualFold(strings.TrimSpace(line), "y"), nil
	case <-ctx.Done():
		a.printf("\n")
		return false, ctx.Err()
	}
}

// pruned prints what a prune did, or would do, as Docker does.
func (a *app) pruned(r prune.Result, dryRun bool) {
	title, total := "Deleted Images:", "Total reclaimed space:"
	if dryRun {
		title, total = "Images that would be deleted:", "Total space that would be reclaimed:"
	}
	if len(r.Removed) > 0 {
		a.printf("%s\n", title)
		for _, step := range r.Removed {
			for _, ref := range step.Untagged {
				a.printf("untagged: %s\n", ref)
			}
			for _, id := range step.Deleted {
				a.printf("deleted: %s\n", id)
			}
		}
		a.printf("\n")
	}
	a.printf("%s %s\n", total, units.HumanSize(float64(r.Reclaimed)))
	for _, p := range r.Skipped {
		a.complain("prune: "+p.Image+" stays", p.Err)
	}
	for _, p := range r.Failed {
		a.complain("prune: "+p.Image, p.Err)
	}
}
