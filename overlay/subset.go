package overlay

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"unsafe"
)

// Subset is some of the paths of a tree, as a tree of their own, with the
// directories that lead to them. Nodes are those of the tree. Immutable, safe
// for concurrent use; readers take no lock and allocate nothing.
//
// It keeps, for each directory that shows some of what is in it only, the
// positions of those entries:
//
//	dirs  ┌──────────┬────┬────┐       kids  ┌─────┬─────┬───
//	      │ NodeID   │ lo │ hi │ ──────────► │ pos │ pos │ …      as DirReader.Seek takes them
//	      └──────────┴────┴────┘             └─────┴─────┴───
//	       sorted by node
//
// A directory that is not there shows all that is in it.
type Subset struct {
	t    *Tree
	dirs []subsetDir
	kids []uint32
}

type subsetDir struct {
	node   NodeID
	lo, hi uint32 // of kids
}

// Tree returns the tree of which it is a part.
func (s *Subset) Tree() *Tree { return s.t }

// Bytes is how much memory the subset takes, without the tree.
func (s *Subset) Bytes() int {
	return cap(s.dirs)*int(unsafe.Sizeof(subsetDir{})) + cap(s.kids)*4
}

// shown returns the entries that a directory shows; all is set if it is not in part only.
func (s *Subset) shown(dir NodeID) (kids []uint32, all bool) {
	n, ok := slices.BinarySearchFunc(s.dirs, dir, func(d subsetDir, n NodeID) int { return cmp.Compare(d.node, n) })
	if !ok {
		return nil, true
	}
	return s.kids[s.dirs[n].lo:s.dirs[n].hi], false
}

// SubsetReader walks what a directory of a Subset shows, sorted by name. Not
// safe for concurrent use.
type SubsetReader struct {
	DirReader
	kids []uint32
	all  bool
	pos  uint64
}

// Dir opens a directory of the subset.
func (s *Subset) Dir(dir NodeID) (SubsetReader, error) {
	d, err := s.t.Dir(dir)
	kids, all := s.shown(dir)
	return SubsetReader{DirReader: d, kids: kids, all: all}, err
}

// Seek continues the walk at a position that Next returned; 0 is the start.
func (r *SubsetReader) Seek(pos uint64) {
	r.pos = pos
	r.DirReader.Seek(pos)
}

// Next returns the next entry, and the position to Seek to for the one after it.
func (r *SubsetReader) Next() (name string, n NodeID, pos uint64, ok bool) {
	if r.all {
		return r.DirReader.Next()
	}
	if r.pos >= uint64(len(r.kids)) {
		return "", 0, r.pos, false
	}
	name, n, ok = r.at(r.kids[r.pos])
	r.pos++
	return name, n, r.pos, ok
}

func (r *SubsetReader) at(kid uint32) (name string, n NodeID, ok bool) {
	r.DirReader.Seek(uint64(kid))
	name, n, _, ok = r.DirReader.Next()
	return name, n, ok
}

// Lookup finds a name in a directory of the subset.
func (s *Subset) Lookup(dir NodeID, name string) (NodeID, bool, error) {
	kids, all := s.shown(dir)
	if all {
		return s.t.Lookup(dir, name)
	}
	d, err := s.t.Dir(dir)
	if err != nil {
		return 0, false, err
	}
	r := SubsetReader{DirReader: d}
	lo, hi := 0, len(kids)
	for lo < hi {
		m := int(uint(lo+hi) >> 1)
		switch s, n, ok := r.at(kids[m]); {
		case !ok:
			return 0, false, fmt.Errorf("a directory is shorter than it was: %w", ErrCorrupt)
		case s == name:
			return n, true, nil
		case s < name:
			lo = m + 1
		default:
			hi = m
		}
	}
	return 0, false, nil
}

// SubsetBuilder makes a Subset of paths that come in the order in which Compare
// tells of them: a directory before what is in it, names sorted bytewise.
type SubsetBuilder struct {
	s     Subset
	on    []subsetLevel // the directories on the way to the latest path, the root first
	whole string        // what starts with this is shown already; "" if nothing is
}

type subsetLevel struct {
	name string
	node NodeID
	r    DirReader
	kids []uint32
}

// NewSubset starts a subset of a tree, which shows an empty root directory.
func NewSubset(t *Tree) (*SubsetBuilder, error) {
	b := &SubsetBuilder{s: Subset{t: t}}
	return b, b.push("", t.Root())
}

func (b *SubsetBuilder) push(name string, n NodeID) error {
	r, err := b.s.t.Dir(n)
	if err != nil {
		return err
	}
	if len(b.on) < cap(b.on) {
		b.on = b.on[:len(b.on)+1] // the kids of a level that was left have room to use again
	} else {
		b.on = append(b.on, subsetLevel{})
	}
	l := &b.on[len(b.on)-1]
	l.name, l.node, l.r, l.kids = name, n, r, l.kids[:0]
	return nil
}

// pop leaves the directories below a depth.
func (b *SubsetBuilder) pop(depth int) {
	for len(b.on) > depth {
		l := &b.on[len(b.on)-1]
		lo := uint32(len(b.s.kids))
		b.s.kids = append(b.s.kids, l.kids...)
		b.s.dirs = append(b.s.dirs, subsetDir{l.node, lo, uint32(len(b.s.kids))})
		b.on = b.on[:len(b.on)-1]
	}
}

// Add shows a path of the tree, which starts with "/", and if whole is set all
// that is in it. ErrCorrupt if the tree has no such path, or if it is out of order.
func (b *SubsetBuilder) Add(path string, whole bool) error {
	if b.whole != "" && strings.HasPrefix(path, b.whole) {
		return nil
	}
	b.whole = ""
	rest := strings.TrimPrefix(path, "/")
	depth := 1
	for ; depth < len(b.on) && rest != ""; depth++ {
		name, after, _ := strings.Cut(rest, "/")
		if name != b.on[depth].name {
			break
		}
		rest = after
	}
	b.pop(depth)
	for rest != "" {
		name, after, _ := strings.Cut(rest, "/")
		n, err := b.on[len(b.on)-1].find(name)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if rest = after; rest == "" && whole {
			b.whole = path + "/"
			return nil
		}
		if b.s.t.Attr(n).Mode&typeMask != modeDir {
			return nil
		}
		if err := b.push(name, n); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	return nil
}

// find shows a name of the directory, which comes after all that are shown.
func (l *subsetLevel) find(name string) (NodeID, error) {
	for {
		s, n, pos, ok := l.r.Next()
		switch {
		case !ok || s > name:
			return 0, fmt.Errorf("not there, or out of order: %w", ErrCorrupt)
		case s == name:
			l.kids = append(l.kids, uint32(pos-1))
			return n, nil
		}
	}
}

// Subset ends the building.
func (b *SubsetBuilder) Subset() *Subset {
	b.pop(0)
	s := b.s
	s.dirs, s.kids = slices.Clip(s.dirs), slices.Clip(s.kids)
	slices.SortFunc(s.dirs, func(x, y subsetDir) int { return cmp.Compare(x.node, y.node) })
	return &s
}
