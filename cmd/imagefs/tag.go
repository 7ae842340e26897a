package main

import (
	"context"

	"github.com/spf13/cobra"

	"imagefs/store"
)

func newTagCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "tag IMAGE NAME",
		Short: "Give an image another name",
		Long: `Give an image another name. IMAGE is a name, a digest reference, or an image ID
or a unique beginning of one. A NAME that another image has is taken from it.
Where a tag is left out, it is "latest".`,
		Example: `  imagefs tag nginx:1.25 team/web:live
  imagefs tag a01a7a1e2a59 app`,
		Args:              wants(2, 2),
		ValidArgsFunction: a.completeTag(),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runTag(cmd.Context(), a, args[0], args[1])
		},
	}
}

func runTag(ctx context.Context, a *app, source, target string) error {
	ref, err := store.NewTag(target)
	if err != nil {
		return during("tag", err)
	}
	st, err := a.openStore(openOptions{})
	if err != nil {
		return during("tag", err)
	}
	defer st.Close()
	t, ok := st.(store.Tagger)
	if !ok {
		return during("tag", store.Cannot(st, "name images"))
	}
	id, _, err := store.Resolve(ctx, st, source)
	if err != nil {
		return during("tag", adviseImages(ctx, st, []string{source}, err))
	}
	if err := t.Tag(ctx, ref, id); err != nil {
		return during("tag", err)
	}
	return nil
}
