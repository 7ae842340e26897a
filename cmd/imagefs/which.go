package main

import (
	"context"
	"path/filepath"

	"github.com/spf13/cobra"

	"imagefs/store/report"
	"imagefs/store/rootfs"
)

type whichOptions struct {
	follow  bool
	format  string
	noTrunc bool
}

func newWhichCommand(a *app) *cobra.Command {
	var o whichOptions
	cmd := &cobra.Command{
		Use:   "which IMAGE PATH",
		Short: "Tell which layer a path of an image is from, and what wrote it",
		Long: `Tell what each layer of an image did to a path, the lowest first: the number of
the layer, its diff ID, and the command that made it. The last line is what the
image has; if that says deleted, the image does not have the path, but lower
layers do.

  added
  changed   and what: type, content, mode, owner, time, xattr, link; and of a
            file if its content is the same: it was only touched, or copied up
            to change something else, or written again as it was
  deleted   and by what: a whiteout, an opaque directory above it, or something
            else that replaced a directory above it

Symbolic links on the way are followed inside the image, as it is or as the
highest layer had it that has the path. The exit code is 1 if no layer ever had
it. In a mounted tree, getfattr -n user.imagefs.layer tells the layer, and
layers/N/ is what it has.

Fields for --format: .Path .Layer .Change .What .Content (same, changed or
unknown) .Type .Mode .Owner .Size .ModTime .Target .DiffID .CreatedBy`,
		Example: `  imagefs which nginx:1.25 /etc/nginx/nginx.conf
  imagefs which --no-trunc nginx:1.25 /usr/sbin/nginx
  imagefs which -L debian:12 /bin/sh
  imagefs which --format '{{.Layer}} {{.CreatedBy}}' app:1 /srv/key.pem | tail -1`,
		Args:              wants(2, 2),
		ValidArgsFunction: a.completePaths(false),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runWhich(cmd.Context(), a, o, args[0], args[1])
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&o.follow, "dereference", "L", false, "if PATH is a symbolic link, of what it leads to")
	f.BoolVar(&o.noTrunc, "no-trunc", false, "do not cut what is long")
	f.StringVar(&o.format, "format", "", "'table', 'table `TEMPLATE`', 'json', or a Go template")
	return cmd
}

func runWhich(ctx context.Context, a *app, o whichOptions, image, path string) error {
	st, err := a.openStore(openOptions{})
	if err != nil {
		return during("which", err)
	}
	defer st.Close()
	img, _, err := find(ctx, st, image)
	if err != nil {
		return during("which", err)
	}
	t, err := rootfs.Which(ctx, img, path, o.follow)
	if err != nil {
		return during("which", pathFirst(path, err))
	}
	if o.format == "" && t.Path != filepath.Clean("/"+path) {
		a.tell("which: %s is %s", report.Printable(path), report.Printable(t.Path))
	}
	return during("which", writeWhich(a.out, t, o))
}
