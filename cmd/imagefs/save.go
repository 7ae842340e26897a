package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"imagefs/store"
	"imagefs/store/archive"
	"imagefs/store/save"
)

type saveOptions struct {
	output   string
	format   string
	compress string
	quiet    bool
}

func newSaveCommand(a *app) *cobra.Command {
	var o saveOptions
	cmd := &cobra.Command{
		Use:   "save [-o FILE] IMAGE...",
		Short: "Save images as an archive",
		Long: `Write images to an archive, on standard output or into a FILE, as docker save
does. An image keeps the names by which it is asked for: NAME:TAG that one, NAME
all tags of the repository, an image ID none. Layers that images share are
written once. Every layer is checked against its digest.

Formats:

  docker    what docker save writes (Docker 1.10 to 24), byte for byte; with
            --compress the whole archive is compressed
  oci       an OCI archive, which docker load takes too; with --compress its
            layers are compressed
  oci-dir   the same as a directory, named with -o

A FILE appears when it is whole, or not at all.`,
		Example: `  imagefs save -o nginx.tar nginx:1.25
  imagefs save nginx:1.25 | ssh host docker load
  imagefs save --compress zstd -o team.tar.zst team/app team/web:live
  imagefs save --format oci --compress gzip -o app.oci.tar app:1
  imagefs save --format oci-dir -o layout app:1
  imagefs --store /mnt/evidence/docker save a01a7a1e2a59 > image.tar`,
		Args:              wants(1, -1),
		ValidArgsFunction: a.completeImages(-1),
		RunE:              func(cmd *cobra.Command, args []string) error { return runSave(cmd.Context(), a, o, args) },
	}
	f := cmd.Flags()
	f.StringVarP(&o.output, "output", "o", "", "write to `FILE` instead of standard output")
	f.StringVar(&o.format, "format", "docker", "`FORMAT`: docker, oci or oci-dir")
	f.StringVar(&o.compress, "compress", "none", "`HOW`: none, gzip or zstd")
	f.BoolVarP(&o.quiet, "quiet", "q", false, "no progress bar")
	return cmd
}

func runSave(ctx context.Context, a *app, o saveOptions, images []string) error {
	c, err := save.ParseCompression(o.compress)
	if err != nil {
		return usagef("save: --compress: %w", err)
	}
	switch {
	case o.format != "docker" && o.format != "oci" && o.format != "oci-dir":
		return usagef("save: there is no format %q; there is docker, oci and oci-dir", o.format)
	case o.format == "oci-dir" && o.output == "":
		return usagef("save: name the directory for the layout with -o")
	case o.output == "" && terminal(a.stdout):
		return usagef("save: standard output is a terminal; name a file with -o, or send the archive through a pipe")
	}
	st, err := a.openStore(openOptions{})
	if err != nil {
		return during("save", err)
	}
	defer st.Close()
	items, err := save.Select(ctx, st, images)
	if err != nil {
		return during("save", adviseImages(ctx, st, images, err))
	}
	bar := newProgress(a, o.quiet)
	defer bar.done()
	tell := func(p save.Progress) { bar.report(archive.Progress{Read: p.Done, Total: p.Total, What: p.What}) }
	oci := save.OCIOptions{Compress: c, Temp: func() (*os.File, error) { return unnamedFile(o.output) }, Progress: tell}
	if o.format == "oci-dir" {
		if err := a.apart(o.output, true); err != nil {
			return during("save", err)
		}
		err = save.OCIDir(ctx, o.output, items, oci)
	} else {
		err = a.writeFile(ctx, o.output, func(w io.Writer) error {
			if o.format == "oci" {
				return saveOCI(ctx, w, items, oci)
			}
			return saveDocker(ctx, w, items, c, tell)
		})
	}
	bar.done()
	return writeError("save", o.output, err)
}

func saveDocker(ctx context.Context, w io.Writer, items []save.Item, c save.Compression, tell func(save.Progress)) error {
	arch, err := save.Docker(ctx, items)
	if err != nil {
		return err
	}
	defer arch.Close()
	z, err := c.NewWriter(w)
	if err != nil {
		return err
	}
	err = arch.Write(ctx, z, tell)
	return errors.Join(err, z.Close())
}

func saveOCI(ctx context.Context, w io.Writer, items []save.Item, o save.OCIOptions) error {
	arch, err := save.OCI(ctx, items, o)
	if err != nil {
		return err
	}
	defer arch.Close()
	return arch.Write(ctx, w, o.Progress)
}

// unnamedFile makes a file that goes by itself: where output goes, which has
// the room, or among the temporary files.
func unnamedFile(output string) (*os.File, error) {
	dir := os.TempDir()
	if output != "" {
		dir = filepath.Dir(output)
	}
	f, err := os.CreateTemp(dir, ".imagefs-")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// writeFile writes what write writes to standard output, or to a file that
// appears, on disk, when all of it is written. What is no regular file is
// written to as it is.
func (a *app) writeFile(ctx context.Context, path string, write func(io.Writer) error) (err error) {
	if path == "" || path == "-" {
		return write(&interruptible{ctx: ctx, w: a.stdout})
	}
	if err := a.apart(path, false); err != nil {
		return err
	}
	st, err := os.Stat(path)
	switch {
	case err == nil && st.IsDir():
		return &fs.PathError{Op: "open", Path: path, Err: unix.EISDIR}
	case err == nil && !st.Mode().IsRegular():
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		return write(&interruptible{ctx: ctx, w: f})
	case err == nil:
		// A link to a file stays a link.
		if path, err = filepath.EvalSymlinks(path); err != nil {
			return err
		}
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	mode := fs.FileMode(0o600) // as docker save leaves it: an image can hold secrets
	if st != nil {
		mode = st.Mode().Perm()
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".")
	if errors.Is(err, fs.ErrNotExist) {
		return &fs.PathError{Op: "write", Path: path, Err: unix.ENOENT} // not the temporary name, of which nobody knows
	}
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			_ = os.Remove(f.Name())
		}
	}()
	if err := f.Chmod(mode); err != nil {
		return err
	}
	if err := write(f); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// syncDir brings the names in a directory to the disk. Who may write to it but not
// read it cannot, and has written all the same.
func syncDir(dir string) error {
	if err := save.SyncDir(dir); !errors.Is(err, fs.ErrPermission) {
		return err
	}
	return nil
}

// interruptible is a stream on which a write may have to wait for somebody
// else: it does not wait any longer when ctx ends. It must not be used then.
type interruptible struct {
	ctx context.Context
	w   io.Writer
}

func (i *interruptible) Write(p []byte) (n int, err error) {
	done := make(chan struct{})
	go func() {
		n, err = i.w.Write(p)
		close(done)
	}()
	select {
	case <-done:
		return n, err
	case <-i.ctx.Done():
		return 0, i.ctx.Err()
	}
}

// noTarAdvice is what to do about save.NoTarError.
const noTarAdvice = "save or pull it with the program whose store this is, and load that; 'imagefs export' and 'imagefs import' make a new image of its files"

// writeError says what became of a file that a command should write.
func writeError(command, output string, err error) error {
	if err == nil {
		return nil
	}
	where := output
	if output == "" || output == "-" {
		where = "standard output"
	}
	nothing := "nothing was written"
	if where == "standard output" {
		nothing = "what was written is not whole"
	}
	err = during(command, err)
	switch {
	case errors.Is(err, context.Canceled):
		return advised{err, nothing}
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return advised{fmt.Errorf("%w: %s", err, where), nothing + "; make room, then try again"}
	case errors.Is(err, store.ErrUnsupported):
		return advised{err, noTarAdvice}
	case errors.Is(err, store.ErrExists):
		return advised{err, "name another, or remove it first"}
	}
	return err
}
