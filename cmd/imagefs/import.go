package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"imagefs/store"
	"imagefs/store/archive"
	"imagefs/store/change"
	"imagefs/store/platform"
)

func newImportCommand(a *app) *cobra.Command {
	var o store.ImportOptions
	var quiet bool
	cmd := &cobra.Command{
		Use:   "import FILE|- [REPOSITORY[:TAG]]",
		Short: "Make an image of a root file system",
		Long: `Make an image with one layer of a tar of a root file system, as docker import
does, and print its ID. The store is made if there is none. The tar may be plain
or compressed with gzip, zstd, bzip2 or xz; - is standard input. An import that
fails or is interrupted leaves nothing behind.

--change applies an instruction of a Dockerfile to the image's configuration:
` + change.Instructions + `.

For archives of images, those of docker save and the like, use load.`,
		Example: `  imagefs import rootfs.tar.xz debian:mine
  docker export web | imagefs import - web:flat
  tar -C rootfs -c . | imagefs import -c 'CMD ["/bin/sh"]' -c 'ENV A=1' - me/app:v1
  curl -sL https://example.org/rootfs.tar.gz | imagefs import - me/app:v1`,
		Args: wants(1, 2),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
			if len(args) == 0 {
				return nil, cobra.ShellCompDirectiveDefault
			}
			return a.completeImages(2)(cmd, args, prefix)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				o.Name = args[1]
			}
			return runImport(cmd.Context(), a, o, args[0], quiet)
		},
	}
	f := cmd.Flags()
	f.StringArrayVarP(&o.Changes, "change", "c", nil, "apply a Dockerfile `INSTRUCTION` to the image")
	f.StringVarP(&o.Message, "message", "m", "", "the comment of the image")
	f.StringVar(&o.Platform, "platform", "", "what the image is for, `OS/ARCH[/VARIANT]`; this machine's without it")
	f.BoolVarP(&quiet, "quiet", "q", false, "no progress bar")
	return cmd
}

func runImport(ctx context.Context, a *app, o store.ImportOptions, input string, quiet bool) error {
	limitMemory()
	if err := importable(a, o, input); err != nil {
		return err
	}
	st, err := a.openStore(openOptions{create: true})
	if err != nil {
		return during("import", err)
	}
	defer st.Close()
	dst, ok := st.(store.Ingester)
	if !ok {
		return during("import", advised{store.Cannot(st, "import images"), "name a store that can be written, or none for the embedded one"})
	}
	bar := newProgress(a, quiet)
	defer bar.done()
	l := archive.NewLoader(dst, archive.Options{Progress: bar.report})
	var img store.Loaded
	if input == "-" {
		img, err = l.Import(ctx, a.in, o)
	} else {
		img, err = l.ImportPath(ctx, input, o)
	}
	bar.done()
	if err != nil {
		return importError(input, err)
	}
	a.printf("%s\n", img.ID)
	return nil
}

// importable checks what can be checked before a store is made for nothing.
func importable(a *app, o store.ImportOptions, input string) error {
	if err := change.Apply(&store.ContainerConfig{}, o.Changes); err != nil {
		return usagef("import: %w", err)
	}
	if o.Name != "" {
		if _, err := store.NewTag(o.Name); err != nil {
			return usagef("import: %w", err)
		}
	}
	if o.Platform != "" {
		if _, err := platform.Parse(o.Platform); err != nil {
			return usagef("import: %w", err)
		}
	}
	if input == "-" {
		if terminal(a.in) {
			return usagef("import: standard input is a terminal; name a file, or send a tar through a pipe")
		}
		return nil
	}
	st, err := os.Stat(input)
	switch {
	case err != nil && isURL(input):
		return usagef("import: %s cannot be fetched; fetch it first: curl -sL %s | imagefs import -", input, shellWord(input))
	case err != nil:
		return fmt.Errorf("import: %s: %w", input, errors.Unwrap(err))
	case st.IsDir():
		return usagef("import: %s is a directory; send it as a tar: tar -C %s -c . | imagefs import -", input, shellWord(input))
	}
	return nil
}

func isURL(s string) bool {
	return strings.HasPrefix(s, "http://") || strings.HasPrefix(s, "https://")
}

// importError says which tar could not be imported.
func importError(input string, err error) error {
	what := input
	if input == "-" {
		what = "standard input"
	}
	switch err = fmt.Errorf("import %s: %w", what, err); {
	case errors.Is(err, context.Canceled):
		return advised{err, "nothing was imported"}
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return advised{err, "nothing was imported; make room, then try again"}
	}
	return err
}
