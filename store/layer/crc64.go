package layer

import (
	"encoding/binary"
	"sync"
)

// crc64ISO continues a CRC-64 (ISO 3309), which a tar-split has of each file,
// with the bytes of p: hash/crc64.Update with the ISO table. 0 is the sum of nothing.
//
// That polynomial, x⁶⁴+x⁴+x³+x+1, needs no table: a word times x⁶⁴ is the word
// times 1+x+x³+x⁴, a few shifts. And since squaring doubles the exponents, a
// word times x²⁵⁶ is the word times 1+x⁴+x¹²+x¹⁶, so that four words are on
// their way at a time. Loading an image had spent as much on this sum as on SHA-256.
func crc64ISO(sum uint64, p []byte) uint64 {
	s := ^sum
	if len(p) >= 64 {
		a, b, c, d := s^binary.LittleEndian.Uint64(p), binary.LittleEndian.Uint64(p[8:]), binary.LittleEndian.Uint64(p[16:]), binary.LittleEndian.Uint64(p[24:])
		for p = p[32:]; len(p) >= 32; p = p[32:] {
			a = times256(a) ^ binary.LittleEndian.Uint64(p)
			b = times256(b) ^ binary.LittleEndian.Uint64(p[8:])
			c = times256(c) ^ binary.LittleEndian.Uint64(p[16:])
			d = times256(d) ^ binary.LittleEndian.Uint64(p[24:])
		}
		s = times64(times64(times64(times64(a)^b)^c) ^ d)
	}
	for ; len(p) >= 8; p = p[8:] {
		s = times64(s ^ binary.LittleEndian.Uint64(p))
	}
	for _, v := range p {
		s ^= uint64(v)
		// Times x⁸, as above; what leaves at the bottom comes in at the top.
		s = s>>8 ^ wrap(s<<56)
	}
	return ^s
}

// The bits of a word are the coefficients of x⁰ … x⁶³ from the top down, so that
// times x is one to the right. What leaves the word there has x⁶⁴ in it.

// times64 is s times x⁶⁴.
func times64(s uint64) uint64 { return s ^ s>>1 ^ s>>3 ^ s>>4 ^ wrap(s<<63^s<<61^s<<60) }

// times256 is s times x²⁵⁶.
func times256(s uint64) uint64 { return s ^ s>>4 ^ s>>12 ^ s>>16 ^ wrap(s<<60^s<<52^s<<48) }

// wrap is out times x⁶⁴, for an out without the lowest four bits.
func wrap(out uint64) uint64 { return out ^ out>>1 ^ out>>3 ^ out>>4 }

// joinCRC64 is the sum of two pieces one after the other, of their sums and of
// the length of the second: what the first leaves moves on by so many bytes.
func joinCRC64(a, b uint64, length int64) uint64 {
	t := powers()
	for k := 0; length > 0; k++ {
		if length&1 != 0 {
			a = times(t[k], a)
		}
		length >>= 1
	}
	return a ^ b
}

// powers are x to the power of 8, 16, 32 …: by those a sum moves on over 1, 2, 4 … bytes.
var powers = sync.OnceValue(func() (t [63]uint64) {
	t[0] = 1 << 55
	for k := 1; k < len(t); k++ {
		t[k] = times(t[k-1], t[k-1])
	}
	return t
})

// times is the product of two words.
func times(a, b uint64) (p uint64) {
	for ; a != 0; a <<= 1 {
		if a>>63 != 0 {
			p ^= b
		}
		b = b>>1 ^ wrap(b<<63)
	}
	return p
}
