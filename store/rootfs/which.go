package rootfs

import (
	"context"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	digest "github.com/opencontainers/go-digest"

	"imagefs/overlay"
	"imagefs/store"
)

// Step is what one layer of an image does to a path.
type Step struct {
	overlay.Step
	overlay.Attr               // of what the layer has there; zero of a deletion
	Target       string        // of a symbolic link
	Content      Content       // of 'C': whether it is the content that was there before
	DiffID       digest.Digest // of the layer
	CreatedBy    string        // the step of the history that made the layer, "" if it does not say
}

// Content tells whether a regular file has the content of the one that it replaces.
type Content uint8

// What is known of the content.
const (
	NoContent      Content = iota // one of the two is no regular file
	SameContent                   // written again, or copied up
	OtherContent                  // What has overlay.DiffContent
	UnknownContent                // one of them cannot be read
)

// String is "same", "changed", "unknown", or "".
func (c Content) String() string { return [...]string{"", "same", "changed", "unknown"}[c] }

// Trace is what the layers of an image do to a path.
type Trace struct {
	Path  string // absolute, with all symbolic links on the way followed
	Steps []Step // the lowest layer's first, at least one
}

// There tells whether the root file system has the path.
func (t Trace) There() bool { return t.Steps[len(t.Steps)-1].Op != 'D' }

// Which tells which layer of an image a path is from, and what the layers below
// did to it; see overlay.Trace. Symbolic links on the way are followed inside
// the image, as Find does, the last component only if follow is set or the path
// ends in a slash. A path that the root file system does not have is looked for
// in the layers 0 to n, n the largest that has it. An *fs.PathError with
// unix.ENOENT if no layer ever had it. The content of a file that comes again is
// read if it has the same size.
func Which(ctx context.Context, img store.Image, name string, follow bool) (Trace, error) {
	if err := whole(img); err != nil {
		return Trace{}, err
	}
	var layers []overlay.Layer
	for _, l := range img.Layers() {
		ix, err := l.Index(ctx)
		if err != nil {
			return Trace{}, err
		}
		layers = append(layers, ix)
	}
	follow = follow || strings.HasSuffix(name, "/")
	bad := func(err error) (Trace, error) {
		return Trace{}, &fs.PathError{Op: "which", Path: name, Err: err}
	}
	var first error
	for n := len(layers); n > 0; n-- {
		if err := ctx.Err(); err != nil {
			return Trace{}, err
		}
		real, err := realPath(layers[:n], name, follow)
		if err == nil {
			return trace(ctx, img, layers, real)
		}
		if first == nil {
			first = err
		}
	}
	if first == nil {
		first = unix.ENOENT
	}
	return bad(first)
}

// whole is an error unless an image has its config and all its layers.
func whole(img store.Image) error {
	if n := len(img.Config().DiffIDs); img.RawConfig() == nil || len(img.Layers()) != n {
		if err := img.Err(); err != nil {
			return err
		}
		return fmt.Errorf("image %s: %d of %d layers: %w", img.ID(), len(img.Layers()), n, store.ErrCorrupt)
	}
	return nil
}

func trace(ctx context.Context, img store.Image, layers []overlay.Layer, real string) (Trace, error) {
	steps, err := overlay.Trace(layers, real)
	if err != nil {
		return Trace{}, err
	}
	c := img.Config()
	history := c.LayerHistory()
	out := Trace{Path: "/" + real}
	for i, s := range steps {
		l := layers[s.Layer]
		step := Step{Step: s, DiffID: img.Layers()[s.Layer].DiffID()}
		if s.Op != 'D' {
			step.Attr, step.Target = l.Stat(s.Ino), l.Readlink(s.Ino)
		}
		if s.Op == 'C' {
			if err := step.compare(ctx, img.Layers(), out.Steps[i-1]); err != nil {
				return Trace{}, err
			}
		}
		if h := history[s.Layer]; h >= 0 {
			step.CreatedBy = c.History[h].CreatedBy
		}
		out.Steps = append(out.Steps, step)
	}
	return out, nil
}

// compare finds out what became of the content that was there before. What cannot
// be read leaves that open; an error is that of ctx.
func (s *Step) compare(ctx context.Context, layers []store.Layer, before Step) error {
	if s.Mode&unix.S_IFMT != unix.S_IFREG || before.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil
	}
	l, m := layers[before.Layer], layers[s.Layer]
	switch {
	case s.What&overlay.DiffContent != 0:
		s.Content = OtherContent
		return nil
	case !s.What.Undecided(s.Attr), before.Ino == s.Ino && l.Key() == m.Key():
		s.Content = SameContent
		return nil
	}
	same, err := sameContent(ctx, int64(s.Size),
		func() (store.File, error) { return l.Open(ctx, before.Ino) }, func() (store.File, error) { return m.Open(ctx, s.Ino) })
	switch {
	case err != nil:
		s.Content = UnknownContent
		return ctx.Err()
	case same:
		s.Content = SameContent
	default:
		s.What |= overlay.DiffContent
		s.Content = OtherContent
	}
	return nil
}

// realPath follows the symbolic links of a path in a stack of layers. The
// result has no slash at its beginning. Errors are errnos.
func realPath(layers []overlay.Layer, name string, follow bool) (string, error) {
	at := ""
	rest := strings.Split(name, "/")
	links := 0
	l, ino, err := top(layers, at)
	for len(rest) > 0 {
		if err != nil {
			return "", err
		}
		next := rest[0]
		rest = rest[1:]
		switch {
		case l.Stat(ino).Mode&unix.S_IFMT != unix.S_IFDIR:
			return "", unix.ENOTDIR
		case next == "" || next == ".":
			continue
		case next == "..":
			at = parent(at)
			l, ino, err = top(layers, at)
			continue
		case len(next) > 255:
			return "", unix.ENAMETOOLONG
		}
		was := at
		at = strings.TrimPrefix(at+"/"+next, "/")
		if l, ino, err = top(layers, at); err != nil {
			return "", err
		}
		if l.Stat(ino).Mode&unix.S_IFMT != unix.S_IFLNK || len(rest) == 0 && !follow {
			continue
		}
		if links++; links > maxLinks {
			return "", unix.ELOOP
		}
		target := l.Readlink(ino)
		if at = was; strings.HasPrefix(target, "/") {
			at = ""
		}
		rest = append(strings.Split(target, "/"), rest...)
		l, ino, err = top(layers, at)
	}
	return at, err
}

func parent(p string) string {
	if p = path.Dir(p); p == "." {
		return ""
	}
	return p
}

// top returns what a stack of layers has at a path: the inode, and whose it is.
func top(layers []overlay.Layer, p string) (overlay.Layer, overlay.Ino, error) {
	steps, err := overlay.Trace(layers, p)
	if err != nil {
		return nil, 0, err
	}
	if len(steps) == 0 || steps[len(steps)-1].Op == 'D' {
		return nil, 0, unix.ENOENT
	}
	s := steps[len(steps)-1]
	return layers[s.Layer], s.Ino, nil
}
