package overlay

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// maxMergeLayers bounds a stack: NodeID has 16 bits for the layer.
const maxMergeLayers = 1 << 16

// Tree is a stack of layers as one file system. Directories to which several
// layers contribute are merged when first looked into; all others are served
// straight from their one layer. Immutable to its users, safe for concurrent
// use; readers take no lock.
type Tree struct {
	layers []Layer
	root   NodeID

	merged atomic.Pointer[table] // of directories known to be merged
	mu     sync.Mutex            // guards inserting into merged; never held while a layer is asked
	count  int                   // of merged, guarded by mu
}

// mergedDir is a directory to which more than one layer contributes.
type mergedDir struct {
	id       NodeID
	attr     NodeID   // whose attributes it has: the topmost contribution that is not implied
	from     []NodeID // the contributions, top first, each as a node of its own layer
	children atomic.Pointer[[]child]
}

// child is one entry of a merged directory.
type child struct {
	node NodeID
	ent  Ent // of the topmost layer that has the name: where the name's bytes are
}

// table is an open-addressing hash table that only grows; slots are set once.
type table struct {
	slots []atomic.Pointer[mergedDir]
}

func slot(id NodeID) uint64 { return uint64(id) * 0x9e3779b97f4a7c15 >> 20 }

func (t *table) get(id NodeID) *mergedDir {
	mask := uint64(len(t.slots) - 1)
	for i := slot(id) & mask; ; i = (i + 1) & mask {
		d := t.slots[i].Load()
		if d == nil || d.id == id {
			return d
		}
	}
}

func (t *table) put(d *mergedDir) {
	mask := uint64(len(t.slots) - 1)
	i := slot(d.id) & mask
	for t.slots[i].Load() != nil {
		i = (i + 1) & mask
	}
	t.slots[i].Store(d)
}

func node(layer int, i Ino) NodeID { return NodeID(layer)<<32 | NodeID(i) }

// Merge stacks layers, the lowest first. It is cheap: nothing is merged before
// it is asked for. With no layers the tree is one empty directory. The tree
// uses the layers as long as it is used.
//
// Order inside a layer cannot matter: what a layer hides it hides in the layers
// below, and what it adds it adds on top of that.
func Merge(bottomFirst ...Layer) (*Tree, error) {
	if len(bottomFirst) > maxMergeLayers {
		return nil, fmt.Errorf("%d layers: %w", len(bottomFirst), ErrTooLarge)
	}
	if len(bottomFirst) == 0 {
		bottomFirst = []Layer{emptyLayer{}}
	}
	t := &Tree{layers: slices.Clone(bottomFirst)}
	t.merged.Store(&table{slots: make([]atomic.Pointer[mergedDir], 64)})
	var from []NodeID
	for k := len(t.layers) - 1; k >= 0; k-- {
		from = append(from, node(k, 0))
		if t.layers[k].Stat(0).Flags&FlagOpaque != 0 {
			break
		}
	}
	t.root = t.dirNode(from)
	return t, nil
}

// dirNode returns the node of a directory with these contributions, top first.
func (t *Tree) dirNode(from []NodeID) NodeID {
	if len(from) == 1 {
		return from[0]
	}
	id := from[0] | 1<<63
	if t.merged.Load().get(id) != nil {
		return id
	}
	d := &mergedDir{id: id, attr: from[0], from: slices.Clone(from)}
	for _, f := range from {
		if t.layers[f.Layer()].Stat(f.Ino()).Flags&FlagImplied == 0 {
			d.attr = f
			break
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	tab := t.merged.Load()
	if tab.get(id) != nil {
		return id
	}
	if t.count++; t.count*2 > len(tab.slots) {
		bigger := &table{slots: make([]atomic.Pointer[mergedDir], 2*len(tab.slots))}
		for i := range tab.slots {
			if old := tab.slots[i].Load(); old != nil {
				bigger.put(old)
			}
		}
		bigger.put(d)
		t.merged.Store(bigger)
		return id
	}
	tab.put(d)
	return id
}

// dir returns the record of a merged directory; nil for a node that this tree never gave out.
func (t *Tree) dir(n NodeID) *mergedDir { return t.merged.Load().get(n) }

// Root returns the root directory.
func (t *Tree) Root() NodeID { return t.root }

// Layers returns the layers, the lowest first. The slice must not be changed.
func (t *Tree) Layers() []Layer { return t.layers }

// where returns the node whose attributes n has.
func (t *Tree) where(n NodeID) NodeID {
	if n.Merged() {
		if d := t.dir(n); d != nil {
			return d.attr
		}
		n &^= 1 << 63
	}
	return n
}

// Origin returns the layer, from the bottom, and the inode in it that a node has
// its attributes and content from. Of a merged directory that is the topmost
// contribution that the layer itself has, not one that it only implies.
func (t *Tree) Origin(n NodeID) (layer int, i Ino) {
	w := t.where(n)
	return w.Layer(), w.Ino()
}

// Attr returns the attributes of a node. st_nlink of a merged directory is 1,
// as the kernel's overlayfs has it: "not counted". A file's is that of its own
// layer, as the kernel's is.
func (t *Tree) Attr(n NodeID) Attr {
	w := t.where(n)
	a := t.layers[w.Layer()].Stat(w.Ino())
	if n.Merged() {
		a.Nlink = 1
		a.Flags &^= FlagOpaque
	}
	return a
}

// Readlink returns the target of a symbolic link, "" for other nodes.
func (t *Tree) Readlink(n NodeID) string { return t.layers[n.Layer()].Readlink(n.Ino()) }

// Xattrs calls yield for each extended attribute of a node, sorted by name.
func (t *Tree) Xattrs(n NodeID, yield func(name string, value []byte) bool) {
	w := t.where(n)
	t.layers[w.Layer()].Xattrs(w.Ino(), yield)
}

// Lookup finds a name in a directory. A node that is no directory has no names.
func (t *Tree) Lookup(dir NodeID, name string) (NodeID, bool, error) {
	if !dir.Merged() {
		_, i, _, ok, err := find(t.layers[dir.Layer()], dir.Ino(), name)
		if !ok || err != nil {
			return 0, false, err
		}
		return dir&^(1<<32-1) | NodeID(i), true, nil
	}
	c, err := t.children(dir)
	if err != nil {
		return 0, false, err
	}
	lo, hi := 0, len(c)
	for lo < hi {
		m := int(uint(lo+hi) >> 1)
		switch s := t.name(c[m]); {
		case s == name:
			return c[m].node, true, nil
		case s < name:
			lo = m + 1
		default:
			hi = m
		}
	}
	return 0, false, nil
}

// find looks a name up in one layer. whiteout tells whether the layer hides it
// below; ok whether the layer adds it, as inode i, entry e.
func find(l Layer, dir Ino, name string) (e Ent, i Ino, whiteout, ok bool, err error) {
	lo, hi, err := l.Children(dir)
	if err != nil {
		return 0, 0, false, false, err
	}
	end := hi
	for lo < hi {
		m := lo + (hi-lo)/2
		if s, _, _ := l.Entry(m); s < name {
			lo = m + 1
		} else {
			hi = m
		}
	}
	for e := lo; e < end; e++ {
		s, i, f := l.Entry(e)
		if s != name {
			break
		}
		if f&EntWhiteout == 0 {
			return e, i, whiteout, true, nil
		}
		whiteout = true
	}
	return 0, 0, whiteout, false, nil
}

// name returns the name of a merged directory's child.
func (t *Tree) name(c child) string {
	s, _, _ := t.layers[c.node.Layer()].Entry(c.ent)
	return s
}

// children returns what is in a merged directory, sorted by name, and merges it if that was not done.
func (t *Tree) children(n NodeID) ([]child, error) {
	d := t.dir(n)
	if d == nil {
		return nil, nil
	}
	if c := d.children.Load(); c != nil {
		return *c, nil
	}
	c, err := t.merge(d)
	if err != nil {
		return nil, err
	}
	// Two goroutines may have merged at once; they found the same.
	d.children.CompareAndSwap(nil, &c)
	return *d.children.Load(), nil
}

// cursor walks one contribution's entries.
type cursor struct {
	l     Layer
	layer int
	e, hi Ent
	name  string // of entry e
}

func (c *cursor) load() {
	if c.e < c.hi {
		c.name, _, _ = c.l.Entry(c.e)
	}
}

// at tells whether the entry that comes next has a name.
func (c *cursor) at(name string) bool {
	s, _, _ := c.l.Entry(c.e)
	return s == name
}

// merge makes the list of a merged directory's children: for each name, from
// the top, a whiteout or a non-directory ends the search, directories collect
// up to and with the first opaque one.
func (t *Tree) merge(d *mergedDir) ([]child, error) {
	cs := make([]cursor, len(d.from))
	total := 0
	for k, f := range d.from {
		l := t.layers[f.Layer()]
		lo, hi, err := l.Children(f.Ino())
		if err != nil {
			return nil, fmt.Errorf("merge layer %d: %w", f.Layer(), err)
		}
		cs[k] = cursor{l: l, layer: f.Layer(), e: lo, hi: hi}
		cs[k].load()
		total = max(total, int(hi-lo))
	}
	out := make([]child, 0, total)
	var dirs []NodeID
	for {
		least, any := "", false
		for k := range cs {
			if cs[k].e < cs[k].hi && (!any || cs[k].name < least) {
				least, any = cs[k].name, true
			}
		}
		if !any {
			return slices.Clip(out), nil
		}
		dirs = dirs[:0]
		var top child
		found, done := false, false
		for k := range cs {
			c := &cs[k]
			if c.e == c.hi || c.name != least {
				continue
			}
			for hides := false; c.e < c.hi && c.name == least; c.load() {
				_, i, f := c.l.Entry(c.e)
				if f&EntWhiteout != 0 {
					// It hides what is below, not what its own layer adds, which comes next.
					hides = true
				} else if !done {
					done = t.take(&dirs, &top, &found, node(c.layer, i), c.e)
				}
				c.e++
				done = done || hides && (c.e == c.hi || !c.at(least))
			}
		}
		if len(dirs) > 0 {
			top.node = t.dirNode(dirs)
		}
		if found {
			out = append(out, top)
		}
	}
}

// take adds one layer's contribution to a name; it returns true when nothing below counts any more.
func (t *Tree) take(dirs *[]NodeID, top *child, found *bool, n NodeID, e Ent) bool {
	a := t.layers[n.Layer()].Stat(n.Ino())
	if a.Mode&typeMask != modeDir {
		if !*found {
			*top, *found = child{node: n, ent: e}, true
		}
		return true
	}
	if !*found {
		*top, *found = child{node: n, ent: e}, true
	}
	*dirs = append(*dirs, n)
	return a.Flags&FlagOpaque != 0
}

// Walk finds the node of a path from the root; symbolic links are not followed.
func (t *Tree) Walk(path string) (NodeID, bool, error) {
	n := t.root
	for path != "" {
		s, rest, _ := strings.Cut(path, "/")
		path = rest
		if s == "" {
			continue
		}
		var ok bool
		var err error
		if n, ok, err = t.Lookup(n, s); !ok || err != nil {
			return 0, false, err
		}
	}
	return n, true, nil
}

// emptyLayer is a layer with nothing in it, for an image with no layers.
type emptyLayer struct{}

func (emptyLayer) Inodes() int                          { return 1 }
func (emptyLayer) Children(Ino) (lo, hi Ent, err error) { return 0, 0, nil }
func (emptyLayer) Entry(Ent) (string, Ino, EntFlags)    { return "", 0, 0 }
func (emptyLayer) Stat(Ino) Attr {
	return Attr{Mode: modeDir | 0o755, Nlink: 2, Flags: FlagImplied}
}
func (emptyLayer) Readlink(Ino) string                   { return "" }
func (emptyLayer) Xattrs(Ino, func(string, []byte) bool) {}
func (emptyLayer) Ref(Ino) uint64                        { return 0 }
func (emptyLayer) Path(b []byte, _ Ino) []byte           { return b }
