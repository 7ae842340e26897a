package layer

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"io"
	"sort"
	"strconv"
	"strings"

	"imagefs/store"
)

// Sparse files in a tar: archive/tar reads them from front to back only, so the
// map of what is where is read here once more (GNU tar manual, "Sparse
// Formats"). archive/tar has checked it before: sorted, no overlaps, nothing
// beyond the size.

const blockBytes = 512

// span is a piece of a sparse file that is not a hole.
type span struct {
	off, n int64 // in the file
	at     int64 // in the tar
}

// sparseSpans returns the pieces of the sparse file whose headers are head.
// data is where its content starts in the tar, behind a map that is part of it.
func sparseSpans(head []byte, hdr *tar.Header, data int64) ([]span, error) {
	block, err := lastHeader(head)
	if err != nil {
		return nil, err
	}
	var nums []int64
	pax := hdr.PAXRecords
	switch version := pax["GNU.sparse.major"] + "." + pax["GNU.sparse.minor"]; {
	case hdr.Typeflag == tar.TypeGNUSparse:
		nums, err = oldMap(block)
	case version == "1.0":
		nums, err = textMap(block[blockBytes:])
	case version == "." && pax["GNU.sparse.map"] != "", version == "0.0", version == "0.1":
		nums, err = listMap(pax["GNU.sparse.map"])
	default:
		// archive/tar takes what it does not know for a plain file.
		return []span{{0, hdr.Size, data}}, nil
	}
	if err != nil {
		return nil, err
	}
	spans := make([]span, 0, len(nums)/2)
	end := int64(0)
	for ; len(nums) >= 2; nums = nums[2:] {
		s := span{nums[0], nums[1], data}
		if s.off < end || s.n < 0 || s.n > hdr.Size-s.off {
			return nil, corrupt("a sparse map out of order")
		}
		end = s.off + s.n
		data += s.n
		if s.n > 0 {
			spans = append(spans, s)
		}
	}
	return spans, nil
}

// lastHeader skips the headers that stand before the one of the file.
func lastHeader(head []byte) ([]byte, error) {
	for len(head) >= blockBytes {
		switch head[156] {
		case tar.TypeXHeader, tar.TypeGNULongName, tar.TypeGNULongLink:
			n, err := number(head[124:136])
			if err != nil || n < 0 || n > maxHead {
				return nil, corrupt("a header of %d bytes", n)
			}
			head = head[min(int64(len(head)), blockBytes+(n+blockBytes-1)/blockBytes*blockBytes):]
		default:
			return head, nil
		}
	}
	return nil, corrupt("a sparse file without its header")
}

// oldMap reads the map in a header of GNU's old format and the blocks that follow it.
func oldMap(b []byte) ([]int64, error) {
	const first, inHeader, inBlock, entry = 386, 4, 21, 24
	var nums []int64
	at, count := first, inHeader
	for {
		for i := range count {
			e := b[at+i*entry:][:entry]
			if e[0] == 0 {
				break
			}
			off, err := number(e[:12])
			if err != nil {
				return nil, err
			}
			n, err := number(e[12:])
			if err != nil {
				return nil, err
			}
			nums = append(nums, off, n)
		}
		more := b[at+count*entry] != 0
		b = b[blockBytes:]
		if !more {
			return nums, nil
		}
		if len(b) < blockBytes {
			return nil, corrupt("a sparse map that ends early")
		}
		at, count = 0, inBlock
	}
}

// textMap reads the map of PAX format 1.0: how many pieces, then two numbers for each.
func textMap(b []byte) ([]int64, error) {
	next := func() (int64, error) {
		i := bytes.IndexByte(b, '\n')
		if i < 0 {
			return 0, corrupt("a sparse map that ends early")
		}
		n, err := strconv.ParseInt(string(b[:i]), 10, 64)
		b = b[i+1:]
		if err != nil || n < 0 {
			return 0, corrupt("a sparse map with a bad number")
		}
		return n, nil
	}
	count, err := next()
	if err != nil {
		return nil, err
	}
	if count > int64(len(b)) {
		return nil, corrupt("a sparse map of %d pieces", count)
	}
	var nums []int64
	for range 2 * count {
		n, err := next()
		if err != nil {
			return nil, err
		}
		nums = append(nums, n)
	}
	return nums, nil
}

// listMap reads the map of the PAX formats 0.0 and 0.1.
func listMap(s string) ([]int64, error) {
	var nums []int64
	if s == "" {
		return nil, nil
	}
	for f := range strings.SplitSeq(s, ",") {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil || n < 0 {
			return nil, corrupt("a sparse map with a bad number")
		}
		nums = append(nums, n)
	}
	return nums, nil
}

// number reads a number of a header: octal digits, or binary with the first bit set.
func number(b []byte) (int64, error) {
	if len(b) > 0 && b[0]&0x80 != 0 {
		var w [16]byte
		copy(w[16-len(b):], b)
		w[16-len(b)] &^= 0x80
		if b[0]&0x40 != 0 || binary.BigEndian.Uint64(w[:8]) != 0 || w[8]&0x80 != 0 {
			return 0, corrupt("a header with a number out of range")
		}
		return int64(binary.BigEndian.Uint64(w[8:])), nil
	}
	s := strings.Trim(string(b), " \x00")
	if s == "" {
		return 0, nil
	}
	if i := strings.IndexByte(s, 0); i >= 0 {
		s = s[:i]
	}
	n, err := strconv.ParseInt(s, 8, 64)
	if err != nil || n < 0 {
		return 0, corrupt("a header with a bad number")
	}
	return n, nil
}

// blocksOfSpans counts the room that the pieces take on disk, in units of 512 bytes.
func blocksOfSpans(spans []span) uint64 {
	const page = 4096
	var pages, done int64 // done: pages up to there are counted
	for _, s := range spans {
		from := max(s.off/page, done)
		to := (s.off + s.n + page - 1) / page
		if to > from {
			pages += to - from
			done = to
		}
	}
	return uint64(pages) * page / blockBytes
}

// sparseFile is a sparse file in a tar.
type sparseFile struct {
	t     io.ReaderAt
	spans []span
	size  int64
}

// openSparse reads the headers of a sparse file once more.
func openSparse(t io.ReaderAt, tarSize, at, size int64) (*sparseFile, error) {
	p := &tarPosition{r: &headerReader{r: t, size: tarSize, pos: at}, pos: at}
	hdr, err := tar.NewReader(p).Next()
	if err != nil {
		return nil, streamError(noEOF(err))
	}
	if hdr.Size != size {
		return nil, corrupt("a sparse file of %d bytes where the layer has %d", hdr.Size, size)
	}
	spans, err := sparseSpans(p.head, hdr, p.pos)
	if err != nil {
		return nil, err
	}
	return &sparseFile{t, spans, size}, nil
}

// Size implements RefReader.
func (f *sparseFile) Size() int64 { return f.size }

// ReadAt implements io.ReaderAt.
func (f *sparseFile) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, store.ErrInvalid
	}
	done := 0
	i := sort.Search(len(f.spans), func(i int) bool { return f.spans[i].off+f.spans[i].n > off })
	for done < len(p) && off < f.size {
		if i == len(f.spans) || off < f.spans[i].off { // a hole
			end := f.size
			if i < len(f.spans) {
				end = f.spans[i].off
			}
			n := int(min(end-off, int64(len(p)-done)))
			clear(p[done : done+n])
			done, off = done+n, off+int64(n)
			continue
		}
		s := f.spans[i]
		n := int(min(s.off+s.n-off, int64(len(p)-done)))
		m, err := f.t.ReadAt(p[done:done+n], s.at+off-s.off)
		done, off = done+m, off+int64(m)
		if m < n {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return done, err
		}
		i++
	}
	if done < len(p) {
		return done, io.EOF
	}
	return done, nil
}
