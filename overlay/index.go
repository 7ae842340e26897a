package overlay

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"runtime"
	"sync"
	"sync/atomic"
	"unsafe"
)

const (
	magic       = "imagefs\x00"
	formatNum   = 2
	formatOld   = 1 // has no checksums of blocks: that in the header covers all
	headerSize  = 48
	blockSize   = 64 << 10 // of the sections, each with a checksum of its own
	sumSize     = 4
	inodeSize   = 80
	entrySize   = 12
	noXattrs    = 0
	noEntry     = ^uint32(0)
	maxMeta     = 64 << 10
	crcCovers   = 16 // offset of the first byte that the header's checksum covers
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
// The format is drawn in the package's doc. Immutable to its users.
type Index struct {
	inodes, entries, arena, xattrs, meta []byte
	n, size                              int

	// What is checked so far: the inodes below seen, and the entries of the
	// directories below open. Nothing else is looked at but by the check.
	seen, open atomic.Uint32

	mu   sync.Mutex // guards what follows
	work *checker   // nil once all is checked, or something is wrong
	err  error      // what the check found wrong
}

// OpenIndex checks b, checksums and structure, and returns the layer in it. The
// index keeps b, which must not change. ErrCorrupt for everything that no
// Builder writes; after that no method can fail.
func OpenIndex(b []byte) (*Index, error) {
	x, err := OpenIndexLazily(b)
	if err == nil {
		err = x.Check()
	}
	if err != nil {
		return nil, err
	}
	return x, nil
}

// OpenIndexLazily is OpenIndex for somebody who waits: it checks the checksums,
// so that no damage goes unseen, but the structure, against those who can make
// checksums, as far as somebody looks, or when Check is called. Children returns
// ErrCorrupt for directories that are not as a Builder writes them, or come after
// one that is not; what is in them has no attributes, names or targets.
func OpenIndexLazily(b []byte) (*Index, error) {
	if len(b) < headerSize || string(b[:8]) != magic {
		return nil, fmt.Errorf("no index: %w", ErrCorrupt)
	}
	format, sizes := le.Uint32(b[8:]), sectionSizes(b)
	switch format {
	case formatNum:
	case formatOld:
		sizes[4] = 0
	default:
		return nil, fmt.Errorf("index of format %d, want %d: %w", format, formatNum, ErrCorrupt)
	}
	n, size := sizes[0]/inodeSize, uint64(0)
	for _, s := range sizes {
		size += s
	}
	if size != uint64(len(b)-headerSize) || n == 0 || sizes[5] > maxMeta {
		return nil, fmt.Errorf("index has the wrong size: %w", ErrCorrupt)
	}
	var parts [6][]byte
	rest := b[headerSize:]
	for i, s := range sizes {
		parts[i], rest = rest[:s:s], rest[s:]
	}
	body := len(b) - headerSize - len(parts[4]) - len(parts[5])
	if format == formatOld {
		body = 0
	}
	if headerSum(b, body) != le.Uint32(b[12:]) || !sumsMatch(b[headerSize:][:body], parts[4]) {
		return nil, fmt.Errorf("index checksum does not match: %w", ErrCorrupt)
	}
	x := &Index{inodes: parts[0], entries: parts[1], arena: parts[2], xattrs: parts[3], meta: parts[5], n: int(n), size: len(b)}
	if err := x.begin(); err != nil {
		return nil, err
	}
	return x, nil
}

// sectionSizes returns the bytes that a header gives to the inodes, entries,
// arena, xattrs, checksums and meta data.
func sectionSizes(header []byte) [6]uint64 {
	s := [6]uint64{uint64(le.Uint32(header[16:])) * inodeSize, uint64(le.Uint32(header[20:])) * entrySize, uint64(le.Uint32(header[24:])), uint64(le.Uint32(header[28:])), 0, uint64(le.Uint32(header[32:]))}
	s[4] = (s[0] + s[1] + s[2] + s[3] + blockSize - 1) / blockSize * sumSize
	return s
}

// headerSum is the checksum of an index's header, of which it is a part, and of all that is
// behind the body, which is body bytes long: the checksums of its blocks and the meta data.
func headerSum(index []byte, body int) uint32 {
	return crc32.Update(crc32.Checksum(index[crcCovers:headerSize], castagnoli), castagnoli, index[headerSize+body:])
}

// sumsMatch compares the checksums of a body's blocks. A mount waits for it, so
// all processors take part.
func sumsMatch(body, sums []byte) bool {
	const share = 1 << 20 / blockSize // blocks that are worth a goroutine
	blocks := len(sums) / sumSize
	var next atomic.Int64
	var bad atomic.Bool
	work := func() {
		for {
			to := int(next.Add(share))
			if to-share >= blocks || bad.Load() {
				return
			}
			for b := to - share; b < min(to, blocks); b++ {
				if crc32.Checksum(body[b*blockSize:min((b+1)*blockSize, len(body))], castagnoli) != le.Uint32(sums[b*sumSize:]) {
					bad.Store(true)
				}
			}
		}
	}
	var others sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), (blocks+share-1)/share) - 1 {
		others.Go(work)
	}
	work()
	others.Wait()
	return !bad.Load()
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
	body := len(index) - headerSize - int(sectionSizes(index)[4])
	if body < 0 {
		return nil, fmt.Errorf("index is too short: %w", ErrCorrupt)
	}
	index = append(index, meta...)
	le.PutUint32(index[32:], uint32(len(meta)))
	le.PutUint32(index[12:], headerSum(index, body))
	return index, nil
}

// Meta returns the bytes that were given to Builder.Finish or SetMeta.
func (x *Index) Meta() []byte { return x.meta }

// Size is the number of bytes that the index lies in.
func (x *Index) Size() int64 { return int64(x.size) }

var _ Layer = (*Index)(nil)

// lost is the record of an inode of which an index cannot say anything.
var lost = le.AppendUint32(make([]byte, inodeSize-4), noEntry)

// rec returns the record of an inode, once it is checked.
func (x *Index) rec(i Ino) []byte {
	if uint32(i) >= x.seen.Load() && x.until(&x.seen, i) != nil {
		return lost
	}
	return x.record(uint32(i))
}

// record is rec for the check itself.
func (x *Index) record(i uint32) []byte { return x.inodes[int(i)*inodeSize:][:inodeSize:inodeSize] }

// ent returns the record of an entry, which has to be one of a directory that is checked.
func (x *Index) ent(e Ent) []byte { return x.entries[int(e)*entrySize:][:entrySize:entrySize] }

func str(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// Inodes implements Layer.
func (x *Index) Inodes() int { return x.n }

// Children implements Layer.
func (x *Index) Children(dir Ino) (lo, hi Ent, err error) {
	if uint32(dir) >= x.seen.Load() {
		if err := x.until(&x.seen, dir); err != nil {
			return 0, 0, err
		}
	}
	r := x.record(uint32(dir))
	if le.Uint32(r)&typeMask != modeDir {
		return 0, 0, nil
	}
	if uint32(dir) >= x.open.Load() {
		if err := x.until(&x.open, dir); err != nil {
			return 0, 0, err
		}
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
	self := le.Uint32(r[76:])
	if self == noEntry {
		return b
	}
	if p := Ino(le.Uint32(r[72:])); p != 0 {
		b = append(x.Path(b, p), '/')
	}
	e := x.ent(Ent(self))
	off, n := le.Uint32(e), le.Uint16(e[8:])
	return append(b, x.arena[off:off+uint32(n)]...)
}

// Whiteout tells whether an inode is that of a whiteout: it has attributes and no content.
func (x *Index) Whiteout(i Ino) bool {
	self := le.Uint32(x.rec(i)[76:])
	return i != 0 && self != noEntry && EntFlags(x.ent(Ent(self))[10])&EntWhiteout != 0
}
