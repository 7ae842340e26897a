package gunzip

import "encoding/binary"

// symbols decodes until limit bytes of output are there or the block ends.
func (z *Reader) symbols(limit int) error {
	for z.o < limit && z.part == inSymbols {
		if z.end-z.pos < 16 {
			if z.more(); z.end-z.pos < 16 {
				if err := z.symbol(); err != nil {
					return err
				}
				continue
			}
		}
		if err := z.fast(limit); err != nil {
			return err
		}
	}
	return nil
}

// fast decodes as long as there are 16 bytes of input.
func (z *Reader) fast(limit int) error {
	lit, dist := &z.lit, &z.dist
	in := z.in[z.pos:z.end]
	out := z.out[:]
	b, n, o := z.bits, z.n, z.o
	pos := 0
	var err error
loop:
	for o < limit && pos+16 <= len(in) {
		// At least 56 bits: bits beyond n are there already and the same.
		b |= binary.LittleEndian.Uint64(in[pos:]) << (n & 63)
		pos += int(63-n) >> 3
		n |= 56
		e := lit[b&(1<<litRoot-1)]
		// Three literals of 15 bits at most.
		for range 3 {
			if e&isSub != 0 {
				e = lit[(e>>valueShift+uint32(b>>litRoot)&(1<<(e>>extraShift&extraMask)-1))&(uint32(len(lit))-1)]
			}
			if e < isLiteral {
				break
			}
			b >>= e & 63
			n -= uint(e & 63)
			out[o] = byte(e >> valueShift)
			o++
			e = lit[b&(1<<litRoot-1)]
		}
		// The fourth: its code may be longer than the bits that are left.
		if e&(isLiteral|isSub) != 0 {
			continue
		}
		// A code of 15 bits with 5 more, and one of 15 with 13 more.
		if n < 48 {
			b |= binary.LittleEndian.Uint64(in[pos:]) << (n & 63)
			pos += int(63-n) >> 3
			n |= 56
		}
		b >>= e & 63
		n -= uint(e & 63)
		if e&(isEnd|isNone) != 0 {
			if e&isEnd != 0 {
				z.endBlock()
			} else {
				err = corrupt("a code that is none")
			}
			break loop
		}
		x := e >> extraShift & extraMask
		length := int(e>>valueShift&valueMask) + int(b&(1<<x-1))
		b >>= x
		n -= uint(x)
		e = dist[b&(1<<distRoot-1)]
		if e&isSub != 0 {
			e = dist[(e>>valueShift+uint32(b>>distRoot)&(1<<(e>>extraShift&extraMask)-1))&(uint32(len(dist))-1)]
		}
		if e&isNone != 0 {
			err = corrupt("a distance that is none")
			break loop
		}
		b >>= e & 63
		n -= uint(e & 63)
		x = e >> extraShift & extraMask
		d := int(e>>valueShift&valueMask) + int(b&(1<<x-1))
		b >>= x
		n -= uint(x)
		if d > o-z.low {
			err = corrupt("a distance to before the start")
			break loop
		}
		copyMatch(out, o, d, length)
		o += length
	}
	z.bits, z.n, z.o = b, n, o
	z.pos += pos
	return err
}

// copyMatch repeats what is d bytes before o. It may write 7 bytes more.
func copyMatch(out []byte, o, d, length int) {
	if d >= 8 {
		src, dst := out[o-d:o+length], out[o:o+length+8]
		if d >= length && length > 32 {
			copy(dst[:length], src)
			return
		}
		for i := 0; i < length; i += 8 {
			binary.LittleEndian.PutUint64(dst[i:], binary.LittleEndian.Uint64(out[o-d+i:]))
		}
		return
	}
	dst := out[o : o+length]
	if d == 1 {
		c := out[o-1]
		for i := range dst {
			dst[i] = c
		}
		return
	}
	src := out[o-d : o-d+length]
	for i := range dst {
		dst[i] = src[i]
	}
}

// slowSymbol decodes one code near the end of the input.
func (z *Reader) slowSymbol(t *table, root uint) (uint32, error) {
	for {
		z.bits &= 1<<z.n - 1
		e := t[z.bits&(1<<root-1)]
		if e&isSub != 0 {
			e = t[(e>>valueShift&valueMask)+uint32(z.bits>>root)&(1<<(e>>extraShift&extraMask)-1)]
		}
		// A symbol that is none has a code too, if it has bits.
		if n := uint(e & codeMask); n <= z.n && n > 0 {
			z.take(n)
			if e&isNone != 0 {
				return 0, corrupt("a code that is none")
			}
			return e, nil
		}
		if z.n > maxCode {
			return 0, corrupt("a code that is none")
		}
		if !z.need(z.n + 1) {
			return 0, z.short()
		}
	}
}

// symbol decodes one symbol, slowly.
func (z *Reader) symbol() error {
	e, err := z.slowSymbol(&z.lit, litRoot)
	switch {
	case err != nil:
		return err
	case e&isLiteral != 0:
		z.out[z.o] = byte(e >> valueShift)
		z.o++
		return nil
	case e&isEnd != 0:
		z.endBlock()
		return nil
	}
	more, err := z.get(uint(e >> extraShift & extraMask))
	if err != nil {
		return err
	}
	length := int(e>>valueShift&valueMask) + int(more)
	if e, err = z.slowSymbol(&z.dist, distRoot); err != nil {
		return err
	}
	if more, err = z.get(uint(e >> extraShift & extraMask)); err != nil {
		return err
	}
	d := int(e>>valueShift&valueMask) + int(more)
	if d > z.o-z.low {
		return corrupt("a distance to before the start")
	}
	copyMatch(z.out[:], z.o, d, length)
	z.o += length
	return nil
}
