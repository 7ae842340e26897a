package compress

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"hash/crc64"
	"io"

	"github.com/ulikunitz/xz/lzma"
)

// The container of xz (The .xz File Format, 1.2.1) is read here and only the
// LZMA2 data in it by the library: that allocates what a block's header asks
// for, up to 4 GiB, and keeps a record of every block.

const (
	xzMagic    = "\xfd7zXZ\x00"
	xzFooter   = "YZ"
	lzma2      = 0x21
	maxVarint  = 9
	minDictCap = lzma.MinDictCap
)

var (
	errWindow = errors.New("dictionary too large")
	errXZ     = errors.New("malformed")
)

// xzReader reads xz streams, one after the other.
type xzReader struct {
	in     *bufio.Reader
	pos    int64 // bytes taken from in
	window int64

	flags   [2]byte
	open    bool // in a stream
	block   io.Reader
	start   int64 // of the block's data
	header  int64 // bytes of the block's header
	size    int64 // uncompressed bytes of the block so far
	sizes   [2]int64
	sum     hash.Hash // the block's check, nil for none
	blocks  uint64
	records hash.Hash // of the sizes of all blocks, to compare with the index
}

func newXZ(in *bufio.Reader, window int64) *xzReader {
	return &xzReader{in: in, window: window}
}

// counted takes bytes from in one by one, as LZMA2 wants, and never more than it needs.
type counted struct{ x *xzReader }

func (c counted) Read(p []byte) (int, error) {
	n, err := c.x.in.Read(p)
	c.x.pos += int64(n)
	return n, err
}

func (c counted) ReadByte() (byte, error) {
	b, err := c.x.in.ReadByte()
	if err == nil {
		c.x.pos++
	}
	return b, err
}

func (x *xzReader) full(n int) ([]byte, error) {
	b := make([]byte, n)
	_, err := io.ReadFull(counted{x}, b)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return b, err
}

// Read implements io.Reader.
func (x *xzReader) Read(p []byte) (int, error) {
	for len(p) > 0 {
		if x.block == nil {
			if err := x.next(); err != nil {
				return 0, err
			}
			continue
		}
		n, err := x.block.Read(p)
		x.size += int64(n)
		if x.sum != nil {
			x.sum.Write(p[:n])
		}
		if err == io.EOF {
			err = x.endBlock()
			x.block = nil
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
	return 0, nil
}

// next goes to the next block, over the end of a stream and the start of another.
func (x *xzReader) next() error {
	if !x.open {
		if err := x.streamHeader(); err != nil {
			return err
		}
	}
	b, err := counted{x}.ReadByte()
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return err
	}
	if b != 0 {
		return x.startBlock(b)
	}
	x.open = false
	return x.index()
}

// streamHeader reads a stream's header. io.EOF at the end of all streams.
func (x *xzReader) streamHeader() error {
	b := make([]byte, 4)
	for {
		_, err := io.ReadFull(counted{x}, b)
		if err != nil {
			if err == io.EOF && x.pos == 0 {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
		if x.pos == 4 || binary.LittleEndian.Uint32(b) != 0 {
			break // not the padding between streams
		}
	}
	rest, err := x.full(8)
	if err != nil {
		return err
	}
	b = append(b, rest...)
	if string(b[:6]) != xzMagic || crc32.ChecksumIEEE(b[6:8]) != binary.LittleEndian.Uint32(b[8:]) {
		return fmt.Errorf("stream header: %w", errXZ)
	}
	copy(x.flags[:], b[6:8])
	x.open, x.blocks, x.records = true, 0, sha256.New()
	if b[6] != 0 {
		return fmt.Errorf("stream flags %#x: %w", b[6], errXZ)
	}
	switch b[7] {
	case 0:
		x.sum = nil
	case 1:
		x.sum = crc32.NewIEEE()
	case 4:
		x.sum = crc64.New(crc64.MakeTable(crc64.ECMA))
	case 10:
		x.sum = sha256.New()
	default:
		return fmt.Errorf("check of type %d: %w", b[7], errXZ)
	}
	return nil
}

// startBlock reads a block's header, whose first byte is size.
func (x *xzReader) startBlock(size byte) error {
	x.header = (int64(size) + 1) * 4
	h := make([]byte, x.header)
	h[0] = size
	rest, err := x.full(len(h) - 1)
	if err != nil {
		return err
	}
	copy(h[1:], rest)
	body := h[:len(h)-4]
	if crc32.ChecksumIEEE(body) != binary.LittleEndian.Uint32(h[len(h)-4:]) {
		return fmt.Errorf("block header: %w", errXZ)
	}
	flags, body := body[1], body[2:]
	if flags&0x3c != 0 {
		return fmt.Errorf("block flags %#x: %w", flags, errXZ)
	}
	x.sizes = [2]int64{-1, -1} // compressed, uncompressed
	for i, bit := range []byte{0x40, 0x80} {
		if flags&bit != 0 {
			v, n := binary.Uvarint(body)
			if n <= 0 || n > maxVarint {
				return fmt.Errorf("block header: %w", errXZ)
			}
			x.sizes[i], body = int64(v), body[n:]
		}
	}
	if flags&3 != 0 || len(body) < 3 || body[0] != lzma2 || body[1] != 1 {
		return fmt.Errorf("a filter other than LZMA2 is not supported: %w", errXZ)
	}
	dict, err := dictSize(body[2])
	if err != nil {
		return err
	}
	for _, b := range body[3:] {
		if b != 0 {
			return fmt.Errorf("block header: %w", errXZ)
		}
	}
	if dict > x.window {
		return errWindow
	}
	x.start, x.size = x.pos, 0
	if x.sum != nil {
		x.sum.Reset()
	}
	x.block, err = lzma.Reader2Config{DictCap: int(max(dict, minDictCap))}.NewReader2(counted{x})
	return err
}

func dictSize(bits byte) (int64, error) {
	switch {
	case bits > 40:
		return 0, fmt.Errorf("dictionary size %d: %w", bits, errXZ)
	case bits == 40:
		return 1<<32 - 1, nil
	}
	return int64(2|bits&1) << (bits/2 + 11), nil
}

// endBlock checks a block when its data has ended.
func (x *xzReader) endBlock() error {
	packed := x.pos - x.start
	if x.sizes[0] >= 0 && x.sizes[0] != packed || x.sizes[1] >= 0 && x.sizes[1] != x.size {
		return fmt.Errorf("a block is not as long as it says: %w", errXZ)
	}
	sumSize := 0
	if x.sum != nil {
		sumSize = x.sum.Size()
	}
	x.record(uint64(x.header+packed+int64(sumSize)), uint64(x.size))
	x.blocks++
	pad, err := x.full(int(-packed & 3))
	if err != nil {
		return err
	}
	for _, b := range pad {
		if b != 0 {
			return fmt.Errorf("block padding: %w", errXZ)
		}
	}
	if x.sum == nil {
		return nil
	}
	want, err := x.full(sumSize)
	if err != nil {
		return err
	}
	got := x.sum.Sum(nil)
	if sumSize < 32 { // CRCs are little endian
		for i, j := 0, len(got)-1; i < j; i, j = i+1, j-1 {
			got[i], got[j] = got[j], got[i]
		}
	}
	if string(got) != string(want) {
		return fmt.Errorf("checksum does not fit: %w", errXZ)
	}
	return nil
}

func (x *xzReader) record(unpadded, size uint64) {
	x.records.Write(binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(nil, unpadded), size))
}

// index reads the index and the footer of a stream, and compares them with its blocks.
func (x *xzReader) index() error {
	crc := crc32.NewIEEE()
	crc.Write([]byte{0})
	start := x.pos - 1
	num := func() (v uint64, err error) {
		for shift := 0; shift < 7*maxVarint; shift += 7 {
			b, err := counted{x}.ReadByte()
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			if err != nil {
				return 0, err
			}
			crc.Write([]byte{b})
			if v |= uint64(b&0x7f) << shift; b < 0x80 {
				return v, nil
			}
		}
		return 0, errXZ
	}
	want := string(x.records.Sum(nil))
	x.records = sha256.New()
	n, err := num()
	if err == nil && n != x.blocks {
		err = errXZ
	}
	for ; err == nil && n > 0; n-- {
		var a, b uint64
		if a, err = num(); err == nil {
			b, err = num()
		}
		x.record(a, b)
	}
	if err == nil && string(x.records.Sum(nil)) != want {
		err = errXZ
	}
	if err != nil {
		return fmt.Errorf("index: %w", err)
	}
	pad, err := x.full(int(-(x.pos - start) & 3))
	if err != nil {
		return err
	}
	crc.Write(pad)
	size := x.pos - start + 4
	tail, err := x.full(4 + 12)
	if err != nil {
		return err
	}
	if binary.LittleEndian.Uint32(tail) != crc.Sum32() || string(pad) != "\x00\x00\x00"[:len(pad)] {
		return fmt.Errorf("index: %w", errXZ)
	}
	f := tail[4:]
	if string(f[10:]) != xzFooter || [2]byte(f[8:10]) != x.flags || crc32.ChecksumIEEE(f[4:10]) != binary.LittleEndian.Uint32(f) ||
		(int64(binary.LittleEndian.Uint32(f[4:]))+1)*4 != size {
		return fmt.Errorf("footer: %w", errXZ)
	}
	return nil
}
