package main

import (
	"context"

	"github.com/spf13/cobra"

	"imagefs/store"
	"imagefs/store/report"
)

func newHistoryCommand(a *app) *cobra.Command {
	var o report.HistoryOptions
	cmd := &cobra.Command{
		Use:   "history IMAGE",
		Short: "Show how an image was built",
		Long: `Show the history of an image, newest step first, as docker history does.

Fields for --format: .ID .CreatedSince .CreatedAt .CreatedBy .Size .Comment`,
		Example: `  imagefs history nginx:1.25
  imagefs history --no-trunc nginx:1.25
  imagefs history --format '{{.Size}} {{.CreatedBy}}' nginx:1.25`,
		Args:              wants(1, 1),
		ValidArgsFunction: a.completeImages(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runHistory(cmd.Context(), a, args[0], o)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&o.Human, "human", "H", true, "sizes and times in words")
	f.BoolVarP(&o.Quiet, "quiet", "q", false, "only image IDs")
	f.BoolVar(&o.NoTrunc, "no-trunc", false, "do not cut what is long")
	f.StringVar(&o.Format, "format", "", "'table', 'table `TEMPLATE`', 'json', or a Go template")
	return cmd
}

func runHistory(ctx context.Context, a *app, image string, o report.HistoryOptions) error {
	st, err := a.openStore(openOptions{})
	if err != nil {
		return during("history", err)
	}
	defer st.Close()
	img, refs, err := find(ctx, st, image)
	if err != nil {
		return during("history", err)
	}
	if img.RawConfig() == nil {
		return during("history", img.Err())
	}
	if err := report.WriteHistory(a.out, report.History(ctx, st, img, refs), o); err != nil {
		return during("history", err)
	}
	return nil
}

// find returns the image that a user means, and the references of all.
func find(ctx context.Context, st store.Store, image string) (store.Image, report.Refs, error) {
	id, _, err := store.Resolve(ctx, st, image)
	if err != nil {
		return nil, nil, adviseImages(ctx, st, []string{image}, err)
	}
	names, err := st.Names(ctx)
	if err != nil {
		return nil, nil, err
	}
	img, err := st.Image(ctx, id)
	if err != nil {
		return nil, nil, err
	}
	return img, report.NewRefs(names), nil
}
