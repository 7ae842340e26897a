package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"imagefs/store"
)

type rmiOptions struct{ force bool }

func newRmiCommand(a *app) *cobra.Command {
	var o rmiOptions
	cmd := &cobra.Command{
		Use:   "rmi IMAGE...",
		Short: "Remove names of images, and images with their last name",
		Long: `Remove images, as docker rmi does. A name is taken away; the image and the layers
that no other image shares are deleted with its last name. An ID deletes the
image; if it has names in several repositories, that needs -f.

An error with one IMAGE does not keep the others; the exit code is 1 then. With
-f an IMAGE that is not there is no failure.`,
		Example: `  imagefs rmi nginx:1.24
  imagefs rmi -f a01a7a1e2a59
  imagefs rmi $(imagefs images -q --filter dangling=true)`,
		Args:              wants(1, -1),
		ValidArgsFunction: a.completeImages(-1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runRmi(cmd.Context(), a, o, args)
		},
	}
	cmd.Flags().BoolVarP(&o.force, "force", "f", false, "also images that have names in several repositories")
	return cmd
}

func runRmi(ctx context.Context, a *app, o rmiOptions, images []string) error {
	st, err := a.openStore(openOptions{})
	if err != nil {
		return during("rmi", err)
	}
	defer st.Close()
	rm, ok := st.(store.Remover)
	if !ok {
		return during("rmi", store.Cannot(st, "remove images"))
	}
	var result error
	for _, image := range images {
		gone, err := rm.Remove(ctx, image, o.force)
		for _, ref := range gone.Untagged {
			a.printf("Untagged: %s\n", ref)
		}
		for _, id := range gone.Deleted {
			a.printf("Deleted: %s\n", id)
		}
		switch {
		case ctx.Err() != nil:
			return during("rmi", ctx.Err())
		case err == nil:
			continue
		case !o.force || !errors.Is(err, store.ErrNotFound):
			result = failed
		}
		a.complain("rmi", adviseRemoval(ctx, st, image, err))
	}
	return result
}
