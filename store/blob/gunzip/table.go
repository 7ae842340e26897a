package gunzip

import "math/bits"

// A table maps the next bits of the input to a symbol:
//
//	 31       30      29         28      27 … 12   11 … 8      7 … 0
//	┌────────┬───────┬──────────┬───────┬─────────┬───────────┬────────────┐
//	│literal │ end   │ subtable │ none  │ value   │ more bits │ code bits  │
//	└────────┴───────┴──────────┴───────┴─────────┴───────────┴────────────┘
//
// value is a literal, the base of a length or a distance, or where the subtable
// starts that the bits after the first root ones choose from. more bits is how
// many follow the code, or the subtable's size.
type table [8192]uint32

const (
	isLiteral = 1 << 31
	isEnd     = 1 << 30
	isSub     = 1 << 29
	isNone    = 1 << 28

	valueShift = 12
	valueMask  = 0xffff
	extraShift = 8
	extraMask  = 15
	codeMask   = 0xff

	litRoot  = 11
	distRoot = 9
)

// build fills the table for codes of the given lengths. As with compress/flate,
// false for a set of codes that is over-subscribed or incomplete; none at all,
// or a single one of one bit, are allowed.
func (t *table) build(lens []uint8, symbol func(int) uint32, root uint) bool {
	var count [maxCode + 1]int
	longest := uint(0)
	for _, n := range lens {
		count[n]++
		longest = max(longest, uint(n))
	}
	for i := range t[:1<<root] {
		t[i] = isNone
	}
	if longest == 0 {
		return true
	}
	count[0] = 0
	var next [maxCode + 2]int
	code := 0
	for n := 1; n <= maxCode; n++ {
		code <<= 1
		next[n] = code
		code += count[n]
		if n == int(longest) {
			if code != 1<<longest && !(code == 1 && longest == 1) {
				return false
			}
			break
		}
	}
	free := 1 << root
	subBits := longest - min(longest, root)
	for s, n := range lens {
		if n == 0 {
			continue
		}
		c := uint(bits.Reverse16(uint16(next[n]))) >> (16 - n)
		next[n]++
		e := symbol(s) | uint32(n)
		if uint(n) <= root {
			for i := c; i < 1<<root; i += 1 << n {
				t[i] = e
			}
			continue
		}
		head := &t[c&(1<<root-1)]
		if *head&isSub == 0 {
			if free+1<<subBits > len(t) {
				return false
			}
			*head = isSub | uint32(free)<<valueShift | uint32(subBits)<<extraShift
			free += 1 << subBits
		}
		sub := t[*head>>valueShift&valueMask:][:1<<subBits]
		for i := c >> root; i < 1<<subBits; i += 1 << (uint(n) - root) {
			sub[i] = e
		}
	}
	return true
}

func plainSymbol(s int) uint32 { return uint32(s) << valueShift }

// litSymbol is a literal, the end of a block, or a length (RFC 1951, 3.2.5).
func litSymbol(s int) uint32 {
	switch {
	case s < 256:
		return isLiteral | uint32(s)<<valueShift
	case s == 256:
		return isEnd
	case s < 265:
		return uint32(s-257+3) << valueShift
	case s < 285:
		extra := uint32(s-261) / 4
		return (3+(4+uint32(s-261)%4)<<extra)<<valueShift | extra<<extraShift
	case s == 285:
		return 258 << valueShift
	}
	return isNone
}

// distSymbol is a distance.
func distSymbol(s int) uint32 {
	switch {
	case s < 4:
		return uint32(s+1) << valueShift
	case s < maxDists:
		extra := uint32(s-2) / 2
		return (1+(2+uint32(s)%2)<<extra)<<valueShift | extra<<extraShift
	}
	return isNone
}
