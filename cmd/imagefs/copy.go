package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"imagefs/store"
	"imagefs/store/archive"
	copying "imagefs/store/copy"
	"imagefs/store/save"
)

type copyOptions struct {
	to       string
	as       string
	compress string
	allNames bool
	quiet    bool
}

func newCopyCommand(a *app) *cobra.Command {
	var o copyOptions
	cmd := &cobra.Command{
		Use:   "copy IMAGE... --to TARGET",
		Short: "Copy images into another store, an archive or a layout",
		Long: `Copy images from the store, of whatever kind, into another one. They keep their
IDs; every layer is checked against its digest. A layer that the target has
already is neither read nor written. A copy that fails or is interrupted leaves
the target as it was.

A TARGET is [KIND:]PATH:

  PATH, docker:PATH     a store in Docker's layout, which is made if there is
                        none; while a daemon runs on it, by asking it
  oci:DIR               an OCI layout directory, which is made, or added to
  docker-archive:FILE   the archive that docker save writes, made or replaced
  oci-archive:FILE      an OCI archive, made or replaced

An image keeps the names by which it is asked for, as with 'imagefs save':
NAME:TAG that one, NAME all tags of the repository, an image ID none. --all-names
keeps all that it has; --as gives it one of your choice. A name that another
image has in the target is taken from it.`,
		Example: `  imagefs copy nginx:1.25 --to /mnt/usb/store
  imagefs --store /var/lib/docker copy team/app --to oci:layout --compress gzip
  imagefs --store podman:/var/lib/containers/storage copy app:1 --to ~/scratch --as me/app:test
  imagefs --store /mnt/evidence copy --all-names a01a7a1e2a59 --to docker-archive:image.tar`,
		Args:              wants(1, -1),
		ValidArgsFunction: a.completeImages(-1),
		RunE:              func(cmd *cobra.Command, args []string) error { return runCopy(cmd.Context(), a, o, args) },
	}
	f := cmd.Flags()
	f.StringVar(&o.to, "to", "", "the `TARGET`, [KIND:]PATH")
	f.StringVar(&o.as, "as", "", "give the image this `NAME` in the target, and no other")
	f.BoolVar(&o.allNames, "all-names", false, "keep all names of each image")
	f.StringVar(&o.compress, "compress", "none", "`HOW` an archive, or each layer of an OCI one, is compressed: none, gzip or zstd")
	f.BoolVarP(&o.quiet, "quiet", "q", false, "no progress bar")
	return cmd
}

func runCopy(ctx context.Context, a *app, o copyOptions, images []string) error {
	if o.to == "" {
		return usagef("copy: say where to with --to; see 'imagefs copy --help'")
	}
	to, err := parseTarget(o.to)
	if err != nil {
		return err
	}
	c, err := to.compression(o.compress)
	if err != nil {
		return err
	}
	name := ""
	if o.as != "" {
		if len(images) > 1 || o.allNames {
			return usagef("copy: --as names one image, and goes with one IMAGE and without --all-names")
		}
		if name, err = store.NewTag(o.as); err != nil {
			return usagef("copy: --as: %w", err)
		}
	}
	limitMemory()
	if a.memory.n == 0 {
		a.memory.n = copyMemory
	}
	st, err := a.openStore(openOptions{})
	if err != nil {
		return during("copy", err)
	}
	defer st.Close()
	if err := a.apart(cmp.Or(to.path, to.spec.path), to.form == toStore || to.form == toOCILayout); err != nil {
		return during("copy", err)
	}
	items, err := copied(ctx, st, images, name, o.allNames)
	if err != nil {
		return during("copy", adviseImages(ctx, st, images, err))
	}
	bar := newProgress(a, o.quiet)
	defer bar.done()
	err = a.copyTo(ctx, to, items, c, func(p save.Progress) {
		bar.report(archive.Progress{Read: p.Done, Total: p.Total, What: p.What})
	})
	bar.done()
	if err != nil {
		return copyError(o.to, err)
	}
	for _, it := range items {
		for _, n := range it.Names {
			a.printf("Copied image: %s\n", n)
		}
		if len(it.Names) == 0 {
			a.printf("Copied image ID: %s\n", it.Image.ID())
		}
	}
	return nil
}

// copied finds the images that are to be copied, with the names that they are to have.
func copied(ctx context.Context, st store.Store, refs []string, as string, all bool) ([]save.Item, error) {
	if as != "" {
		id, _, err := store.Resolve(ctx, st, refs[0])
		if err != nil {
			return nil, err
		}
		refs = []string{id.String()}
	}
	items, err := save.Select(ctx, st, refs)
	if err != nil {
		return nil, err
	}
	if as != "" {
		items[0].Names = []string{as}
	}
	if !all {
		return items, nil
	}
	names, err := st.Names(ctx)
	if err != nil {
		return nil, err
	}
	for i := range items {
		items[i].Names = nil
		for n, id := range names.Tags {
			if id == items[i].Image.ID() {
				items[i].Names = append(items[i].Names, n)
			}
		}
		slices.Sort(items[i].Names)
	}
	return items, nil
}

// copyTo copies images to where they are to go.
func (a *app) copyTo(ctx context.Context, to target, items []save.Item, c save.Compression, tell func(save.Progress)) error {
	oci := save.OCIOptions{Compress: c, Temp: func() (*os.File, error) { return unnamedFile(to.path) }, Progress: tell}
	switch to.form {
	case toOCILayout:
		return save.AddToOCIDir(ctx, to.path, items, oci)
	case toOCIArchive:
		return a.writeFile(ctx, to.path, func(w io.Writer) error { return saveOCI(ctx, w, items, oci) })
	case toDockerArchive:
		return a.writeFile(ctx, to.path, func(w io.Writer) error { return saveDocker(ctx, w, items, c, tell) })
	}
	st, dst, err := a.ingester(to)
	if err != nil {
		return err
	}
	defer st.Close()
	_, err = copying.Into(ctx, dst, items, copying.Options{Progress: tell})
	return targetError(err)
}

// copyError says what became of a copy, and what to do.
func copyError(to string, err error) error {
	var noTar *save.NoTarError
	switch err = during("copy", err); {
	case errors.Is(err, context.Canceled):
		return advised{err, "nothing was copied"}
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return advised{fmt.Errorf("%w: %s", err, to), "nothing was copied; make room, then try again"}
	case errors.As(err, &noTar):
		return advised{err, noTarAdvice}
	case errors.Is(err, store.ErrExists):
		return advised{err, "name another directory"}
	}
	return err
}
