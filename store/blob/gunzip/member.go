package gunzip

import (
	"encoding/binary"
	"hash/crc32"
	"io"
)

// maxText bounds a name or comment in a header, as compress/gzip does.
const maxText = 512

// header reads the header of a member, or finds that there is none any more.
func (z *Reader) header() error {
	z.align()
	if z.pos == z.end {
		if z.more(); z.pos == z.end {
			if z.srcErr == io.EOF {
				if z.first {
					return io.ErrUnexpectedEOF
				}
				z.part = atEnd
				return nil
			}
			return z.srcErr
		}
	}
	var h [10]byte
	if err := z.bytes(h[:]); err != nil {
		return err
	}
	if h[0] != 0x1f || h[1] != 0x8b || h[2] != 8 {
		return corrupt("no gzip header")
	}
	sum := crc32.ChecksumIEEE(h[:])
	read := func(b []byte) error {
		err := z.bytes(b)
		sum = crc32.Update(sum, crc32.IEEETable, b)
		return err
	}
	const hasSum, hasExtra, hasName, hasComment = 1 << 1, 1 << 2, 1 << 3, 1 << 4
	var two [2]byte
	if h[3]&hasExtra != 0 {
		if err := read(two[:]); err != nil {
			return err
		}
		if err := read(make([]byte, binary.LittleEndian.Uint16(two[:]))); err != nil {
			return err
		}
	}
	for _, flag := range []byte{hasName, hasComment} {
		if h[3]&flag == 0 {
			continue
		}
		for i, one := 0, []byte{1}; one[0] != 0; i++ {
			if i == maxText {
				return corrupt("a name or comment that is too long")
			}
			if err := read(one); err != nil {
				return err
			}
		}
	}
	if h[3]&hasSum != 0 {
		if err := z.bytes(two[:]); err != nil {
			return err
		}
		if binary.LittleEndian.Uint16(two[:]) != uint16(sum) {
			return corrupt("a header whose checksum is wrong")
		}
	}
	z.part, z.first, z.whole = inBlockHeader, false, true
	z.sum, z.size, z.low = 0, 0, z.o
	return nil
}

// bytes reads whole bytes; the input is aligned.
func (z *Reader) bytes(b []byte) error {
	for len(b) > 0 {
		if z.pos == z.end {
			if z.more(); z.pos == z.end {
				return z.short()
			}
		}
		n := copy(b, z.in[z.pos:z.end])
		z.pos += n
		b = b[n:]
	}
	return nil
}

// trailer checks the checksum and the size of a member.
func (z *Reader) trailer() error {
	z.align()
	var t [8]byte
	if err := z.bytes(t[:]); err != nil {
		return err
	}
	if z.whole && (binary.LittleEndian.Uint32(t[:]) != z.sum || binary.LittleEndian.Uint32(t[4:]) != z.size) {
		return corrupt("checksum")
	}
	z.part = inHeader
	return nil
}
