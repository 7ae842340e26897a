package gunzip

import "encoding/binary"

// blockHeader reads the header of a block, with the codes of a dynamic one.
func (z *Reader) blockHeader() error {
	z.blockAt = z.bitsRead()
	v, err := z.get(3)
	if err != nil {
		return err
	}
	z.final = v&1 != 0
	switch v >> 1 {
	case 0:
		z.align()
		var b [4]byte
		if err := z.bytes(b[:]); err != nil {
			return err
		}
		n := binary.LittleEndian.Uint16(b[:])
		if n != ^binary.LittleEndian.Uint16(b[2:]) {
			return corrupt("length of a stored block")
		}
		z.left = int(n)
		z.part = inStored
		if n == 0 {
			z.endBlock()
		}
		return nil
	case 1:
		if !z.fixed {
			z.fixedCodes()
		}
	case 2:
		z.fixed = false
		if err := z.dynamicCodes(); err != nil {
			return err
		}
	default:
		return corrupt("a block of an unknown type")
	}
	z.part = inSymbols
	return nil
}

func (z *Reader) endBlock() {
	z.part = inBlockHeader
	if z.final {
		z.part = inTrailer
	}
}

// stored copies a stored block, up to limit.
func (z *Reader) stored(limit int) error {
	z.align()
	n := min(z.left, limit-z.o)
	if z.pos == z.end {
		if z.more(); z.pos == z.end {
			return z.short()
		}
	}
	n = copy(z.out[z.o:z.o+n], z.in[z.pos:z.end])
	z.o += n
	z.pos += n
	if z.left -= n; z.left == 0 {
		z.endBlock()
	}
	return nil
}

const (
	maxLits  = 286
	maxDists = 30
	maxCode  = 15
)

// codeOrder is the order in which the lengths of the code lengths' codes come (RFC 1951, 3.2.7).
var codeOrder = [19]int{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15}

// dynamicCodes reads the codes of a block.
func (z *Reader) dynamicCodes() error {
	v, err := z.get(14)
	if err != nil {
		return err
	}
	nlit, ndist, nlen := int(v&31)+257, int(v>>5&31)+1, int(v>>10)+4
	if nlit > maxLits || ndist > maxDists {
		return corrupt("too many codes")
	}
	var lens [maxLits + maxDists]uint8
	for _, i := range codeOrder[:nlen] {
		b, err := z.get(3)
		if err != nil {
			return err
		}
		lens[i] = uint8(b)
	}
	if !z.lit.build(lens[:19], plainSymbol, litRoot) {
		return corrupt("codes of code lengths")
	}
	lens = [maxLits + maxDists]uint8{}
	for i := 0; i < nlit+ndist; {
		sym, err := z.slowSymbol(&z.lit, litRoot)
		if err != nil {
			return err
		}
		s := int(sym >> valueShift & valueMask)
		if s < 16 {
			lens[i] = uint8(s)
			i++
			continue
		}
		var fill uint8
		base, extra := 3, uint(2)
		switch s {
		case 16:
			if i == 0 {
				return corrupt("a repeated code length without one before")
			}
			fill = lens[i-1]
		case 17:
			extra = 3
		default:
			base, extra = 11, 7
		}
		more, err := z.get(extra)
		if err != nil {
			return err
		}
		n := base + int(more)
		if i+n > nlit+ndist {
			return corrupt("too many code lengths")
		}
		for ; n > 0; n-- {
			lens[i] = fill
			i++
		}
	}
	if !z.lit.build(lens[:nlit], litSymbol, litRoot) || !z.dist.build(lens[nlit:nlit+ndist], distSymbol, distRoot) {
		return corrupt("codes")
	}
	return nil
}

func (z *Reader) fixedCodes() {
	var lens [288]uint8
	for i := range lens {
		switch {
		case i < 144:
			lens[i] = 8
		case i < 256:
			lens[i] = 9
		case i < 280:
			lens[i] = 7
		default:
			lens[i] = 8
		}
	}
	z.lit.build(lens[:], litSymbol, litRoot)
	for i := range 32 {
		lens[i] = 5
	}
	z.dist.build(lens[:32], distSymbol, distRoot)
	z.fixed = true
}
