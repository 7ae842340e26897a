package overlay

import (
	"fmt"
	"slices"
	"strings"
)

// What tells in what two nodes of one path differ.
type What uint16

// The differences.
const (
	DiffType    What = 1 << iota // file, directory, link …; a device's number
	DiffContent                  // of a regular file
	DiffMode
	DiffOwner // user or group
	DiffTime  // of modification
	DiffXattr
	DiffLink // a symbolic link's target
)

var whats = []string{"type", "content", "mode", "owner", "time", "xattr", "link"}

// String lists the differences, separated by commas.
func (w What) String() string {
	var out []string
	for n, s := range whats {
		if w&(1<<n) != 0 {
			out = append(out, s)
		}
	}
	return strings.Join(out, ",")
}

// Difference is one path that is not the same in two trees.
type Difference struct {
	Op   byte   // 'A': only b has it; 'D': only a has it; 'C': both, and What tells in what they differ
	What What   // of 'C'
	Path string // with a leading "/"; "/" is the root
	A, B NodeID // the nodes, where there are any
}

// Compare calls yield with the differences between two trees until it returns
// false: a directory before what is in it, names sorted bytewise. Of what only
// one tree has, and of a directory in one tree that is something else in the
// other, every path is told of.
//
// What both trees take from the same Layer (the same value, by ==) is the same
// and not looked at. Where the layers differ, attributes are compared, and of
// regular files of the same size equal is asked for the content.
func Compare(a, b *Tree, equal func(a, b NodeID) (bool, error), yield func(Difference) bool) error {
	c := newComparison(a, b)
	c.equal, c.yield = equal, yield
	if c.same(a.root, b.root) {
		return nil
	}
	if w, err := c.differ(a.root, b.root); err != nil {
		return err
	} else if w != 0 && !yield(Difference{Op: 'C', What: w, Path: "/", A: a.root, B: b.root}) {
		return nil
	}
	_, err := c.dir(nil, a.root, b.root)
	return err
}

type comparison struct {
	a, b  *Tree
	of    []int // for each layer of a, which of b it is, -1: none
	equal func(a, b NodeID) (bool, error)
	yield func(Difference) bool
}

func newComparison(a, b *Tree) *comparison {
	c := &comparison{a: a, b: b, of: make([]int, len(a.layers))}
	for i, l := range a.layers {
		c.of[i] = slices.Index(b.layers, l)
	}
	return c
}

// same tells whether two nodes, and all below them, come from the same places.
func (c *comparison) same(x, y NodeID) bool {
	if x.Merged() != y.Merged() {
		return false
	}
	if !x.Merged() {
		return c.of[x.Layer()] == y.Layer() && x.Ino() == y.Ino()
	}
	p, q := c.a.dir(x), c.b.dir(y)
	if p == nil || q == nil || len(p.from) != len(q.from) {
		return false
	}
	for i := range p.from {
		if !c.same(p.from[i], q.from[i]) {
			return false
		}
	}
	return true
}

// sameInode tells whether two nodes have their attributes and content from one inode.
func (c *comparison) sameInode(x, y NodeID) bool {
	x, y = c.a.where(x), c.b.where(y)
	return c.of[x.Layer()] == y.Layer() && x.Ino() == y.Ino()
}

// differ compares two nodes, without what is in them if they are directories.
func (c *comparison) differ(x, y NodeID) (w What, err error) {
	if c.sameInode(x, y) {
		return 0, nil
	}
	p, q := c.a.where(x), c.b.where(y)
	l, m := c.a.layers[p.Layer()], c.b.layers[q.Layer()]
	if w = diffInodes(l, p.Ino(), m, q.Ino()); !w.Undecided(m.Stat(q.Ino())) {
		return w, nil
	}
	same, err := c.equal(x, y)
	if err != nil {
		return 0, err
	}
	if !same {
		w |= DiffContent
	}
	return w, nil
}

// Undecided tells whether two inodes are regular files that have to be read to
// know whether their content is the same: if w is in what they differ as far as
// their layers tell, and the second has the attributes a.
func (w What) Undecided(a Attr) bool {
	return w&(DiffContent|DiffType) == 0 && a.Mode&typeMask == modeRegular && a.Size > 0
}

// diffInodes tells in what two inodes differ, as far as their layers know it:
// the content of files of different size, not of the same.
func diffInodes(l Layer, i Ino, m Layer, k Ino) (w What) {
	p, q := l.Stat(i), m.Stat(k)
	if p.Mode&typeMask != q.Mode&typeMask {
		return DiffType // nothing else of the two can be compared
	}
	if p.Rdev != q.Rdev {
		w |= DiffType
	}
	if p.Mode != q.Mode {
		w |= DiffMode
	}
	if p.UID != q.UID || p.GID != q.GID {
		w |= DiffOwner
	}
	if p.Sec != q.Sec || p.Nsec != q.Nsec {
		w |= DiffTime
	}
	if (p.Flags|q.Flags)&FlagXattr != 0 && !sameXattrs(l, i, m, k) {
		w |= DiffXattr
	}
	switch p.Mode & typeMask {
	case modeSymlink:
		if l.Readlink(i) != m.Readlink(k) {
			w |= DiffLink
		}
	case modeRegular:
		if p.Size != q.Size {
			w |= DiffContent
		}
	}
	return w
}

func sameXattrs(l Layer, i Ino, m Layer, k Ino) bool {
	var of [2][]Xattr
	l.Xattrs(i, func(name string, value []byte) bool { of[0] = append(of[0], Xattr{name, value}); return true })
	m.Xattrs(k, func(name string, value []byte) bool { of[1] = append(of[1], Xattr{name, value}); return true })
	if len(of[0]) != len(of[1]) {
		return false
	}
	for i, v := range of[0] {
		if v.Name != of[1][i].Name || string(v.Value) != string(of[1][i].Value) {
			return false
		}
	}
	return true
}

// dir compares what is in two directories whose path is path.
func (c *comparison) dir(path []byte, x, y NodeID) (more bool, err error) {
	return c.names(path, x, y, func(name string, u, v NodeID, in byte) (bool, error) {
		p := append(append(path, '/'), name...)
		if in == 'C' {
			return c.both(p, u, v)
		}
		return c.whole(p, in, u|v)
	})
}

// names calls yield, until it returns false, with each name in two directories
// whose path is path. in is as Difference.Op has it; the node is 0 where there is none.
func (c *comparison) names(path []byte, x, y NodeID, yield func(name string, u, v NodeID, in byte) (bool, error)) (more bool, err error) {
	p, err := c.a.Dir(x)
	if err != nil {
		return false, fmt.Errorf("%s: %w", path, err)
	}
	q, err := c.b.Dir(y)
	if err != nil {
		return false, fmt.Errorf("%s: %w", path, err)
	}
	n, u, _, inA := p.Next()
	m, v, _, inB := q.Next()
	for inA || inB {
		switch {
		case !inB || inA && n < m:
			if more, err = yield(n, u, 0, 'D'); !more {
				return more, err
			}
			n, u, _, inA = p.Next()
		case !inA || m < n:
			if more, err = yield(m, 0, v, 'A'); !more {
				return more, err
			}
			m, v, _, inB = q.Next()
		default:
			if more, err = yield(n, u, v, 'C'); !more {
				return more, err
			}
			n, u, _, inA = p.Next()
			m, v, _, inB = q.Next()
		}
	}
	return true, nil
}

// both compares two nodes of one path, and what is in them.
func (c *comparison) both(path []byte, u, v NodeID) (more bool, err error) {
	if c.same(u, v) {
		return true, nil
	}
	w, err := c.differ(u, v)
	if err != nil {
		return false, fmt.Errorf("%s: %w", path, err)
	}
	if w != 0 && !c.yield(Difference{Op: 'C', What: w, Path: string(path), A: u, B: v}) {
		return false, nil
	}
	dirA, dirB := c.a.Attr(u).Mode&typeMask == modeDir, c.b.Attr(v).Mode&typeMask == modeDir
	switch {
	case dirA && dirB:
		return c.dir(path, u, v)
	case dirA:
		return c.inside(path, 'D', u)
	case dirB:
		return c.inside(path, 'A', v)
	}
	return true, nil
}

// whole tells of a node that one tree only has, and of all that is in it.
func (c *comparison) whole(path []byte, op byte, n NodeID) (more bool, err error) {
	d := Difference{Op: op, Path: string(path), B: n}
	if op == 'D' {
		d.A, d.B = n, 0
	}
	if !c.yield(d) {
		return false, nil
	}
	return c.inside(path, op, n)
}

// inside tells of all that is in a directory that one tree only has.
func (c *comparison) inside(path []byte, op byte, n NodeID) (more bool, err error) {
	t := c.b
	if op == 'D' {
		t = c.a
	}
	if t.Attr(n).Mode&typeMask != modeDir {
		return true, nil
	}
	r, err := t.Dir(n)
	if err != nil {
		return false, fmt.Errorf("%s: %w", path, err)
	}
	for {
		name, child, _, ok := r.Next()
		if !ok {
			return true, nil
		}
		if more, err := c.whole(append(append(path, '/'), name...), op, child); !more {
			return more, err
		}
	}
}
