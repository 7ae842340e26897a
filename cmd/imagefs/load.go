package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"imagefs/store"
	"imagefs/store/archive"
)

type loadOptions struct {
	input    string
	platform string
	quiet    bool
}

func newLoadCommand(a *app) *cobra.Command {
	var o loadOptions
	cmd := &cobra.Command{
		Use:   "load [-i ARCHIVE]",
		Short: "Load images from an archive or an OCI layout directory",
		Long: `Load the images of an archive into the store, which is made if there is none.

Archives are those of docker save (all ages), podman, skopeo, buildah, BuildKit
and kaniko, and OCI archives; plain, or compressed with gzip, zstd, bzip2 or xz;
from a file, a pipe or standard input, in one pass. -i also takes an OCI layout
directory. Every digest is checked. A load that fails or is interrupted leaves
nothing behind.`,
		Example: `  imagefs load -i nginx.tar
  docker save nginx:1.25 | imagefs load
  curl -s https://example.org/app.tar.zst | imagefs load
  imagefs load -i layout/ --platform linux/arm64`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				use, file := "use 'imagefs load -i %s'", shellWord(args[0])
				if file != args[0] { // it has quotes of its own
					use = "use: imagefs load -i %s"
				}
				return usagef("load: takes no arguments; for an archive "+use, file)
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return runLoad(cmd.Context(), a, o) },
	}
	f := cmd.Flags()
	f.StringVarP(&o.input, "input", "i", "", "read from an archive or an OCI layout directory at `PATH`, instead of standard input")
	f.StringVar(&o.platform, "platform", "", "of an image for several platforms take that for `OS/ARCH[/VARIANT]`")
	f.BoolVarP(&o.quiet, "quiet", "q", false, "no progress bar")
	return cmd
}

func runLoad(ctx context.Context, a *app, o loadOptions) (err error) {
	limitMemory()
	if o.input == "" && terminal(a.in) {
		return usagef("load: standard input is a terminal; name an archive with -i, or send one through a pipe")
	}
	if o.input != "" && o.input != "-" {
		// Before a store is made for nothing.
		if _, err := os.Stat(o.input); err != nil {
			return fmt.Errorf("load: %s: %w", o.input, errors.Unwrap(err))
		}
	}
	st, err := a.openStore(openOptions{create: true})
	if err != nil {
		return during("load", err)
	}
	defer st.Close()
	dst, ok := st.(store.Ingester)
	if !ok {
		return during("load", advised{store.Cannot(st, "load images"), "name a store that can be written, or none for the embedded one"})
	}
	before, err := st.Names(ctx)
	if err != nil {
		return during("load", err)
	}
	bar := newProgress(a, o.quiet)
	defer bar.done()
	loaded, err := archiveInto(ctx, dst, a.in, o, bar.report)
	bar.done()
	if err != nil {
		return loadError(o.input, err)
	}
	for _, img := range loaded {
		for _, name := range img.Names {
			if old := before.Tags[name]; old != "" && old != img.ID {
				a.printf("The image %s already exists, renaming the old one with ID %s to empty string\n", name, old)
			}
		}
	}
	for _, img := range loaded {
		for _, name := range img.Names {
			a.printf("Loaded image: %s\n", name)
		}
		if len(img.Names) == 0 {
			a.printf("Loaded image ID: %s\n", img.ID)
		}
	}
	return nil
}

func archiveInto(ctx context.Context, dst store.Ingester, in io.Reader, o loadOptions, report func(archive.Progress)) ([]store.Loaded, error) {
	l := archive.NewLoader(dst, archive.Options{Platform: o.platform, Progress: report})
	if o.input == "" || o.input == "-" {
		return l.Load(ctx, in)
	}
	return l.LoadPath(ctx, o.input)
}

// loadError says which archive could not be loaded.
func loadError(input string, err error) error {
	what := input
	if input == "" || input == "-" {
		what = "standard input"
	}
	switch err = fmt.Errorf("load %s: %w", what, err); {
	case errors.Is(err, context.Canceled):
		return advised{err, "nothing was loaded"}
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return advised{err, "nothing was loaded; make room, then try again"}
	}
	return err
}
