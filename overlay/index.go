package overlay

import (
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
	if crc32.Checksum(b[crcCovers:], castagnoli) != le.Uint32(b[12:]) {
		return nil, fmt.Errorf("index checksum does not match: %w", ErrCorrupt)
	}
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

// check proves that no accessor can leave its section and no walk can loop:
// directories are numbered before what is in them, and their ranges follow
// each other without gap or overlap.
func (x *Index) check() error {
	bad := func(i int, what string) error { return fmt.Errorf("index inode %d: %s: %w", i, what, ErrCorrupt) }
	nents := uint64(len(x.entries) / entrySize)
	names := make([]uint32, x.n) // entries that name an inode
	depth := make([]uint16, x.n)
	sets := map[uint32]struct{}{} // xattr sets that are known to be good
	next := uint64(0)
	for i := 0; i < x.n; i++ {
		r := x.rec(Ino(i))
		mode := le.Uint32(r)
		a, n := uint64(le.Uint32(r[60:])), uint64(le.Uint32(r[64:]))
		switch mode & typeMask {
		case modeDir:
			if a != next || n > nents-next {
				return bad(i, "entries out of place")
			}
			next += n
			if err := x.checkDir(i, a, n, names, depth); err != nil {
				return err
			}
		case modeSymlink:
			if a+n > uint64(len(x.arena)) || n != le.Uint64(r[32:]) || n > maxPath {
				return bad(i, "link target out of place")
			}
		case modeRegular, modeChar, modeBlock, modeFifo, modeSocket:
		default:
			return bad(i, "unknown type")
		}
		if mode>>16 != 0 || le.Uint32(r[20:]) >= 1e9 || le.Uint64(r[32:])>>63 != 0 {
			return bad(i, "attributes out of range")
		}
		if err := x.checkXattrs(i, r, sets); err != nil {
			return err
		}
	}
	if next != nents || x.rec(0) == nil || le.Uint32(x.rec(0))&typeMask != modeDir {
		return fmt.Errorf("index root is no directory of all: %w", ErrCorrupt)
	}
	for i := 1; i < x.n; i++ {
		r := x.rec(Ino(i))
		parent, self := le.Uint32(r[72:]), le.Uint32(r[76:])
		if names[i] == 0 || uint64(self) >= nents || le.Uint32(x.ent(Ent(self))[4:]) != uint32(i) || int(parent) >= x.n {
			return bad(i, "has no name")
		}
		lo, hi, _ := x.Children(Ino(parent))
		if Ent(self) < lo || Ent(self) >= hi {
			return bad(i, "name is elsewhere")
		}
		if le.Uint32(r)&typeMask != modeDir && le.Uint32(r[4:]) != names[i] {
			return bad(i, "link count is wrong")
		}
	}
	return nil
}

func (x *Index) checkDir(i int, first, n uint64, names []uint32, depth []uint16) error {
	bad := func(e uint64, what string) error { return fmt.Errorf("index entry %d: %s: %w", e, what, ErrCorrupt) }
	if depth[i] >= maxDepth {
		return bad(first, "too deep")
	}
	prev, prevFlags := "", EntFlags(0)
	sub := uint32(2)
	for e := first; e < first+n; e++ {
		r := x.ent(Ent(e))
		off, l, ino := uint64(le.Uint32(r)), uint64(le.Uint16(r[8:])), le.Uint32(r[4:])
		if off+l > uint64(len(x.arena)) || l == 0 || l > maxName || r[10]&^byte(EntWhiteout) != 0 || r[11] != 0 {
			return bad(e, "name out of place")
		}
		name, flags := str(x.arena[off:off+l]), EntFlags(r[10])
		for k := 0; k < len(name); k++ {
			if name[k] == '/' || name[k] == 0 {
				return bad(e, "bad name")
			}
		}
		if name == "." || name == ".." {
			return bad(e, "bad name")
		}
		if e > first && (name < prev || name == prev && (prevFlags&EntWhiteout == 0 || flags&EntWhiteout != 0)) {
			return bad(e, "out of order")
		}
		prev, prevFlags = name, flags
		if ino == 0 || int(ino) >= x.n {
			return bad(e, "inode out of range")
		}
		child := x.rec(Ino(ino))
		names[ino]++
		switch le.Uint32(child) & typeMask {
		case modeDir:
			// A directory has one name, and a larger number than its parent.
			if int(ino) <= i || names[ino] > 1 || le.Uint32(child[72:]) != uint32(i) || flags&EntWhiteout != 0 {
				return bad(e, "directory out of place")
			}
			depth[ino] = depth[i] + 1
			sub++
		case modeRegular:
		default:
			if flags&EntWhiteout != 0 {
				return bad(e, "whiteout is no file")
			}
		}
	}
	if le.Uint32(x.rec(Ino(i))[4:]) != sub {
		return bad(first, "link count is wrong")
	}
	return nil
}

func (x *Index) checkXattrs(i int, r []byte, sets map[uint32]struct{}) error {
	off := uint64(le.Uint32(r[68:]))
	has := Flags(le.Uint32(r[56:]))&FlagXattr != 0
	if has != (off != noXattrs) {
		return fmt.Errorf("index inode %d: xattr flag is wrong: %w", i, ErrCorrupt)
	}
	if !has {
		return nil
	}
	if _, ok := sets[uint32(off)]; ok {
		return nil
	}
	sets[uint32(off)] = struct{}{}
	bad := fmt.Errorf("index inode %d: xattrs out of place: %w", i, ErrCorrupt)
	if off-1+2 > uint64(len(x.xattrs)) {
		return bad
	}
	b := x.xattrs[off-1:]
	n := le.Uint16(b)
	b = b[2:]
	for ; n > 0; n-- {
		if len(b) < 6 {
			return bad
		}
		k, v := uint64(le.Uint16(b)), uint64(le.Uint32(b[2:]))
		b = b[6:]
		if k+v > uint64(len(b)) || k == 0 {
			return bad
		}
		b = b[k+v:]
	}
	return nil
}

// Whiteout tells whether an inode is that of a whiteout: it has attributes and no content.
func (x *Index) Whiteout(i Ino) bool {
	return i != 0 && EntFlags(x.ent(Ent(le.Uint32(x.rec(i)[76:])))[10])&EntWhiteout != 0
}
