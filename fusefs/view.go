package fusefs

import (
	"context"
	"errors"
	"sync/atomic"
	"syscall"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"

	"imagefs/overlay"
	"imagefs/store"
)

// layerSlot is a layer that some view shows.
type layerSlot struct {
	slot  uint64
	l     store.Layer
	index overlay.Layer
	open  atomic.Int64 // files of it that are open
	// Of its files, after the first was opened: they are none of the host's, and may
	// have to be decompressed; or they are.
	slow, direct atomic.Bool
	// readOn says that many of its small files are read one after the other: each that
	// is asked for may wait until others are pushed.
	readOn atomic.Bool
	push   atomic.Pointer[push] // under way
	flight inFlight
	origin
	views int // that show it; guarded by fsys.using
}

// opened learns from the content of a file how the layer's files are read.
func (l *layerSlot) opened(file store.File) {
	if _, ok := file.(store.FDer); !ok {
		if !l.slow.Load() {
			l.slow.Store(true)
		}
	} else if !l.direct.Load() {
		l.direct.Store(true)
	}
}

// view is a tree of directories: some layers merged, or one as it is.
type view struct {
	layers []*layerSlot  // bottom first
	tree   *overlay.Tree // nil for a diff
	gone   atomic.Bool   // its image was removed
	pair   *pair         // of which it is a part; nil for a view of its own
	part   int
	// generation tells the view's directories from those of one that had its number before
	generation uint64
}

// diff tells whether the view shows one layer with its whiteouts.
func (v *view) diff() bool { return v.tree == nil }

// layerSlot returns the slot of a layer; its index is built if it was not. f.using is held.
func (f *fsys) layerSlot(ctx context.Context, img store.Image, n int) (*layerSlot, error) {
	l := img.Layers()[n]
	if s, ok := f.layers.find(l.Key()); ok {
		return f.layers.get(s), nil
	}
	ix, err := l.Index(ctx)
	if err != nil {
		return nil, err
	}
	if ix.Inodes() > inoMask {
		return nil, errors.Join(overlay.ErrTooLarge, store.ErrTooLarge)
	}
	_, s, err := f.layers.intern(l.Key(), slotMask+1, func(slot uint64) *layerSlot {
		return &layerSlot{slot: slot, l: l, index: ix, origin: originOf(img, n)}
	})
	return s, err
}

// newView makes the view of the layers of an image from one to another, merged
// or, of a single one, as it is, and returns its root.
func (f *fsys) newView(ctx context.Context, img store.Image, from, to int, diff bool) (nodeID, error) {
	// The work is done before the lock is taken, so that it holds up nobody else's.
	if err := f.openIndexes(ctx, img.Layers()[from:to+1]); err != nil {
		return 0, err
	}
	f.using.Lock()
	defer f.using.Unlock()
	v := &view{}
	var ix []overlay.Layer
	for n := from; n <= to; n++ {
		s, err := f.layerSlot(ctx, img, n)
		if err != nil {
			return 0, err
		}
		v.layers = append(v.layers, s)
		ix = append(ix, s.index)
	}
	var root overlay.NodeID
	if !diff {
		t, err := overlay.Merge(ix...)
		if err != nil {
			return 0, err
		}
		v.tree = t
		root = t.Root()
	}
	slot, _, err := f.views.add(maxViews, func(uint64) *view { return v })
	if err != nil {
		return 0, err
	}
	for _, l := range v.layers {
		l.views++
	}
	return dirID(slot, root), nil
}

// viewsOf returns the views that a directory is in one of. The numbers of those of
// images are given out once, and who compares images must not use them up.
func (f *fsys) viewsOf(id nodeID) *table[view] {
	if id.kind() == kindPart {
		return &f.partViews.table
	}
	return &f.views
}

// view returns the view that a directory is in, nil if it was let go of.
func (f *fsys) view(id nodeID) *view { return f.viewsOf(id).get(id.view()) }

// viewOf returns the view that a directory is in, while its image is there.
func (f *fsys) viewOf(id nodeID) (*view, fuse.Status) {
	v := f.view(id)
	if v == nil || v.gone.Load() {
		return nil, fuse.Status(syscall.ESTALE)
	}
	return v, fuse.OK
}

// child is the node of an entry of a directory of the view.
func (v *view) child(view uint64, n overlay.NodeID, a *overlay.Attr) nodeID {
	if isDir(a.Mode) {
		return dirID(view, n)
	}
	return fileID(v.layers[n.Layer()].slot, n.Ino())
}

func isDir(mode uint32) bool { return mode&syscall.S_IFMT == syscall.S_IFDIR }

// layerAttr returns the attributes of what is of a layer.
func (f *fsys) layerAttr(id nodeID) (overlay.Attr, fuse.Status) {
	if id.kind() == kindFile {
		l := f.layers.get(id.layer())
		if l == nil || int(id.ino()) >= l.index.Inodes() {
			return overlay.Attr{}, fuse.Status(syscall.ESTALE)
		}
		if id.opaque() {
			return opaqueAttr(l.index.Stat(id.ino())), fuse.OK
		}
		return l.index.Stat(id.ino()), fuse.OK
	}
	v, st := f.viewOf(id)
	if st != fuse.OK {
		return overlay.Attr{}, st
	}
	if v.diff() {
		return v.layers[0].index.Stat(id.ino()), fuse.OK
	}
	a := v.tree.Attr(id.node())
	if v.pair != nil {
		partAttr(&a)
	}
	return a, fuse.OK
}

func (f *fsys) viewLookup(id nodeID, name string, out *fuse.EntryOut) fuse.Status {
	v, st := f.viewOf(id)
	if st != fuse.OK {
		return st
	}
	if v.diff() {
		return f.diffLookup(v, id, name, out)
	}
	n, ok, err := v.tree.Lookup(id.node(), name)
	if err != nil {
		return f.status("lookup", id, err)
	}
	if !ok {
		setEntryTime(out, forever, 0) // node 0: that it is not there is kept too
		return fuse.OK
	}
	a := v.tree.Attr(n)
	setEntry(out, v.child(id.view(), n, &a), &a)
	return fuse.OK
}

func setEntry(out *fuse.EntryOut, id nodeID, a *overlay.Attr) {
	out.NodeId = uint64(id)
	out.EntryValid = uint64(forever / 1e9)
	out.AttrValid = uint64(forever / 1e9)
	setAttr(&out.Attr, id, a)
}

// The first two positions of every directory.
const firstPos = 2

// dots adds "." and ".."; it returns false when the buffer is full.
func dots(out *fuse.DirEntryList, off uint64, self uint64, plus bool) (uint64, bool) {
	for ; off < firstPos; off++ {
		e := fuse.DirEntry{Name: "..", Mode: fuse.S_IFDIR, Off: off + 1}
		if off == 0 {
			e.Name, e.Ino = ".", self
		}
		if !add(out, e, plus) {
			return off, false
		}
	}
	return off, true
}

// add adds an entry without its attributes.
func add(out *fuse.DirEntryList, e fuse.DirEntry, plus bool) bool {
	if plus {
		return out.AddDirLookupEntry(e) != nil
	}
	return out.AddDirEntry(e)
}

// viewReadDir lists a directory of a view.
func (f *fsys) viewReadDir(in *fuse.ReadIn, out *fuse.DirEntryList, plus bool) fuse.Status {
	f.trim.listed(f)
	id := nodeID(in.NodeId)
	v, st := f.viewOf(id)
	if st != fuse.OK {
		return st
	}
	off, ok := dots(out, in.Offset, in.NodeId, plus)
	if !ok {
		return fuse.OK
	}
	if v.diff() {
		return f.diffReadDir(v, id, off, out, plus)
	}
	d, err := v.tree.Dir(id.node())
	if err != nil {
		return f.status("readdir", id, err)
	}
	d.Seek(off - firstPos)
	for {
		name, n, pos, ok := d.Next()
		if !ok {
			return fuse.OK
		}
		a := v.tree.Attr(n)
		c := v.child(id.view(), n, &a)
		if !addAttr(out, name, c, &a, pos+firstPos, plus) {
			return fuse.OK
		}
	}
}

func addAttr(out *fuse.DirEntryList, name string, id nodeID, a *overlay.Attr, off uint64, plus bool) bool {
	return addGeneration(out, name, id, 0, a, off, plus)
}

func addGeneration(out *fuse.DirEntryList, name string, id nodeID, generation uint64, a *overlay.Attr, off uint64, plus bool) bool {
	e := fuse.DirEntry{Name: name, Mode: a.Mode, Ino: uint64(id), Off: off}
	if !plus {
		return out.AddDirEntry(e)
	}
	eo := out.AddDirLookupEntry(e)
	if eo == nil {
		return false
	}
	setEntry(eo, id, a)
	eo.Generation = generation
	return true
}

// bytesOf views a string as bytes that nobody may change.
func bytesOf(s string) []byte { return unsafe.Slice(unsafe.StringData(s), len(s)) }
