package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"imagefs/store"
	"imagefs/store/rootfs"
)

func newCatCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "cat IMAGE PATH...",
		Short: "Print files of an image",
		Long: `Print files of an image's root file system, one after the other. Symbolic links
are followed inside the image. A PATH that cannot be printed does not keep the
others; the exit code is 1 then.`,
		Example: `  imagefs cat nginx:1.25 /etc/nginx/nginx.conf
  imagefs cat alpine:3.10 etc/os-release etc/passwd`,
		Args:              wants(2, -1),
		ValidArgsFunction: a.completePaths(true),
		RunE:              func(cmd *cobra.Command, args []string) error { return runCat(cmd.Context(), a, args[0], args[1:]) },
	}
}

func runCat(ctx context.Context, a *app, image string, paths []string) error {
	root, _, done, err := a.openRoot(ctx, image)
	if err != nil {
		return during("cat", err)
	}
	defer done()
	var result error
	for _, p := range paths {
		if err := catFile(&interruptible{ctx, a.out}, root, p); err != nil {
			if ctx.Err() != nil || errors.Is(err, unix.EPIPE) {
				return during("cat", err)
			}
			a.complain("cat", pathFirst(p, err))
			result = failed
		}
	}
	return result
}

func catFile(w io.Writer, root *rootfs.FS, path string) error {
	n, err := findNamed(root, path, true)
	if err != nil {
		return err
	}
	switch n.Type() {
	case unix.S_IFREG:
		return root.Copy(w, n)
	case unix.S_IFDIR:
		return &fs.PathError{Op: "read", Path: path, Err: unix.EISDIR}
	}
	return fmt.Errorf("not a regular file: %w", store.ErrInvalid)
}

// findNamed finds what a user has named: nothing is called "".
func findNamed(root *rootfs.FS, path string, follow bool) (rootfs.Node, error) {
	if path == "" {
		return rootfs.Node{}, &fs.PathError{Op: "open", Path: path, Err: unix.ENOENT}
	}
	return root.Find(path, follow)
}

// pathFirst is an error about a path as cat and ls put it: the path, then why.
func pathFirst(path string, err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		err = p.Err
	}
	if path == "" {
		path = "''"
	}
	return fmt.Errorf("%s: %w", path, err)
}

// openRoot opens the root file system of the image that a user means. done closes the store.
func (a *app) openRoot(ctx context.Context, image string) (root *rootfs.FS, img store.Image, done func(), err error) {
	st, err := a.openStore(openOptions{})
	if err != nil {
		return nil, nil, nil, err
	}
	if img, _, err = find(ctx, st, image); err == nil {
		root, err = rootfs.Open(ctx, img)
	}
	if err != nil {
		st.Close()
		return nil, nil, nil, err
	}
	return root, img, func() { st.Close() }, nil
}
