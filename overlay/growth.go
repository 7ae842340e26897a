package overlay

import "slices"

// Growth returns how many bytes the regular files of b have more than those of
// a. In each tree an inode counts once, however many names it has there: where
// one of several names is gone, nothing became free. check is called for each
// directory, and its error ends it.
//
// What both trees take from the same Layer is not looked at, but where a file
// has names in there as well as elsewhere.
func Growth(a, b *Tree, check func() error) (int64, error) {
	g := growth{comparison: newComparison(a, b), check: check, links: map[linkKey]*linked{}}
	for side, t := range []*Tree{a, b} {
		for _, l := range t.layers {
			k := slices.Index(g.layers, l)
			if k < 0 {
				k = len(g.layers)
				g.layers = append(g.layers, l)
			}
			g.numbers[side] = append(g.numbers[side], k)
		}
	}
	if err := g.both(nil, a.root, b.root); err != nil {
		return 0, err
	}
	return g.settle()
}

// growth goes through what is not the same in two trees.
type growth struct {
	*comparison
	check   func() error
	layers  []Layer  // of both trees, each once
	numbers [2][]int // of each tree's layers in that
	bytes   int64    // of files with one name
	links   map[linkKey]*linked
	skipped []NodeID // directories of a that b has, too
}

// linkKey is an inode with several names in its layer, a position in growth.layers.
type linkKey struct {
	layer int
	ino   Ino
}

// linked is how many names of an inode were met in each tree.
type linked struct{ names [2]uint32 }

// once tells whether only one of the trees has the inode, as far as was seen,
// and what that makes of the growth.
func (n *linked) once() (sign int64) {
	switch {
	case n.names[0] == 0:
		return 1
	case n.names[1] == 0:
		return -1
	}
	return 0
}

func (g *growth) tree(side int) *Tree {
	if side == 0 {
		return g.a
	}
	return g.b
}

func (a Attr) isDir() bool { return a.Mode&typeMask == modeDir }

// meet counts a node of one side.
func (g *growth) meet(side int, n NodeID, a Attr) {
	switch {
	case a.Mode&typeMask != modeRegular:
	case a.Nlink > 1:
		k := g.key(side, n)
		l := g.links[k]
		if l == nil {
			l = &linked{}
			g.links[k] = l
		}
		l.names[side]++
	case side == 0:
		g.bytes -= int64(a.Size)
	default:
		g.bytes += int64(a.Size)
	}
}

func (g *growth) key(side int, n NodeID) linkKey { return linkKey{g.numbers[side][n.Layer()], n.Ino()} }

// both goes through two nodes of one path.
func (g *growth) both(path []byte, u, v NodeID) error {
	p, q := g.a.Attr(u), g.b.Attr(v)
	if g.same(u, v) && p.isDir() {
		g.skipped = append(g.skipped, u)
		return nil
	}
	if !p.isDir() || !q.isDir() {
		if err := g.only(0, u, p); err != nil {
			return err
		}
		return g.only(1, v, q)
	}
	if err := g.check(); err != nil {
		return err
	}
	_, err := g.names(path, u, v, func(name string, u, v NodeID, in byte) (more bool, err error) {
		switch in {
		case 'D':
			err = g.only(0, u, g.a.Attr(u))
		case 'A':
			err = g.only(1, v, g.b.Attr(v))
		default:
			err = g.both(append(append(path, '/'), name...), u, v)
		}
		return err == nil, err
	})
	return err
}

// only goes through a node that one side has, or that is another on the other.
func (g *growth) only(side int, n NodeID, a Attr) error {
	if !a.isDir() {
		g.meet(side, n, a)
		return nil
	}
	return g.inside(side, n, func(n NodeID, a Attr) error { return g.only(side, n, a) })
}

// inside calls yield with what is in a directory.
func (g *growth) inside(side int, dir NodeID, yield func(NodeID, Attr) error) error {
	if err := g.check(); err != nil {
		return err
	}
	t := g.tree(side)
	r, err := t.Dir(dir)
	for err == nil {
		_, n, _, ok := r.Next()
		if !ok {
			break
		}
		err = yield(n, t.Attr(n))
	}
	return err
}

// settle adds the files with several names. Of one that only one of the trees
// seems to have a name may be where nobody looked, and so in both.
func (g *growth) settle() (int64, error) {
	open := map[linkKey]bool{}
	for k, n := range g.links {
		a := g.layers[k.layer].Stat(k.ino)
		sign := n.once()
		g.bytes += sign * int64(a.Size)
		if sign != 0 && max(n.names[0], n.names[1]) < a.Nlink {
			open[k] = true
		}
	}
	for _, dir := range g.skipped {
		if len(open) == 0 {
			break
		}
		if err := g.find(dir, open); err != nil {
			return 0, err
		}
	}
	return g.bytes, nil
}

// find takes back what was counted of the open files that are in a directory of both trees.
func (g *growth) find(dir NodeID, open map[linkKey]bool) error {
	return g.inside(0, dir, func(n NodeID, a Attr) error {
		if a.isDir() {
			return g.find(n, open)
		}
		if k := g.key(0, n); open[k] {
			delete(open, k)
			g.bytes -= g.links[k].once() * int64(a.Size)
		}
		return nil
	})
}
