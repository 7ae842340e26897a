package main

import (
	"bufio"
	"context"
	"io"

	"github.com/spf13/cobra"

	"imagefs/store/archive"
	"imagefs/store/report"
	"imagefs/store/rootfs"
)

type exportOptions struct {
	output string
	quiet  bool
}

func newExportCommand(a *app) *cobra.Command {
	var o exportOptions
	cmd := &cobra.Command{
		Use:   "export [-o FILE] IMAGE",
		Short: "Write an image's root file system as a tar",
		Long: `Write the root file system of an image, all layers merged, as one tar, on
standard output or into a FILE: what docker export writes of a container that was
made of the image and never ran. The same image gives the same bytes.

The tar is in PAX format, with owners as numbers, extended attributes
(SCHILY.xattr), hard links and devices. Unpack it with 'tar --xattrs
--xattrs-include="*" -xpf', as root for owners and devices.`,
		Example: `  imagefs export -o rootfs.tar nginx:1.25
  imagefs export alpine:3.10 | tar t
  imagefs export app:1 | ssh host 'mkdir root && tar -xpf - -C root'`,
		Args:              wants(1, 1),
		ValidArgsFunction: a.completeImages(1),
		RunE:              func(cmd *cobra.Command, args []string) error { return runExport(cmd.Context(), a, o, args[0]) },
	}
	f := cmd.Flags()
	f.StringVarP(&o.output, "output", "o", "", "write to `FILE` instead of standard output")
	f.BoolVarP(&o.quiet, "quiet", "q", false, "no progress bar")
	return cmd
}

func runExport(ctx context.Context, a *app, o exportOptions, image string) error {
	if o.output == "" && terminal(a.stdout) {
		return usagef("export: standard output is a terminal; name a file with -o, or send the tar through a pipe")
	}
	root, img, done, err := a.openRoot(ctx, image)
	if err != nil {
		return during("export", err)
	}
	defer done()
	bar := newProgress(a, o.quiet)
	defer bar.done()
	total := max(report.Size(img), -1)
	var skipped []string
	err = a.writeFile(ctx, o.output, func(w io.Writer) (err error) {
		b := bufio.NewWriterSize(w, 1<<20)
		skipped, err = root.Export(b, func(p rootfs.Progress) {
			bar.report(archive.Progress{Read: min(p.Done, total), Total: total, What: "export"})
		})
		if err != nil {
			return err
		}
		return b.Flush()
	})
	bar.done()
	for _, s := range skipped {
		a.tell("export: %s: a socket, which a tar cannot hold; left out", oneLine(s))
	}
	return writeError("export", o.output, err)
}
