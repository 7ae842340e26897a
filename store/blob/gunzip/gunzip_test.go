package gunzip

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"imagefs/store/storetest"
)

// all decompresses everything, and takes the state at each piece.
func all(r io.Reader) (out []byte, states []State, err error) {
	z := NewReader(r)
	for {
		if s, ok := z.State(); ok {
			states = append(states, s)
		}
		b, err := z.Next()
		if err == io.EOF {
			return out, states, nil
		}
		if err != nil {
			return out, states, err
		}
		out = append(out, b...)
	}
}

// check compares with compress/gzip, and takes it up at every state.
func check(t *testing.T, what string, raw []byte) {
	t.Helper()
	var want []byte
	g, werr := gzip.NewReader(bytes.NewReader(raw))
	if werr == nil {
		want, werr = io.ReadAll(g)
	}
	got, states, err := all(bytes.NewReader(raw))
	if (err == nil) != (werr == nil) || err == nil && !bytes.Equal(got, want) {
		t.Fatalf("%s: %d bytes, %v; compress/gzip: %d bytes, %v", what, len(got), err, len(want), werr)
	}
	if err != nil && !errors.Is(err, ErrCorrupt) && err != io.ErrUnexpectedEOF {
		t.Fatalf("%s: %v", what, err)
	}
	if n := min(len(got), len(want)); !bytes.Equal(got[:n], want[:n]) {
		t.Fatalf("%s: the bytes before the error differ", what)
	}
	at := func(off int64) io.Reader { return bytes.NewReader(raw[min(off, int64(len(raw))):]) }
	z := NewReader(nil)
	for _, s := range states {
		if err := z.Resume(at, s); err != nil {
			t.Fatalf("%s: take up at %d: %v", what, s.Out, err)
		}
		rest := got[s.Out:min(s.Out+3*chunk, int64(len(got)))]
		for len(rest) > 0 {
			b, err := z.Next()
			n := min(len(b), len(rest))
			if err != nil || !bytes.Equal(rest[:n], b[:n]) {
				t.Fatalf("%s: taken up at %d: %d bytes before the end: %v", what, s.Out, len(rest), err)
			}
			rest = rest[n:]
		}
	}
}

// text is data of every kind of repetition.
func text(r *rand.Rand, n int) []byte {
	var b bytes.Buffer
	for b.Len() < n {
		switch r.IntN(5) {
		case 0:
			for range r.IntN(3000) {
				b.WriteByte(byte(r.Uint32()))
			}
		case 1:
			b.Write(bytes.Repeat([]byte{byte(r.Uint32())}, r.IntN(2000)))
		case 2:
			b.WriteString(strings.Repeat("abcdefghijklmnop"[:1+r.IntN(16)], r.IntN(300)))
		default:
			for range r.IntN(500) {
				b.WriteString([]string{"layer", "image ", "the", " of", "\n", "0x", "tar/"}[r.IntN(7)])
			}
			if l := b.Len(); l > 0 {
				off := r.IntN(l)
				b.Write(bytes.Clone(b.Bytes()[off:min(off+r.IntN(4000), l)]))
			}
		}
	}
	return b.Bytes()
}

func compressed(t testing.TB, b []byte, level int) []byte {
	var z bytes.Buffer
	w, err := gzip.NewWriterLevel(&z, level)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return z.Bytes()
}

func TestLevels(t *testing.T) {
	storetest.NoRace(t)
	r := rand.New(rand.NewPCG(3, 4))
	data := text(r, 700<<10)
	for level := flate.HuffmanOnly; level <= 9; level++ {
		for _, n := range []int{0, 1, 100, 65535, 65536, 300000, len(data)} {
			check(t, "level", compressed(t, data[:n], level))
		}
	}
	// One huge fixed block, and a bomb.
	check(t, "zeros", compressed(t, make([]byte, 20<<20), 9))
}

func TestMembers(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	var z bytes.Buffer
	for range 300 {
		z.Write(compressed(t, text(r, r.IntN(4000)), r.IntN(10)))
	}
	check(t, "members", z.Bytes())
	check(t, "members and zeros", append(z.Bytes(), make([]byte, 100)...))
	check(t, "nothing", nil)
	var named bytes.Buffer
	w := gzip.NewWriter(&named)
	w.Name, w.Comment, w.Extra = "a name", "a comment", []byte("extra")
	w.Write(text(r, 1000))
	w.Close()
	check(t, "a header with everything", named.Bytes())
	w.Reset(&named)
	w.Name = strings.Repeat("x", 600)
	w.Close()
	check(t, "a long name", named.Bytes())
}

func TestTruncatedAndDamaged(t *testing.T) {
	storetest.NoRace(t)
	r := rand.New(rand.NewPCG(7, 8))
	for level := range 10 {
		raw := compressed(t, text(r, 20000), level)
		for n := 0; n < len(raw); n += 1 + len(raw)/300 {
			check(t, "cut off", raw[:n])
		}
		for n := len(raw) - 20; n < len(raw); n++ {
			check(t, "cut off", raw[:n])
		}
		for range 300 {
			bad := bytes.Clone(raw)
			bad[r.IntN(len(bad))] ^= 1 << r.IntN(8)
			check(t, "damaged", bad)
		}
	}
}

func TestSlowSource(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 10))
	data := text(r, 200000)
	raw := compressed(t, data, 6)
	for name, src := range map[string]io.Reader{"a byte at a time": iotest.OneByteReader(bytes.NewReader(raw)),
		"data with the end": iotest.DataErrReader(bytes.NewReader(raw)), "halves": iotest.HalfReader(bytes.NewReader(raw))} {
		if got, _, err := all(src); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
	broken := errors.New("the disk is on fire")
	if _, _, err := all(io.MultiReader(bytes.NewReader(raw[:1000]), iotest.ErrReader(broken))); !errors.Is(err, broken) {
		t.Errorf("a source that fails: %v", err)
	}
}

func TestPlacesThatCannotBe(t *testing.T) {
	raw := compressed(t, []byte("some text, some text"), 6)
	at := func(off int64) io.Reader { return bytes.NewReader(raw[min(off, int64(len(raw))):]) }
	z := NewReader(nil)
	for _, s := range []State{{In: -1}, {In: 1 << 60, Member: true, Block: -1}, {In: 5, Block: 90, Member: true}, {Left: 1 << 20, Block: -1},
		{Window: make([]byte, 40000), Block: -1}, {In: 3, Block: 1, Left: 7, Member: true}} {
		if err := z.Resume(at, s); err == nil {
			if _, err = z.Next(); err == nil {
				t.Errorf("%+v gives bytes", s)
			}
		}
	}
}

// FuzzInflate compares with compress/gzip: raw is made the deflate data of a member.
func FuzzInflate(f *testing.F) {
	r := rand.New(rand.NewPCG(1, 2))
	for level := flate.HuffmanOnly; level <= 9; level++ {
		z := compressed(f, text(r, 500), level)
		f.Add(z[10:len(z)-8], true)
		f.Add(z, false)
	}
	f.Fuzz(func(t *testing.T, raw []byte, wrap bool) {
		if wrap {
			// A trailer that fits whatever comes out of it.
			out, _ := io.ReadAll(io.LimitReader(flate.NewReader(bytes.NewReader(raw)), 1<<22))
			raw = append([]byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255}, raw...)
			raw = binary.LittleEndian.AppendUint32(raw, crc32.ChecksumIEEE(out))
			raw = binary.LittleEndian.AppendUint32(raw, uint32(len(out)))
		}
		if len(raw) < 4096 {
			check(t, "fuzz", raw)
		}
	})
}

// FuzzResume takes hostile places: nothing may panic or run on for ever.
func FuzzResume(f *testing.F) {
	f.Add(int64(100), int64(0), int64(80), int32(0), true, []byte("window"), []byte("some data"))
	f.Fuzz(func(t *testing.T, in, out, block int64, left int32, member bool, window, raw []byte) {
		at := func(off int64) io.Reader { return bytes.NewReader(raw[min(off, int64(len(raw))):]) }
		z := NewReader(nil)
		if z.Resume(at, State{In: in, Out: out, Block: block, Left: left, Member: member, Window: window}) != nil {
			return
		}
		for range 100 {
			if _, err := z.Next(); err != nil {
				return
			}
		}
	})
}

func benchFile(b *testing.B) []byte {
	p := os.Getenv("IMAGEFS_BENCH_GZIP")
	if p == "" {
		return compressed(b, text(rand.New(rand.NewPCG(1, 2)), 8<<20), 6)
	}
	raw, err := os.ReadFile(filepath.Clean(p))
	if err != nil {
		b.Fatal(err)
	}
	return raw
}

func BenchmarkInflate(b *testing.B) {
	raw := benchFile(b)
	for name, run := range map[string]func() int64{
		"ours": func() (n int64) {
			z := NewReader(bytes.NewReader(raw))
			for {
				p, err := z.Next()
				if n += int64(len(p)); err != nil {
					return n
				}
			}
		},
		"stdlib": func() int64 {
			z, _ := gzip.NewReader(bytes.NewReader(raw))
			n, _ := io.Copy(io.Discard, z)
			return n
		},
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				b.SetBytes(run())
			}
		})
	}
}
