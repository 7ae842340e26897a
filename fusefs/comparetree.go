package fusefs

import (
	"context"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"imagefs/overlay"
)

// added/, changed/ and deleted/ of a pair are views of one of its images that
// show some of the paths only. What is no directory has the inode that it has in
// the image; directories have inodes of their own, since one has one path.

// The parts of a pair.
const (
	partAdded = iota
	partChanged
	partDeleted
	parts
)

// partSide is the side of a pair that a part shows.
func partSide(part int) int {
	if part == partDeleted {
		return 0
	}
	return 1
}

// partOf is the part that shows a difference.
func partOf(op byte) int {
	switch op {
	case 'A':
		return partAdded
	case 'D':
		return partDeleted
	}
	return partChanged
}

// partID is the node of a directory of a part.
func partID(view uint64, n overlay.NodeID) nodeID {
	return dirID(view, n) | kindPart<<kindBits
}

// partRoot returns the root of a part. Nothing is compared for it.
func (f *fsys) partRoot(ctx context.Context, p *pair, part int) (nodeID, error) {
	p.mu.Lock()
	root := p.roots[part]
	p.mu.Unlock()
	if root != 0 {
		return root, nil
	}
	both, err := f.sides(ctx, p)
	if err != nil {
		return 0, err
	}
	of := both[partSide(part)]
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gone.Load() {
		return 0, syscall.ESTALE
	}
	if p.roots[part] != 0 {
		return p.roots[part], nil
	}
	f.using.Lock()
	defer f.using.Unlock()
	if of.gone.Load() {
		return 0, syscall.ESTALE
	}
	slot, v, err := f.partViews.add(func(_, generation uint64) *view {
		return &view{layers: of.layers, tree: of.tree, pair: p, part: part, generation: generation}
	})
	if err != nil {
		return 0, err
	}
	for _, l := range v.layers {
		l.views++
	}
	p.roots[part] = partID(slot, v.tree.Root())
	return p.roots[part], nil
}

// partAttr makes the attributes of an entry of a part: links to a directory are
// not counted, as those of a merged one are not.
func partAttr(a *overlay.Attr) {
	if isDir(a.Mode) {
		a.Nlink = 1
	}
}

// partDir returns the view that a directory of a part is in, and what of it is shown.
func (f *fsys) partDir(ctx context.Context, id nodeID) (*view, *overlay.Subset, fuse.Status) {
	v, st := f.viewOf(id)
	if st != fuse.OK {
		return nil, nil, st
	}
	c, err := f.compare(ctx, v.pair)
	if err != nil {
		return nil, nil, f.status("compare", id, err)
	}
	return v, c.of[v.part], fuse.OK
}

// partChild is the node of an entry of a directory of a part, and its generation.
func (v *view) partChild(view uint64, n overlay.NodeID, a *overlay.Attr) (id nodeID, generation uint64) {
	if isDir(a.Mode) {
		return partID(view, n), v.generation
	}
	return v.child(view, n, a), 0
}

func (f *fsys) partLookup(ctx context.Context, id nodeID, name string, out *fuse.EntryOut) fuse.Status {
	v, s, st := f.partDir(ctx, id)
	if st != fuse.OK {
		return st
	}
	n, ok, err := s.Lookup(id.node(), name)
	if err != nil {
		return f.status("lookup", id, err)
	}
	if !ok {
		setEntryTime(out, forever, 0)
		return fuse.OK
	}
	a := v.tree.Attr(n)
	partAttr(&a)
	c, generation := v.partChild(id.view(), n, &a)
	setEntry(out, c, &a)
	out.Generation = generation
	return fuse.OK
}

func (f *fsys) partReadDir(ctx context.Context, in *fuse.ReadIn, out *fuse.DirEntryList, plus bool) fuse.Status {
	id := nodeID(in.NodeId)
	v, s, st := f.partDir(ctx, id)
	if st != fuse.OK {
		return st
	}
	off, ok := dots(out, in.Offset, in.NodeId, plus)
	if !ok {
		return fuse.OK
	}
	d, err := s.Dir(id.node())
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
		partAttr(&a)
		c, generation := v.partChild(id.view(), n, &a)
		if !addGeneration(out, name, c, generation, &a, pos+firstPos, plus) {
			return fuse.OK
		}
	}
}
