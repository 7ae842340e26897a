package bolt

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"io"

	"imagefs/store"
)

const (
	magic   = 0xED0CDAED
	version = 2

	headerSize  = 16
	elementSize = 16
	metaSize    = 64 // with the checksum

	flagBranch = 0x01
	flagLeaf   = 0x02
	flagMeta   = 0x04

	flagBucket = 0x01 // of a leaf's element

	minPage = 1 << 10 // bytes
	maxPage = 1 << 16
	// maxNode bounds a page with its overflow, and with that keys and values.
	maxNode = 16 << 20
	// maxDepth bounds the pages from a bucket's root to a leaf; a full tree of
	// that depth does not fit into any file.
	maxDepth = 24
)

func corrupt(format string, args ...any) error {
	return fmt.Errorf("bolt database: "+format+": %w", append(args, store.ErrCorrupt)...)
}

// meta is a meta page.
type meta struct {
	pageSize int64
	root     uint64 // page of the root bucket
	pages    uint64 // number of pages that were ever used
	txid     uint64
	sum      uint64
}

var le = binary.LittleEndian

// parseMeta reads a meta page, its header left out.
func parseMeta(b []byte) (meta, bool) {
	h := fnv.New64a()
	h.Write(b[:metaSize-8])
	m := meta{pageSize: int64(le.Uint32(b[8:])), root: le.Uint64(b[16:]), pages: le.Uint64(b[40:]), txid: le.Uint64(b[48:]), sum: le.Uint64(b[56:])}
	ok := le.Uint32(b) == magic && le.Uint32(b[4:]) == version && m.sum == h.Sum64() &&
		m.pageSize >= minPage && m.pageSize <= maxPage && m.pageSize&(m.pageSize-1) == 0
	return m, ok
}

// readMeta returns the newest of the two meta pages that is whole.
func readMeta(f io.ReaderAt) (meta, error) {
	var b [headerSize + metaSize]byte
	read := func(off int64) (meta, bool) {
		if n, _ := f.ReadAt(b[:], off); n != len(b) || le.Uint16(b[8:])&flagMeta == 0 {
			return meta{}, false
		}
		return parseMeta(b[headerSize:])
	}
	first, ok := read(0)
	if ok {
		if second, ok := read(first.pageSize); ok && second.pageSize == first.pageSize && second.txid > first.txid {
			return second, nil
		}
		return first, nil
	}
	// The first tells the page size; without it the second is looked for.
	for off := int64(minPage); off <= maxPage; off *= 2 {
		if m, ok := read(off); ok && m.pageSize == off {
			return m, nil
		}
	}
	return meta{}, corrupt("no meta page that is whole")
}

// page is a page with its overflow, or a bucket's inline page.
type page struct {
	b     []byte
	leaf  bool
	count int
}

// parsePage checks a page; id is 0 for an inline one.
func parsePage(b []byte, id uint64) (page, error) {
	if len(b) < headerSize {
		return page{}, corrupt("page %d of %d bytes", id, len(b))
	}
	p := page{b: b, count: int(le.Uint16(b[10:]))}
	switch flags := le.Uint16(b[8:]); {
	case id != 0 && le.Uint64(b) != id:
		return page{}, corrupt("page %d says it is page %d", id, le.Uint64(b))
	case flags == flagLeaf:
		p.leaf = true
	case flags != flagBranch || id == 0:
		return page{}, corrupt("page %d has the flags %#x", id, flags)
	}
	if p.count > (len(b)-headerSize)/elementSize {
		return page{}, corrupt("page %d has %d elements", id, p.count)
	}
	if !p.leaf && p.count == 0 {
		return page{}, corrupt("branch page %d is empty", id)
	}
	// The search relies on the order of the keys.
	var last []byte
	for i := range p.count {
		e, err := p.element(i)
		if err != nil {
			return page{}, fmt.Errorf("page %d: %w", id, err)
		}
		if i > 0 && bytes.Compare(last, e.key) >= 0 {
			return page{}, corrupt("page %d: keys are not in order", id)
		}
		last = e.key
	}
	return p, nil
}

// element is an element of a page. key and value lie in the page.
type element struct {
	key, value []byte
	bucket     bool
	child      uint64 // of a branch
}

func (p page) element(i int) (element, error) {
	at := headerSize + i*elementSize
	h := p.b[at:]
	var e element
	var pos, klen, vlen uint64
	if p.leaf {
		e.bucket = le.Uint32(h)&flagBucket != 0
		pos, klen, vlen = uint64(le.Uint32(h[4:])), uint64(le.Uint32(h[8:])), uint64(le.Uint32(h[12:]))
	} else {
		pos, klen, e.child = uint64(le.Uint32(h)), uint64(le.Uint32(h[4:])), le.Uint64(h[8:])
	}
	if pos < elementSize || pos+klen+vlen > uint64(len(h)) {
		return e, corrupt("element %d lies outside its page", i)
	}
	e.key, e.value = h[pos:pos+klen:pos+klen], h[pos+klen:pos+klen+vlen:pos+klen+vlen]
	return e, nil
}

// at returns an element that parsePage has checked.
func (p page) at(i int) element {
	e, _ := p.element(i)
	return e
}

// find returns the first element whose key is not below the given one.
func (p page) find(key []byte) int {
	lo, hi := 0, p.count
	for lo < hi {
		if m := (lo + hi) / 2; bytes.Compare(p.at(m).key, key) < 0 {
			lo = m + 1
		} else {
			hi = m
		}
	}
	return lo
}
