// Package rootfs reads the root file system of an image without mounting it:
// paths are found as a process in a container would find them, and the whole
// tree can be written as one tar.
package rootfs

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"golang.org/x/sys/unix"

	"imagefs/overlay"
	"imagefs/store"
)

// maxLinks is how many symbolic links may be met on the way, as in the kernel.
const maxLinks = 40

// FS is the root file system of an image. Safe for concurrent use.
type FS struct {
	ctx    context.Context
	tree   *overlay.Tree
	layers []store.Layer
}

// Node is an entry of the tree.
type Node struct {
	ID overlay.NodeID
	overlay.Attr
}

// Type tells the type bits of the mode.
func (n Node) Type() uint32 { return n.Mode & unix.S_IFMT }

// IsDir tells whether the entry is a directory.
func (n Node) IsDir() bool { return n.Type() == unix.S_IFDIR }

// Open merges the layers of an image. Errors wrap store.ErrCorrupt if the image is not whole.
func Open(ctx context.Context, img store.Image) (*FS, error) {
	return OpenUpTo(ctx, img, len(img.Layers())-1)
}

// OpenUpTo merges the layers of an image from the bottom up to layer n, which
// counts from 0. store.ErrNotFound if the image has no such layer.
func OpenUpTo(ctx context.Context, img store.Image, n int) (*FS, error) {
	layers := img.Layers()
	if err := whole(img); err != nil {
		return nil, err
	}
	if n >= len(layers) {
		return nil, fmt.Errorf("image %s has the layers 0 to %d: no layer %d: %w", img.ID(), len(layers)-1, n, store.ErrNotFound)
	}
	layers = layers[:n+1]
	var all []overlay.Layer
	for _, l := range layers {
		ix, err := l.Index(ctx)
		if err != nil {
			return nil, err
		}
		all = append(all, ix)
	}
	t, err := overlay.Merge(all...)
	if err != nil {
		return nil, err
	}
	return &FS{ctx, t, layers}, nil
}

// Of is the root file system of layers that are merged already, the lowest first.
func Of(ctx context.Context, t *overlay.Tree, layers []store.Layer) *FS {
	return &FS{ctx, t, layers}
}

// Root returns the root directory.
func (f *FS) Root() Node { return f.node(f.tree.Root()) }

func (f *FS) node(id overlay.NodeID) Node { return Node{id, f.tree.Attr(id)} }

// Find finds a path, absolute or from the root. Symbolic links are followed
// inside the image; the last component is only if follow is set or the path ends
// in a slash. Errors are *fs.PathError with an errno.
func (f *FS) Find(path string, follow bool) (Node, error) {
	bad := func(err error) (Node, error) { return Node{}, &fs.PathError{Op: "open", Path: path, Err: err} }
	at := []overlay.NodeID{f.tree.Root()} // the directories on the way
	rest := strings.Split(path, "/")
	follow = follow || strings.HasSuffix(path, "/")
	links := 0
	for len(rest) > 0 {
		name := rest[0]
		rest = rest[1:]
		dir := f.node(at[len(at)-1])
		switch {
		case !dir.IsDir():
			return bad(unix.ENOTDIR)
		case name == "" || name == ".":
			continue
		case name == "..":
			at = at[:max(1, len(at)-1)]
			continue
		case len(name) > 255:
			return bad(unix.ENAMETOOLONG)
		}
		id, ok, err := f.tree.Lookup(dir.ID, name)
		if err != nil {
			return bad(err)
		}
		if !ok {
			return bad(unix.ENOENT)
		}
		n := f.node(id)
		if n.Type() != unix.S_IFLNK || len(rest) == 0 && !follow {
			at = append(at, id)
			continue
		}
		if links++; links > maxLinks {
			return bad(unix.ELOOP)
		}
		target := f.tree.Readlink(id)
		if strings.HasPrefix(target, "/") {
			at = at[:1]
		}
		rest = append(strings.Split(target, "/"), rest...)
	}
	return f.node(at[len(at)-1]), nil
}

// Readlink returns the target of a symbolic link.
func (f *FS) Readlink(n Node) string { return f.tree.Readlink(n.ID) }

// List calls yield for each entry of a directory, sorted by name. An error of yield ends it.
func (f *FS) List(dir Node, yield func(name string, n Node) error) error {
	d, err := f.tree.Dir(dir.ID)
	if err != nil {
		return err
	}
	for {
		name, id, _, ok := d.Next()
		if !ok {
			return nil
		}
		if err := yield(name, f.node(id)); err != nil {
			return err
		}
	}
}

// Open opens the content of a regular file.
func (f *FS) Open(n Node) (store.File, error) {
	return f.layers[n.ID.Layer()].Open(f.ctx, n.ID.Ino())
}

// Copy writes the content of a regular file.
func (f *FS) Copy(w io.Writer, n Node) error {
	if n.Size == 0 {
		return nil
	}
	file, err := f.Open(n)
	if err != nil {
		return err
	}
	defer file.Close()
	return f.copy(w, file, make([]byte, min(n.Size, copySize)))
}

const copySize = 1 << 20

var errShort = fmt.Errorf("a file of the layer is shorter than its index says: %w", store.ErrCorrupt)

func (f *FS) copy(w io.Writer, file store.File, buf []byte) error {
	for off := int64(0); off < file.Size(); {
		if err := f.ctx.Err(); err != nil {
			return err
		}
		p := buf[:min(int64(len(buf)), file.Size()-off)]
		n, err := file.ReadAt(p, off)
		if n < len(p) {
			if err == nil || err == io.EOF {
				err = errShort
			}
			return err
		}
		if _, err := w.Write(p); err != nil {
			return err
		}
		off += int64(n)
	}
	return nil
}
