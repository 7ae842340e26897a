package blob

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"os"
	"sort"

	"github.com/klauspost/compress/s2"
	"golang.org/x/sys/unix"

	"imagefs/store"
	"imagefs/store/blob/gunzip"
)

// A seek index tells how to read a compressed blob at random. It is kept in a
// file of the cache directory:
//
//	header, 64 bytes  magic "imgseek\x00", format, CRC-32C of all that follows it,
//	                  bytes of the blob, bytes that come out of it, and the
//	                  number of points, of pages, of bytes of windows and of extra
//	points            48 bytes each, by output: a gunzip.State, and where its window is
//	pages             CRC-32C of each pageSize bytes of output
//	windows           the windows, each compressed (S2)
//	extra             what the maker of the index wants to find again
//
// All numbers are little-endian. The sums of the pages are those of the pass in
// which the blob's digest was checked: what is decompressed later must fit them.
type seekIndex struct {
	blobSize, tarSize                int64
	points, pages, windows, contents []byte
	mapped                           []byte // what to unmap; nil if it lies in memory
}

// close unmaps what the index lies in. Only its sizes may be used afterwards.
func (x *seekIndex) close() {
	x.points, x.pages, x.windows, x.contents = nil, nil, nil, nil
	if x.mapped != nil {
		_ = unix.Munmap(x.mapped)
		x.mapped = nil
	}
}

const (
	seekMagic  = "imgseek\x00"
	seekFormat = 1
	seekHeader = 64
	pointSize  = 48
	pageSize   = 256 << 10

	maxTar   = 256 << 30 // bytes that may come out of a compressed blob
	maxExtra = 64 << 20
	// maxPoints bounds an index: with more, every second point goes.
	maxPoints = 2048
	// spacing is how much output there is between two points, at first: what a
	// read at random may have to decompress for nothing.
	spacing = 2 << 20
)

var (
	le         = binary.LittleEndian
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// indexer makes a seek index of the output as it comes.
type indexer struct {
	total   int64
	sum     uint32 // of the page under way
	pages   []byte
	points  []point
	spacing int64
}

type point struct {
	gunzip.State
	window []byte // compressed
}

func newIndexer() *indexer { return &indexer{spacing: spacing} }

// due tells whether a point would be of use here.
func (x *indexer) due() bool {
	return len(x.points) == 0 || x.total-x.points[len(x.points)-1].Out >= x.spacing
}

// mark adds a point. Its Out is that of the output so far.
func (x *indexer) mark(s gunzip.State) {
	if len(x.points) == maxPoints {
		x.spacing *= 2
		keep := x.points[:0]
		for i, p := range x.points {
			if i%2 == 0 {
				keep = append(keep, p)
			}
		}
		clear(x.points[len(keep):])
		x.points = keep
	}
	w := s2.Encode(nil, s.Window)
	s.Window, s.Out = nil, x.total
	x.points = append(x.points, point{s, w})
}

// write takes output.
func (x *indexer) write(b []byte) error {
	if x.total+int64(len(b)) > maxTar {
		return fmt.Errorf("more than %d GiB come out of a compressed blob: %w", maxTar>>30, store.ErrTooLarge)
	}
	for len(b) > 0 {
		in := x.total % pageSize
		n := min(int64(len(b)), pageSize-in)
		x.sum = crc32.Update(x.sum, castagnoli, b[:n])
		x.total += n
		b = b[n:]
		if in+n == pageSize {
			x.endPage()
		}
	}
	return nil
}

func (x *indexer) endPage() {
	x.pages = le.AppendUint32(x.pages, x.sum)
	x.sum = 0
}

// finish encodes the index.
func (x *indexer) finish(blobSize int64, extra []byte) ([]byte, error) {
	if len(extra) > maxExtra {
		return nil, fmt.Errorf("%d bytes to keep with an index: %w", len(extra), store.ErrTooLarge)
	}
	if x.total%pageSize != 0 {
		x.endPage()
	}
	var windows []byte
	out := make([]byte, seekHeader, seekHeader+len(x.points)*pointSize+len(x.pages))
	for _, p := range x.points {
		var flags uint32
		if p.Member {
			flags = 1
		}
		out = le.AppendUint64(out, uint64(p.In))
		out = le.AppendUint64(out, uint64(p.Out))
		out = le.AppendUint64(out, uint64(p.Block))
		out = le.AppendUint64(out, uint64(len(windows)))
		out = le.AppendUint32(out, uint32(len(p.window)))
		out = le.AppendUint32(out, uint32(p.Left))
		out = le.AppendUint32(out, flags)
		out = le.AppendUint32(out, 0)
		windows = append(windows, p.window...)
	}
	out = append(append(append(out, x.pages...), windows...), extra...)
	copy(out, seekMagic)
	le.PutUint32(out[8:], seekFormat)
	le.PutUint64(out[16:], uint64(blobSize))
	le.PutUint64(out[24:], uint64(x.total))
	le.PutUint64(out[32:], uint64(len(x.points)))
	le.PutUint64(out[40:], uint64(len(x.pages)/4))
	le.PutUint64(out[48:], uint64(len(windows)))
	le.PutUint64(out[56:], uint64(len(extra)))
	le.PutUint32(out[12:], checksum(out))
	return out, nil
}

// openSeek checks an index of a blob of size bytes. store.ErrCorrupt.
func openSeek(b []byte, size int64) (*seekIndex, error) {
	bad := func(what string) (*seekIndex, error) {
		return nil, fmt.Errorf("seek index: %s: %w", what, store.ErrCorrupt)
	}
	if len(b) < seekHeader || string(b[:8]) != seekMagic || le.Uint32(b[8:]) != seekFormat {
		return bad("no index of this format")
	}
	if checksum(b) != le.Uint32(b[12:]) {
		return bad("checksum")
	}
	x := &seekIndex{blobSize: int64(le.Uint64(b[16:])), tarSize: int64(le.Uint64(b[24:]))}
	if x.blobSize != size || x.tarSize < 0 || x.tarSize > maxTar {
		return bad("of another blob")
	}
	rest := b[seekHeader:]
	for i, unit := range []uint64{pointSize, 4, 1, 1} {
		n := le.Uint64(b[32+8*i:])
		if n > uint64(len(rest))/unit {
			return bad("too short")
		}
		part := []*[]byte{&x.points, &x.pages, &x.windows, &x.contents}[i]
		*part, rest = rest[:n*unit:n*unit], rest[n*unit:]
	}
	if len(rest) != 0 || int64(len(x.pages)/4) != (x.tarSize+pageSize-1)/pageSize || len(x.points) == 0 {
		return bad("size")
	}
	last := int64(-1)
	for i := range len(x.points) / pointSize {
		p := x.points[i*pointSize:]
		in, out, block := int64(le.Uint64(p)), int64(le.Uint64(p[8:])), int64(le.Uint64(p[16:]))
		off, n, left := le.Uint64(p[24:]), uint64(le.Uint32(p[32:])), le.Uint32(p[36:])
		if in < 0 || in > size*8 || block < -1 || block > in || left > 1<<16 || out <= last || out > x.tarSize ||
			i == 0 && out != 0 || off > uint64(len(x.windows)) || n > uint64(len(x.windows))-off {
			return bad("a point out of place")
		}
		last = out
	}
	return x, nil
}

// mapSeek is openSeek for a file, which is mapped.
func mapSeek(f *os.File, size int64) (*seekIndex, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if st.Size() < seekHeader || st.Size() > 1<<30 {
		return nil, fmt.Errorf("seek index of %d bytes: %w", st.Size(), store.ErrCorrupt)
	}
	b, err := unix.Mmap(int(f.Fd()), 0, int(st.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map seek index: %w", err)
	}
	x, err := openSeek(b, size)
	if err != nil {
		_ = unix.Munmap(b)
		return nil, err
	}
	x.mapped = b
	return x, nil
}

// before returns the last point at or before an offset in the output, and the
// offset of the next one.
func (x *seekIndex) before(off int64) (s gunzip.State, next int64, err error) {
	n := len(x.points) / pointSize
	out := func(i int) int64 { return int64(le.Uint64(x.points[i*pointSize+8:])) }
	i := sort.Search(n, func(i int) bool { return out(i) > off }) - 1
	next = x.tarSize
	if i+1 < n {
		next = out(i + 1)
	}
	p := x.points[i*pointSize:]
	s = gunzip.State{In: int64(le.Uint64(p)), Out: out(i), Block: int64(le.Uint64(p[16:])),
		Left: int32(le.Uint32(p[36:])), Member: le.Uint32(p[40:])&1 != 0}
	if w := x.windows[le.Uint64(p[24:]):][:le.Uint32(p[32:])]; len(w) > 0 {
		if n, err := s2.DecodedLen(w); err != nil || n > gunzip.Window {
			return s, 0, fmt.Errorf("seek index: a window of %d bytes: %w", n, store.ErrCorrupt)
		}
		if s.Window, err = s2.Decode(nil, w); err != nil {
			return s, 0, fmt.Errorf("seek index: a window: %w: %w", store.ErrCorrupt, err)
		}
	}
	return s, next, nil
}

// sum returns the checksum of a page.
func (x *seekIndex) sum(page int64) uint32 { return le.Uint32(x.pages[4*page:]) }

func checksum(index []byte) uint32 { return crc32.Checksum(index[16:], castagnoli) }
