package overlay

import (
	"bytes"
	"fmt"
	"sync/atomic"
)

// Check checks all that was not looked at yet; see OpenIndexLazily.
func (x *Index) Check() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	for x.work != nil {
		x.step()
	}
	return x.err
}

// until checks until a mark is above a number: at first seen an inode's, then
// open a directory's.
func (x *Index) until(mark *atomic.Uint32, i Ino) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	for x.work != nil && uint32(i) >= mark.Load() {
		x.step()
	}
	if uint32(i) < mark.Load() {
		return nil
	}
	return x.err
}

// errUnfinished is what is wrong if reading the mapped file ends in a panic.
var errUnfinished = fmt.Errorf("index cannot be read: %w", ErrCorrupt)

// step checks one directory more; x.mu is held.
func (x *Index) step() {
	c := x.work
	x.work, x.err = nil, errUnfinished
	if x.err = c.step(); x.err != nil {
		return
	}
	x.seen.Store(c.next)
	if c.at == len(c.dirs) {
		x.open.Store(uint32(x.n))
		return
	}
	x.open.Store(c.dirs[c.at])
	x.work = c
}

// A checker proves that no accessor of an index can leave its section and no
// walk can loop. It holds an index to the order in which Finish writes: breadth
// first, an inode numbered when its first name comes, the directories' entries
// without gap or overlap. So one pass in that order sees each entry once, and
// each inode at its first name; it stops after any directory, and goes on when
// somebody looks further.
type checker struct {
	*Index
	next  uint32   // the inode that the next new name has
	first uint64   // the entry that the next directory begins with
	dirs  []uint32 // directories seen, in order
	at    int      // the next of them

	depth, levelEnd int // of dirs[at], and the first one that is deeper

	many  bool                // an inode says that it has several names
	names []uint32            // names of an inode after its first; nil: none has any
	sets  map[uint32]struct{} // xattr sets that are known to be good
	set   uint32              // the last of them
	plain [2]uint64           // a part of the arena without slash and NUL
}

// begin gets an index ready to be checked, and checks the inode of its root.
func (x *Index) begin() error {
	c := &checker{Index: x, next: 1, levelEnd: 1}
	if err := c.inode(0, 0, noEntry); err != nil {
		return err
	}
	if len(c.dirs) == 0 {
		return fmt.Errorf("index root is no directory: %w", ErrCorrupt)
	}
	x.work = c
	x.seen.Store(1)
	return nil
}

// step checks the next directory, and after the last one what concerns them all.
func (c *checker) step() error {
	if c.at == c.levelEnd {
		c.depth, c.levelEnd = c.depth+1, len(c.dirs)
	}
	if c.depth >= maxDepth {
		return c.badInode(c.dirs[c.at], "too deep")
	}
	n, err := c.dir(c.dirs[c.at], c.first)
	if err != nil {
		return err
	}
	c.first += n
	if c.at++; c.at < len(c.dirs) {
		return nil
	}
	if c.first != c.entryCount() || int(c.next) != c.n {
		return fmt.Errorf("index has entries or inodes in no directory: %w", ErrCorrupt)
	}
	return c.linkCounts()
}

func (c *checker) badInode(i uint32, what string) error {
	return fmt.Errorf("index inode %d: %s: %w", i, what, ErrCorrupt)
}

func (c *checker) badEntry(e uint64, what string) error {
	return fmt.Errorf("index entry %d: %s: %w", e, what, ErrCorrupt)
}

func (c *checker) entryCount() uint64 { return uint64(len(c.entries) / entrySize) }

// dir checks a directory, whose entries have to begin at first, and returns how many it has.
func (c *checker) dir(i uint32, first uint64) (n uint64, err error) {
	r := c.record(i)
	if n = uint64(le.Uint32(r[64:])); uint64(le.Uint32(r[60:])) != first || n > c.entryCount()-first {
		return 0, c.badInode(i, "entries out of place")
	}
	links := le.Uint32(r[4:])
	prev, prevFlags := "", EntFlags(0)
	sub := uint32(2)
	for e := first; e < first+n; e++ {
		r := c.ent(Ent(e))
		off, l, ino, flags := uint64(le.Uint32(r)), uint64(le.Uint16(r[8:])), le.Uint32(r[4:]), EntFlags(r[10])
		if off+l > uint64(len(c.arena)) || l == 0 || l > maxName || flags&^EntWhiteout != 0 || r[11] != 0 {
			return 0, c.badEntry(e, "name out of place")
		}
		name := c.arena[off : off+l]
		if off < c.plain[0] || off+l > c.plain[1] {
			c.plain = plainFrom(c.arena, off)
		}
		if off+l > c.plain[1] || name[0] == '.' && (l == 1 || l == 2 && name[1] == '.') {
			return 0, c.badEntry(e, "bad name")
		}
		if name := str(name); name <= prev && (name < prev || prevFlags&EntWhiteout == 0 || flags&EntWhiteout != 0) {
			return 0, c.badEntry(e, "out of order")
		}
		prev, prevFlags = str(name), flags
		isDir := false
		switch {
		case ino == c.next && int(ino) < c.n:
			c.next++
			dirs := len(c.dirs)
			if err := c.inode(ino, i, uint32(e)); err != nil {
				return 0, err
			}
			if isDir = len(c.dirs) > dirs; isDir {
				sub++
			}
		case ino == 0 || ino >= c.next:
			return 0, c.badEntry(e, "inode out of place")
		default:
			if le.Uint32(c.record(ino))&typeMask == modeDir {
				return 0, c.badEntry(e, "directory out of place")
			}
			if c.names == nil {
				c.names = make([]uint32, c.n)
			}
			c.names[ino]++
		}
		if flags&EntWhiteout != 0 && le.Uint32(c.record(ino))&typeMask != modeRegular {
			return 0, c.badEntry(e, "whiteout is no file")
		}
	}
	if links != sub {
		return 0, c.badInode(i, "link count is wrong")
	}
	return n, nil
}

// inode checks the record of an inode whose first name is entry self of directory parent.
func (c *checker) inode(i, parent, self uint32) error {
	r := c.record(i)
	mode, size := le.Uint32(r), le.Uint64(r[32:])
	if mode>>16 != 0 || le.Uint32(r[20:]) >= 1e9 || size>>63 != 0 {
		return c.badInode(i, "attributes out of range")
	}
	if i != 0 && (le.Uint32(r[72:]) != parent || le.Uint32(r[76:]) != self) {
		return c.badInode(i, "name is elsewhere")
	}
	switch mode & typeMask {
	case modeDir:
		c.dirs = append(c.dirs, i)
	case modeSymlink:
		off, n := uint64(le.Uint32(r[60:])), uint64(le.Uint32(r[64:]))
		if off+n > uint64(len(c.arena)) || n != size || n > maxPath {
			return c.badInode(i, "link target out of place")
		}
		fallthrough
	case modeRegular, modeChar, modeBlock, modeFifo, modeSocket:
		c.many = c.many || le.Uint32(r[4:]) != 1
	default:
		return c.badInode(i, "unknown type")
	}
	off := le.Uint32(r[68:])
	has := Flags(le.Uint32(r[56:]))&FlagXattr != 0
	if has != (off != noXattrs) {
		return c.badInode(i, "xattr flag is wrong")
	}
	if !has || off == c.set {
		return nil
	}
	if _, ok := c.sets[off]; !ok {
		if !goodXattrs(c.xattrs, uint64(off-1)) {
			return c.badInode(i, "xattrs out of place")
		}
		if c.sets == nil {
			c.sets = map[uint32]struct{}{}
		}
		c.sets[off] = struct{}{}
	}
	c.set = off
	return nil
}

// linkCounts compares what inodes that are no directories say with what was seen.
func (c *checker) linkCounts() error {
	if !c.many && c.names == nil {
		return nil
	}
	for i := range c.n {
		r := c.record(uint32(i))
		if le.Uint32(r)&typeMask == modeDir {
			continue
		}
		names := uint32(1)
		if c.names != nil {
			names += c.names[i]
		}
		if le.Uint32(r[4:]) != names {
			return c.badInode(uint32(i), "link count is wrong")
		}
	}
	return nil
}

// plainFrom returns the part of the arena that begins at off and has no slash and
// no NUL. Finish writes one name behind the other, with the targets of links between
// them, so that it has the next names in it, too.
func plainFrom(arena []byte, off uint64) [2]uint64 {
	const far = 1 << 10 // and no more for a name that an index made by others has out of order
	b := arena[off:min(off+far, uint64(len(arena)))]
	for _, c := range []byte{'/', 0} {
		if n := bytes.IndexByte(b, c); n >= 0 {
			b = b[:n]
		}
	}
	return [2]uint64{off, off + uint64(len(b))}
}

// goodXattrs tells whether a set at off lies in b.
func goodXattrs(b []byte, off uint64) bool {
	if off+2 > uint64(len(b)) {
		return false
	}
	b = b[off:]
	n := le.Uint16(b)
	b = b[2:]
	for ; n > 0; n-- {
		if len(b) < 6 {
			return false
		}
		k, v := uint64(le.Uint16(b)), uint64(le.Uint32(b[2:]))
		b = b[6:]
		if k+v > uint64(len(b)) || k == 0 {
			return false
		}
		b = b[k+v:]
	}
	return true
}
