package overlay

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"unsafe"
)

const (
	magic       = "imagefs\x00"
	formatNum   = 1
	headerSize  = 48
	inodeSize   = 80
	entrySize   = 12
	noXattrs    = 0
	noEntry     = ^uint32(0)
	maxMeta     = 64 << 10
	crcCovers   = 16 // offset of the first byte that the checksum covers
	typeMask    = 0o170000
	modeFifo    = 0o010000
	modeChar    = 0o020000
	modeDir     = 0o040000
	modeBlock   = 0o060000
	modeRegular = 0o100000
	modeSymlink = 0o120000
	modeSocket  = 0o140000
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var le = binary.LittleEndian

// Index is a Layer that lies in one block of bytes, typically a mapped file.
// The format is drawn in the package's doc. Immutable.
type Index struct {
	inodes, entries, arena, xattrs, meta []byte
	n                                    int
}

// OpenIndex checks b, checksum and structure, and returns the layer in it. The
// index keeps b, which must not change. ErrCorrupt for everything that no
// Builder writes; after that no method can fail.
func OpenIndex(b []byte) (*Index, error) {
	if len(b) < headerSize || string(b[:8]) != magic {
		return nil, fmt.Errorf("no index: %w", ErrCorrupt)
	}
	if v := le.Uint32(b[8:]); v != formatNum {
		return nil, fmt.Errorf("index of format %d, want %d: %w", v, formatNum, ErrCorrupt)
	}
	sum := make(chan uint32, 1) // at the same time as the rest: a mount waits for it
	go func() { sum <- crc32.Checksum(b[crcCovers:], castagnoli) }()
	x, err := open(b)
	if <-sum != le.Uint32(b[12:]) {
		return nil, fmt.Errorf("index checksum does not match: %w", ErrCorrupt)
	}
	return x, err
}

// open is OpenIndex without the checksum.
func open(b []byte) (*Index, error) {
	n, e := uint64(le.Uint32(b[16:])), uint64(le.Uint32(b[20:]))
	sizes := [5]uint64{n * inodeSize, e * entrySize, uint64(le.Uint32(b[24:])), uint64(le.Uint32(b[28:])), uint64(le.Uint32(b[32:]))}
	rest := b[headerSize:]
	var parts [5][]byte
	for i, s := range sizes {
		if s > uint64(len(rest)) {
			return nil, fmt.Errorf("index is too short: %w", ErrCorrupt)
		}
		parts[i], rest = rest[:s:s], rest[s:]
	}
	if len(rest) != 0 || n == 0 || sizes[4] > maxMeta {
		return nil, fmt.Errorf("index has the wrong size: %w", ErrCorrupt)
	}
	x := &Index{inodes: parts[0], entries: parts[1], arena: parts[2], xattrs: parts[3], meta: parts[4], n: int(n)}
	if err := x.check(); err != nil {
		return nil, err
	}
	return x, nil
}

// SetMeta returns an index, as Builder.Finish made it without meta data, with
// meta added. It may change and keep index.
func SetMeta(index, meta []byte) ([]byte, error) {
	if len(meta) > maxMeta {
		return nil, fmt.Errorf("%d bytes of meta data: %w", len(meta), ErrTooLarge)
	}
	if len(index) < headerSize || le.Uint32(index[32:]) != 0 {
		return nil, fmt.Errorf("no index without meta data: %w", ErrCorrupt)
	}
	index = append(index, meta...)
	le.PutUint32(index[32:], uint32(len(meta)))
	le.PutUint32(index[12:], crc32.Checksum(index[crcCovers:], castagnoli))
	return index, nil
}

// Meta returns the bytes that were given to Builder.Finish or SetMeta.
func (x *Index) Meta() []byte { return x.meta }

// Size is the number of bytes that the index lies in.
func (x *Index) Size() int64 {
	return int64(headerSize + len(x.inodes) + len(x.entries) + len(x.arena) + len(x.xattrs) + len(x.meta))
}

var _ Layer = (*Index)(nil)

func (x *Index) rec(i Ino) []byte { return x.inodes[int(i)*inodeSize:][:inodeSize:inodeSize] }

func (x *Index) ent(e Ent) []byte { return x.entries[int(e)*entrySize:][:entrySize:entrySize] }

func str(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// Inodes implements Layer.
func (x *Index) Inodes() int { return x.n }

// Children implements Layer.
func (x *Index) Children(dir Ino) (lo, hi Ent, err error) {
	r := x.rec(dir)
	if le.Uint32(r)&typeMask != modeDir {
		return 0, 0, nil
	}
	lo = Ent(le.Uint32(r[60:]))
	return lo, lo + Ent(le.Uint32(r[64:])), nil
}

// Entry implements Layer.
func (x *Index) Entry(e Ent) (name string, i Ino, flags EntFlags) {
	r := x.ent(e)
	off, n := le.Uint32(r), le.Uint16(r[8:])
	return str(x.arena[off : off+uint32(n)]), Ino(le.Uint32(r[4:])), EntFlags(r[10])
}

// Stat implements Layer.
func (x *Index) Stat(i Ino) Attr {
	r := x.rec(i)
	return Attr{
		Mode: le.Uint32(r), Nlink: le.Uint32(r[4:]), UID: le.Uint32(r[8:]), GID: le.Uint32(r[12:]),
		Rdev: le.Uint32(r[16:]), Nsec: le.Uint32(r[20:]), Sec: int64(le.Uint64(r[24:])),
		Size: le.Uint64(r[32:]), Blocks: le.Uint64(r[40:]), Flags: Flags(le.Uint32(r[56:])),
	}
}

// Ref implements Layer.
func (x *Index) Ref(i Ino) uint64 { return le.Uint64(x.rec(i)[48:]) }

// Readlink implements Layer.
func (x *Index) Readlink(i Ino) string {
	r := x.rec(i)
	if le.Uint32(r)&typeMask != modeSymlink {
		return ""
	}
	off, n := le.Uint32(r[60:]), le.Uint32(r[64:])
	return str(x.arena[off : off+n])
}

// Xattrs implements Layer.
func (x *Index) Xattrs(i Ino, yield func(name string, value []byte) bool) {
	if off := le.Uint32(x.rec(i)[68:]); off != noXattrs {
		eachXattr(x.xattrs[off-1:], yield)
	}
}

// eachXattr walks a set: a 16-bit count, then for each: 16-bit name length,
// 32-bit value length, name, value.
func eachXattr(b []byte, yield func(name string, value []byte) bool) {
	n := le.Uint16(b)
	b = b[2:]
	for ; n > 0; n-- {
		k, v := uint32(le.Uint16(b)), le.Uint32(b[2:])
		b = b[6:]
		if !yield(str(b[:k]), b[k:k+v:k+v]) {
			return
		}
		b = b[k+v:]
	}
}

// Path implements Layer.
func (x *Index) Path(b []byte, i Ino) []byte {
	if i == 0 {
		return b
	}
	r := x.rec(i)
	if p := Ino(le.Uint32(r[72:])); p != 0 {
		b = append(x.Path(b, p), '/')
	}
	e := x.ent(Ent(le.Uint32(r[76:])))
	off, n := le.Uint32(e), le.Uint16(e[8:])
	return append(b, x.arena[off:off+uint32(n)]...)
}

// check proves that no accessor can leave its section and no walk can loop. It
// holds an index to the order in which Finish writes: breadth first, an inode
// numbered when its first name comes, the directories' entries without gap or
// overlap. So one pass in that order sees each entry once, and each inode at
// its first name; it is what a mount waits for, at 16 ns an entry.
func (x *Index) check() error {
	c := checker{Index: x, next: 1}
	if err := c.inode(0, 0, noEntry); err != nil {
		return err
	}
	if len(c.dirs) == 0 {
		return fmt.Errorf("index root is no directory: %w", ErrCorrupt)
	}
	first, depth, levelEnd := uint64(0), 0, 1
	for q := 0; q < len(c.dirs); q++ {
		if q == levelEnd {
			depth, levelEnd = depth+1, len(c.dirs)
		}
		if depth >= maxDepth {
			return c.badInode(c.dirs[q], "too deep")
		}
		n, err := c.dir(c.dirs[q], first)
		if err != nil {
			return err
		}
		first += n
	}
	if first != c.entryCount() || int(c.next) != x.n {
		return fmt.Errorf("index has entries or inodes in no directory: %w", ErrCorrupt)
	}
	return c.linkCounts()
}

// A checker is where a check is.
type checker struct {
	*Index
	next  uint32              // the inode that the next new name has
	dirs  []uint32            // directories seen, in order
	many  bool                // an inode says that it has several names
	names []uint32            // names of an inode after its first; nil: none has any
	sets  map[uint32]struct{} // xattr sets that are known to be good
	set   uint32              // the last of them
	plain [2]uint64           // a part of the arena without slash and NUL
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
	r := c.rec(Ino(i))
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
			if le.Uint32(c.rec(Ino(ino)))&typeMask == modeDir {
				return 0, c.badEntry(e, "directory out of place")
			}
			if c.names == nil {
				c.names = make([]uint32, c.n)
			}
			c.names[ino]++
		}
		if flags&EntWhiteout != 0 && le.Uint32(c.rec(Ino(ino)))&typeMask != modeRegular {
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
	r := c.rec(Ino(i))
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
		r := c.rec(Ino(i))
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

// Whiteout tells whether an inode is that of a whiteout: it has attributes and no content.
func (x *Index) Whiteout(i Ino) bool {
	return i != 0 && EntFlags(x.ent(Ent(le.Uint32(x.rec(i)[76:])))[10])&EntWhiteout != 0
}
