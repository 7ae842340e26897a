package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"imagefs/store"
	"imagefs/store/report"
)

type imagesOptions struct {
	report.ImagesOptions
	all     bool
	filters []string
}

func newImagesCommand(a *app) *cobra.Command {
	var o imagesOptions
	cmd := &cobra.Command{
		Use:     "images [REPOSITORY[:TAG]]",
		Aliases: []string{"list"},
		Short:   "List images",
		Long: `List the images of the store, newest first, as docker images does. With a
REPOSITORY or REPOSITORY:TAG, in which * ? and [ ] match as in a shell, only
those with such a name.

Filters: ` + report.Filters + `

until chooses images created before a time, or longer ago than a duration.

Fields for --format: .ID .Repository .Tag .Digest .CreatedSince .CreatedAt .Size,
Docker's others, and .Store: of several stores, those that have the image`,
		Example: `  imagefs images
  imagefs images 'team/*'
  imagefs images -q --filter dangling=true
  imagefs images --filter since=nginx:1.24 --filter label=maintainer
  imagefs images --format '{{.Repository}}:{{.Tag}} {{.Size}}'
  imagefs images --format json`,
		Args:              wants(0, 1),
		ValidArgsFunction: a.completeImages(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, arg := range args {
				o.filters = append(o.filters, "reference="+arg)
			}
			return runImages(cmd.Context(), a, o)
		},
	}
	cmd.Flags().BoolVarP(&o.all, "all", "a", false, "also images without a name that others were built on")
	imageFlags(cmd.Flags(), &o)
	return cmd
}

// imageFlags are those of every command that lists images, but for --all.
func imageFlags(f *pflag.FlagSet, o *imagesOptions) {
	f.BoolVarP(&o.Quiet, "quiet", "q", false, "only image IDs")
	f.BoolVar(&o.NoTrunc, "no-trunc", false, "do not cut IDs")
	f.BoolVar(&o.Digests, "digests", false, "also digests")
	f.StringArrayVarP(&o.filters, "filter", "f", nil, "only images for which `NAME=VALUE` holds")
	f.StringVar(&o.Format, "format", "", "'table', 'table `TEMPLATE`', 'json', or a Go template")
}

func runImages(ctx context.Context, a *app, o imagesOptions) error {
	filter := report.Filter{All: o.all}
	for _, c := range o.filters {
		if err := filter.Add(c); err != nil {
			return usagef("images: %w", err)
		}
	}
	list, err := a.listImages(ctx, filter)
	if err != nil {
		return during("images", err)
	}
	if err := report.WriteImages(a.out, list, o.ImagesOptions); err != nil {
		return during("images", err)
	}
	for _, s := range list {
		if s.Err != nil {
			a.complain("images", advised{s.Err, "see 'imagefs check'"})
		}
	}
	return nil
}

// listImages lists the store's images. A default store that nobody has made
// yet has none, which is not an error, as a new Docker has none.
func (a *app) listImages(ctx context.Context, filter report.Filter) ([]report.Summary, error) {
	st, err := a.openStore(openOptions{})
	if named, _ := a.named(); errors.Is(err, store.ErrNotFound) && len(named) == 0 {
		a.complain("images", err)
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer st.Close()
	return report.Images(ctx, st, filter)
}
