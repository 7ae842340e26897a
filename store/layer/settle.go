package layer

import (
	"context"
	"fmt"
	"io"

	"golang.org/x/sys/unix"

	"imagefs/overlay"
	"imagefs/store"
)

// Settle does what needs the layers below, lower, which is nil for the lowest
// layer: directories that the tar implies take the attributes that they have
// there, hard links to files that only lower layers have become copies (opened
// with openLower), and an opaque root becomes whiteouts. Errors wrap
// store.ErrCorrupt for a hard link to nothing.
func (u *Unpacked) Settle(ctx context.Context, lower *overlay.Tree, openLower func(overlay.NodeID) (store.File, error)) error {
	x := u.x
	if err := x.settleLinks(ctx, lower, openLower); err != nil {
		return err
	}
	if err := x.hideRoot(lower); err != nil {
		return err
	}
	if err := u.settleImplied(ctx, lower); err != nil {
		return err
	}
	return u.settleDirs(ctx)
}

// settleLinks makes the links whose target came after them, or is below the
// layer: then the first becomes a copy and the others links to that.
func (x *extractor) settleLinks(ctx context.Context, lower *overlay.Tree, open func(overlay.NodeID) (store.File, error)) error {
	s := linkSettler{x, lower, open, map[overlay.NodeID]string{}}
	var err error
	x.b.Pending(func(p, target string) bool {
		if err = ctx.Err(); err == nil {
			err = s.settle(ctx, p, target)
		}
		return err == nil
	})
	return err
}

type linkSettler struct {
	*extractor
	lower  *overlay.Tree
	open   func(overlay.NodeID) (store.File, error)
	copies map[overlay.NodeID]string // what is below → the path of its copy
}

// settle makes the link p, and before it those to which it leads.
func (s *linkSettler) settle(ctx context.Context, p, target string) error {
	chain := []string{p}
	seen := map[string]bool{p: true}
	for {
		next, ok := s.b.PendingTarget(target)
		if !ok {
			break
		}
		if seen[target] {
			return corrupt("hard link %.200q to %.200q, which leads back to it", p, target)
		}
		seen[target] = true
		chain = append(chain, target)
		target = next
	}
	last := chain[len(chain)-1]
	if _, _, ok := s.b.Find(target, false); !ok {
		if err := s.copy(ctx, last, target); err != nil {
			return err
		}
	} else if err := s.makeLink(last, target); err != nil {
		return err
	}
	for n := len(chain) - 2; n >= 0; n-- {
		if err := s.makeLink(chain[n], chain[n+1]); err != nil {
			return err
		}
	}
	return nil
}

// copy makes p what the layers below have at target.
func (s *linkSettler) copy(ctx context.Context, p, target string) error {
	n, err := linkTarget(s.lower, p, target)
	if err != nil {
		return err
	}
	if c, ok := s.copies[n]; ok {
		return s.makeLink(p, c)
	}
	s.copies[n] = p
	return s.copyUp(ctx, s.lower, n, p, s.open)
}

// copyUp makes p a copy of a node of the layers below.
func (x *extractor) copyUp(ctx context.Context, lower *overlay.Tree, n overlay.NodeID, p string, open func(overlay.NodeID) (store.File, error)) error {
	e := entryOf(lower, n, p)
	var err error
	switch e.Kind {
	case overlay.File:
		err = x.copyFile(ctx, &e, n, open)
	case overlay.Symlink:
		err = x.makeSymlink(&e)
	default:
		err = x.makeSpecial(&e)
	}
	if err != nil {
		return err
	}
	return classify(x.b.Add(e))
}

func (x *extractor) copyFile(ctx context.Context, e *overlay.Entry, n overlay.NodeID, open func(overlay.NodeID) (store.File, error)) error {
	src, err := open(n)
	if err != nil {
		return err
	}
	defer src.Close()
	f, err := x.createFile(e.Path)
	if err != nil {
		return err
	}
	defer f.close()
	buf := make([]byte, 256<<10)
	for off := int64(0); off < src.Size(); {
		if err := ctx.Err(); err != nil {
			return err
		}
		m, err := src.ReadAt(buf[:min(int64(len(buf)), src.Size()-off)], off)
		if err != nil && err != io.EOF {
			return err
		}
		if m == 0 {
			return fmt.Errorf("copy %.200q: %w", e.Path, io.ErrUnexpectedEOF)
		}
		if err := writeSparse(f.fd, buf[:m], off); err != nil {
			return err
		}
		off += int64(m)
	}
	if err := truncate(f.fd, src.Size()); err != nil {
		return err
	}
	return x.finishFile(f, e)
}

// hideRoot puts a whiteout on disk for each name that an opaque root hides.
func (x *extractor) hideRoot(lower *overlay.Tree) error {
	root, _, _ := x.b.Find("", false)
	if lower == nil || x.unpriv || root.Flags&overlay.FlagOpaque == 0 {
		return nil
	}
	d, err := lower.Dir(lower.Root())
	if err != nil {
		return classify(err)
	}
	for {
		name, _, _, ok := d.Next()
		if !ok {
			return nil
		}
		a, _, has := x.b.Find(name, false)
		if !has {
			err = unix.Mknodat(x.dirs.root, name, unix.S_IFCHR, 0)
			if err == unix.EEXIST {
				err = nil
			}
		} else if a.Mode&unix.S_IFMT == unix.S_IFDIR {
			err = x.setOpaque(name, x.dirs.root, name)
		}
		if err != nil {
			return pathError("make whiteout", name, err)
		}
	}
}

// settleImplied gives directories without an entry the attributes of the lower
// directory that they are merged with, or the layer's newest time.
func (u *Unpacked) settleImplied(ctx context.Context, lower *overlay.Tree) error {
	x := u.x
	var err error
	x.b.Implied(func(p string, hidden bool) bool {
		if err = ctx.Err(); err != nil {
			return false
		}
		from := lower
		if hidden {
			from = nil
		}
		var e overlay.Entry
		if e, err = implied(p, u.newest, from); err != nil {
			return false
		}
		dir, base := unix.AT_FDCWD, fdPath(x.dirs.root)
		if p != "" {
			if dir, base, err = x.parent(p); err != nil {
				return false
			}
		}
		if err = x.setDir(dir, base, &e); err == nil {
			err = classify(x.b.SetAttr(p, e.Attr, e.Xattrs))
		}
		return err == nil
	})
	return err
}

// settleDirs sets the times of all directories, now that nothing more is put
// into them, and the default ACLs, now that nothing can inherit them.
func (u *Unpacked) settleDirs(ctx context.Context) error {
	x := u.x
	var err error
	x.b.Dirs(func(p string, a overlay.Attr, _ bool) bool {
		if err = ctx.Err(); err != nil {
			return false
		}
		dir, base := unix.AT_FDCWD, fdPath(x.dirs.root)+"/."
		if p != "" {
			if dir, base, err = x.parent(p); err != nil {
				return false
			}
		}
		if x.late {
			if err = x.setDefaultACL(dir, base, p); err != nil {
				return false
			}
		}
		was := a
		if err = x.setTime(dir, base, p, &a); err == nil && a != was {
			err = classify(x.b.SetTime(p, a.Sec, a.Nsec))
		}
		return err == nil
	})
	return err
}

func (x *extractor) setDefaultACL(dir int, base, p string) error {
	v, ok := x.b.Xattr(p, defaultACL)
	if !ok || x.unpriv {
		return nil
	}
	return pathError("set xattr of", p, unix.Setxattr(procPath(dir, base), defaultACL, v, 0))
}
