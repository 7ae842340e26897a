package main

import (
	"context"

	"github.com/spf13/cobra"

	"imagefs/store/report"
)

type inspectOptions struct {
	format string
	kind   string
}

func newInspectCommand(a *app) *cobra.Command {
	var o inspectOptions
	cmd := &cobra.Command{
		Use:   "inspect IMAGE...",
		Short: "Show everything that is known of images, as JSON",
		Long: `Show what docker image inspect shows: an array with one object an image, or what
a Go template makes of each. An error with one IMAGE does not keep the others; the
exit code is 1 then.`,
		Example: `  imagefs inspect nginx:1.25
  imagefs inspect -f '{{json .Config.Env}}' nginx:1.25
  imagefs inspect -f '{{.Architecture}} {{join .RepoTags ","}}' nginx:1.24 nginx:1.25
  imagefs inspect --format json nginx:1.25 | jq '.[].RootFS.Layers'`,
		Args:              wants(1, -1),
		ValidArgsFunction: a.completeImages(-1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.kind != "image" {
				return usagef("inspect: --type %.40s: imagefs has images only", o.kind)
			}
			return runInspect(cmd.Context(), a, o, args)
		},
	}
	cmd.Flags().StringVar(&o.kind, "type", "image", "what to look for; there are images only")
	cmd.Flags().BoolP("size", "s", false, "the size of containers, of which there are none")
	_ = cmd.Flags().MarkHidden("type")
	_ = cmd.Flags().MarkHidden("size")
	cmd.Flags().StringVarP(&o.format, "format", "f", "", "'json' for one line, or a Go `TEMPLATE`")
	return cmd
}

func runInspect(ctx context.Context, a *app, o inspectOptions, images []string) error {
	st, err := a.openStore(openOptions{})
	if err != nil {
		return during("inspect", err)
	}
	defer st.Close()
	var all []report.Inspection
	var bad []error
	for _, image := range images {
		img, refs, err := find(ctx, st, image)
		if err == nil && img.RawConfig() == nil {
			err = img.Err()
		}
		if err != nil {
			bad = append(bad, err)
			continue
		}
		all = append(all, report.Inspect(img, refs))
	}
	if err := report.WriteInspect(a.out, all, o.format); err != nil {
		return during("inspect", err)
	}
	for _, err := range bad {
		a.complain("inspect", err)
	}
	if len(bad) > 0 {
		return failed
	}
	return nil
}
