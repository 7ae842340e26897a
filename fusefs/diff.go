package fusefs

import (
	"strings"

	"github.com/hanwen/go-fuse/v2/fuse"

	"imagefs/overlay"
)

// A layer's diff shows whiteouts as its tar has them: empty files with these names.
const (
	whPrefix = ".wh."
	whOpaque = ".wh..wh..opq"
)

// opaqueAttr makes the attributes of the .wh..wh..opq in a directory from the directory's.
func opaqueAttr(dir overlay.Attr) overlay.Attr {
	return overlay.Attr{Mode: fuse.S_IFREG, Nlink: 1, UID: dir.UID, GID: dir.GID, Sec: dir.Sec, Nsec: dir.Nsec}
}

func (f *fsys) diffLookup(v *view, id nodeID, name string, out *fuse.EntryOut) fuse.Status {
	l := v.layers[0]
	i, ok, err := findEntry(l.index, id.ino(), name, 0)
	if hidden, is := strings.CutPrefix(name, whPrefix); err == nil && !ok && is {
		if name == whOpaque {
			if d := l.index.Stat(id.ino()); d.Flags&overlay.FlagOpaque != 0 {
				a := opaqueAttr(d)
				setEntry(out, opaqueID(l.slot, id.ino()), &a)
				return fuse.OK
			}
		}
		i, ok, err = findEntry(l.index, id.ino(), hidden, overlay.EntWhiteout)
	}
	if err != nil {
		return f.status("lookup", id, err)
	}
	if !ok {
		setEntryTime(out, forever, 0)
		return fuse.OK
	}
	a := l.index.Stat(i)
	setEntry(out, diffChild(l, id, i, &a), &a)
	return fuse.OK
}

func diffChild(l *layerSlot, dir nodeID, i overlay.Ino, a *overlay.Attr) nodeID {
	if isDir(a.Mode) {
		return dirID(dir.view(), overlay.NodeID(i))
	}
	return fileID(l.slot, i)
}

// findEntry finds the entry of a directory with this name, a whiteout or not.
func findEntry(l overlay.Layer, dir overlay.Ino, name string, want overlay.EntFlags) (overlay.Ino, bool, error) {
	lo, hi, err := l.Children(dir)
	end := hi
	for lo < hi {
		m := lo + (hi-lo)/2
		if s, _, _ := l.Entry(m); s < name {
			lo = m + 1
		} else {
			hi = m
		}
	}
	for ; lo < end; lo++ {
		s, i, flags := l.Entry(lo)
		if s != name {
			break
		}
		if flags&overlay.EntWhiteout == want {
			return i, true, err
		}
	}
	return 0, false, err
}

// diffReadDir lists a directory: position firstPos is the opaque marker's, whether there is one or not.
func (f *fsys) diffReadDir(v *view, id nodeID, off uint64, out *fuse.DirEntryList, plus bool) fuse.Status {
	l := v.layers[0]
	if off == firstPos {
		off++
		if d := l.index.Stat(id.ino()); d.Flags&overlay.FlagOpaque != 0 {
			a := opaqueAttr(d)
			if !addAttr(out, whOpaque, opaqueID(l.slot, id.ino()), &a, off, plus) {
				return fuse.OK
			}
		}
	}
	lo, hi, err := l.index.Children(id.ino())
	if err != nil {
		return f.status("readdir", id, err)
	}
	// Whoever has the directory open can seek to any position.
	if off-firstPos-1 >= uint64(hi-lo) {
		return fuse.OK
	}
	for e := lo + overlay.Ent(off-firstPos-1); e < hi; e++ {
		name, i, flags := l.index.Entry(e)
		if flags&overlay.EntWhiteout != 0 {
			name = whPrefix + name
		}
		a := l.index.Stat(i)
		if !addAttr(out, name, diffChild(l, id, i, &a), &a, uint64(e-lo)+firstPos+2, plus) {
			return fuse.OK
		}
	}
	return fuse.OK
}
