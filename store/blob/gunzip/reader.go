package gunzip

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
)

// ErrCorrupt is what is wrong with data that is no gzip, io.ErrUnexpectedEOF
// what is wrong with data that ends early.
var ErrCorrupt = errors.New("corrupt gzip data")

func corrupt(what string) error { return fmt.Errorf("%s: %w", what, ErrCorrupt) }

// Window is how far back the data can refer, in bytes.
const Window = 32 << 10

const (
	chunk = 128 << 10 // output of one call of Next
	slack = 258 + 16  // the longest match, and what copying in words writes too far
	inBuf = 64 << 10
)

// State is a place in the data where decompression can be taken up.
type State struct {
	In     int64  // bits of input before the place
	Out    int64  // bytes of output before the place
	Block  int64  // bits of input before the header of the block that the place is in; -1 if it is in none
	Left   int32  // bytes that are left of a stored block
	Member bool   // the place is in a member, and not before one
	Window []byte // the last output of the member, at most Window bytes
}

// The parts of the data.
type part uint8

const (
	inHeader part = iota
	inBlockHeader
	inStored
	inSymbols
	inTrailer
	atEnd
)

// Reader decompresses a stream.
type Reader struct {
	src     io.Reader
	srcErr  error // io.EOF or what else ended src
	in      [inBuf]byte
	pos     int   // of what is not in bits yet
	end     int   // of what was read
	base    int64 // offset of in[0] in the input
	bits    uint64
	n       uint // of bits that count
	part    part
	first   bool // no member has been read
	final   bool // the block is the member's last
	blockAt int64
	left    int // of a stored block

	out   [Window + chunk + slack]byte
	o     int   // end of the output in out
	low   int   // start of what can be referred to
	total int64 // bytes of output before out[o]
	sum   uint32
	size  uint32 // of the member, for its trailer
	whole bool   // the member was read from its start

	lit, dist table
	fixed     bool // the tables are those of fixed codes
	err       error
}

// NewReader returns a Reader of r from its start.
func NewReader(r io.Reader) *Reader {
	z := &Reader{}
	z.Reset(r)
	return z
}

// Reset lets z read r from its start.
func (z *Reader) Reset(r io.Reader) {
	z.src, z.srcErr, z.err = r, nil, nil
	z.pos, z.end, z.base, z.bits, z.n = 0, 0, 0, 0, 0
	z.part, z.first, z.final, z.o, z.low, z.total = inHeader, true, false, 0, 0, 0
}

// Resume lets z read from a place that State has told. at opens the input at an
// offset in bytes. What comes is the output from s.Out on.
func (z *Reader) Resume(at func(off int64) io.Reader, s State) error {
	z.Reset(nil)
	if s.In < 0 || s.Out < 0 || s.Block > s.In || len(s.Window) > Window || s.Left < 0 || s.Left > 1<<16 {
		return corrupt("a place that cannot be")
	}
	z.first = false
	z.total = s.Out
	z.o = copy(z.out[:], s.Window)
	z.whole = false
	if s.Block >= 0 && s.Member {
		if err := z.seek(at, s.Block); err != nil {
			return err
		}
		if err := z.blockHeader(); err != nil {
			return err
		}
		if z.part == inStored && s.Left == 0 || z.part == inStored && int(s.Left) > z.left {
			return corrupt("a place that cannot be")
		}
		z.left = int(s.Left)
	} else if s.Member {
		z.part = inBlockHeader
	}
	return z.seek(at, s.In)
}

// seek starts reading at a bit of the input.
func (z *Reader) seek(at func(off int64) io.Reader, bit int64) error {
	z.src, z.srcErr = at(bit/8), nil
	z.pos, z.end, z.base, z.bits, z.n = 0, 0, bit/8, 0, 0
	if !z.need(uint(bit % 8)) {
		return z.short()
	}
	z.take(uint(bit % 8))
	return nil
}

// State tells the place after what Next has returned so far. Window is the
// caller's own. Not ok after the end or an error.
func (z *Reader) State() (s State, ok bool) {
	if z.err != nil || z.part == atEnd || z.part == inTrailer {
		return s, false
	}
	s = State{In: z.bitsRead(), Out: z.total, Block: -1, Member: z.part != inHeader}
	switch z.part {
	case inStored:
		s.Block, s.Left = z.blockAt, int32(z.left)
	case inSymbols:
		s.Block = z.blockAt
	}
	if s.Member {
		s.Window = slices.Clone(z.out[max(z.low, z.o-Window):z.o])
	}
	return s, true
}

// bitsRead is how many bits of the input were used.
func (z *Reader) bitsRead() int64 { return (z.base+int64(z.pos))*8 - int64(z.n) }

// Next returns the next piece of output, which is valid until the next call.
// io.EOF at the end; ErrCorrupt, io.ErrUnexpectedEOF, or the error of the source.
func (z *Reader) Next() ([]byte, error) {
	if z.err != nil {
		return nil, z.err
	}
	if shift := z.o - Window; shift > 0 {
		copy(z.out[:Window], z.out[shift:z.o])
		z.o, z.low = Window, max(z.low-shift, 0)
	}
	from := z.o
	summed := from
	sum := func() {
		if b := z.out[summed:z.o]; len(b) > 0 {
			z.sum = crc32.Update(z.sum, crc32.IEEETable, b)
			z.size += uint32(len(b))
			z.total += int64(len(b))
			summed = z.o
		}
	}
	for limit := from + chunk; z.o < limit && z.err == nil; {
		switch z.part {
		case inHeader:
			z.err = z.header()
		case inBlockHeader:
			z.err = z.blockHeader()
		case inStored:
			z.err = z.stored(limit)
		case inSymbols:
			z.err = z.symbols(limit)
		case inTrailer:
			sum()
			z.err = z.trailer()
		default:
			z.err = io.EOF
		}
	}
	sum()
	if z.o > from {
		return z.out[from:z.o], nil
	}
	return nil, z.err
}

// more reads input, so that there are at least 16 bytes unless it ends. It
// makes room by moving what is left to the front, with the bytes before that
// are in bits and may be given back.
func (z *Reader) more() {
	if used := z.pos - 8; used > 0 {
		z.base += int64(used)
		z.end = copy(z.in[:], z.in[used:z.end])
		z.pos = 8
	}
	for z.end-z.pos < 16 && z.srcErr == nil {
		n, err := z.src.Read(z.in[z.end:])
		z.end += n
		z.srcErr = err
	}
}

// need makes sure of n bits, at most 32; false if the input ends before.
func (z *Reader) need(n uint) bool {
	for z.n < n {
		if z.pos == z.end {
			if z.more(); z.pos == z.end {
				return false
			}
		}
		z.bits &= 1<<z.n - 1 // symbols may have put some there in advance
		z.bits |= uint64(z.in[z.pos]) << z.n
		z.pos++
		z.n += 8
	}
	return true
}

func (z *Reader) take(n uint) uint32 {
	v := uint32(z.bits & (1<<n - 1))
	z.bits >>= n
	z.n -= n
	return v
}

// get reads n bits.
func (z *Reader) get(n uint) (uint32, error) {
	if !z.need(n) {
		return 0, z.short()
	}
	return z.take(n), nil
}

// short is the error for input that ends early.
func (z *Reader) short() error {
	if z.srcErr != nil && z.srcErr != io.EOF {
		return z.srcErr
	}
	return io.ErrUnexpectedEOF
}

// align drops what is left of a byte, and gives whole bytes back.
func (z *Reader) align() {
	z.take(z.n % 8)
	z.pos -= int(z.n / 8)
	z.bits, z.n = 0, 0
}
