package layer

import (
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"imagefs/overlay"
)

// What a layer takes from the layers below it, for records alone and for a diff
// directory in the same way.

var kindOf = map[uint32]overlay.Kind{unix.S_IFREG: overlay.File, unix.S_IFDIR: overlay.Dir, unix.S_IFLNK: overlay.Symlink,
	unix.S_IFCHR: overlay.Char, unix.S_IFBLK: overlay.Block, unix.S_IFIFO: overlay.Fifo, unix.S_IFSOCK: overlay.Socket}

// entryOf returns a record that makes p the same as a node of the layers below.
func entryOf(lower *overlay.Tree, n overlay.NodeID, p string) overlay.Entry {
	e := overlay.Entry{Path: p, Attr: lower.Attr(n), Link: lower.Readlink(n)}
	e.Kind, e.Flags = kindOf[e.Mode&unix.S_IFMT], 0
	lower.Xattrs(n, func(name string, v []byte) bool {
		e.Xattrs = append(e.Xattrs, overlay.Xattr{Name: strings.Clone(name), Value: slices.Clone(v)})
		return true
	})
	return e
}

// implied returns the record of a directory that has none: of the lower
// directory that it is merged with, or of a new one. newest has its time, lower
// is nil if there is none or it is hidden.
func implied(p string, newest overlay.Attr, lower *overlay.Tree) (overlay.Entry, error) {
	e := overlay.Entry{Path: p, Kind: overlay.Dir, Attr: overlay.Attr{Mode: 0o755, Sec: newest.Sec, Nsec: newest.Nsec}}
	if lower == nil {
		return e, nil
	}
	n, ok, err := lower.Walk(p)
	if err != nil {
		return e, classify(err)
	}
	if !ok || lower.Attr(n).Mode&unix.S_IFMT != unix.S_IFDIR {
		return e, nil
	}
	e = entryOf(lower, n, p)
	e.Size, e.Blocks = 0, 0
	return e, nil
}

// linkTarget finds the file below that a hard link means which its own layer has not.
func linkTarget(lower *overlay.Tree, p, target string) (overlay.NodeID, error) {
	if lower != nil {
		n, ok, err := lower.Walk(target)
		if err != nil {
			return 0, classify(err)
		}
		if ok && lower.Attr(n).Mode&unix.S_IFMT != unix.S_IFDIR {
			return n, nil
		}
	}
	return 0, corrupt("hard link %.200q to %.200q, which is no file of this layer or of one below", p, target)
}

// inherit completes records that have no diff directory to be settled in.
func inherit(b *overlay.Builder, newest overlay.Attr, lower *overlay.Tree) error {
	copies := map[overlay.NodeID]string{} // what is below → the path of its copy
	var err error
	b.Pending(func(p, target string) bool {
		if _, _, ok := b.Find(target, false); ok {
			return true // Finish makes it
		}
		if _, ok := b.PendingTarget(target); ok {
			return true
		}
		var n overlay.NodeID
		if n, err = linkTarget(lower, p, target); err != nil {
			return false
		}
		if c, ok := copies[n]; ok {
			err = b.Add(overlay.Entry{Path: p, Kind: overlay.Hardlink, Link: c})
			return err == nil
		}
		copies[n] = p
		e := entryOf(lower, n, p)
		if e.Kind == overlay.File {
			e.Ref = refBelow | uint64(n)
		}
		err = b.Add(e)
		return err == nil
	})
	if err != nil {
		return classify(err)
	}
	b.Implied(func(p string, hidden bool) bool {
		from := lower
		if hidden {
			from = nil
		}
		var e overlay.Entry
		if e, err = implied(p, newest, from); err == nil {
			err = b.SetAttr(p, e.Attr, e.Xattrs)
		}
		return err == nil
	})
	return classify(err)
}
