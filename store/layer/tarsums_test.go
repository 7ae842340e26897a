package layer

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"imagefs/store"
)

// openedTar is the tar of two small files and a large one.
func openedTar(t *testing.T) (u *unpacked, f store.File, large int64) {
	t.Helper()
	hdrs, content := []tar.Header{reg("a", 0o644), reg("large", 0o644), reg("z", 0o644)}, map[string][]byte{}
	r := rand.New(rand.NewPCG(1, 1))
	for i, n := range []int{700, 3<<20 + 77, 900} {
		b := make([]byte, n)
		for k := range b {
			b[k] = byte(r.Uint32())
		}
		content[hdrs[i].Name] = b
	}
	raw := makeTar(t, hdrs, content)
	u, err := unpackIn(t, filepath.Join(t.TempDir(), "diff"), raw)
	if err != nil {
		t.Fatal(err)
	}
	f, err = OpenTar(TarSource{Split: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(u.split)), nil }, Dir: u.dir, Spill: u.spill,
		Temp: func() (*os.File, error) { return os.CreateTemp(t.TempDir(), "map") }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return u, f, int64(bytes.Index(raw, content["large"]))
}

// replace gives a file of the layer other content of the same size.
func replace(t *testing.T, u *unpacked, name string) {
	t.Helper()
	path := filepath.Join(u.dir.Name(), name)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/3] ^= 0x20
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
}

// Whoever reads all of the tar learns that a file in it was replaced, whatever
// the pieces are that they read, and their order.
func TestTarOfReplacedFiles(t *testing.T) {
	for _, name := range []string{"a", "large", "z", ""} {
		for _, c := range []struct {
			what  string
			piece int64
			order func(n int) []int
		}{
			{"at once", 8 << 20, nil},
			{"in order", 64 << 10, nil},
			{"in small pieces", 511, nil},
			{"from the end", 4096, func(n int) (o []int) {
				for i := range n {
					o = append(o, n-1-i)
				}
				return o
			}},
			{"by twos", 128 << 10, func(n int) (o []int) {
				for i := range n {
					o = append(o, min(i^1, n-1))
				}
				return o
			}},
			{"in any order", 4096, rand.New(rand.NewPCG(2, 2)).Perm},
		} {
			u, f, _ := openedTar(t)
			if name != "" {
				replace(t, u, name)
			}
			n := int((f.Size() + c.piece - 1) / c.piece)
			var order []int
			if c.order != nil {
				order = c.order(n)
			} else {
				for i := range n {
					order = append(order, i)
				}
			}
			var failed error
			b := make([]byte, c.piece)
			for _, i := range order {
				k, err := f.ReadAt(b, int64(i)*c.piece)
				if err != nil && err != io.EOF {
					failed = err
				} else if !bytes.Equal(b[:k], u.tar[int64(i)*c.piece:][:k]) && name == "" {
					t.Fatalf("%s: piece %d is wrong", c.what, i)
				}
			}
			if name == "" && failed != nil || name != "" && !errors.Is(failed, store.ErrCorrupt) {
				t.Errorf("%q replaced, read %s: %v", name, c.what, failed)
			}
			if name == "" && f.(store.PartReader).InParts() {
				t.Errorf("read %s: some is said to be missing", c.what)
			}
			if name == "" {
				continue
			}
			// As the kernel does after an error, and as who tries again.
			if _, err := io.Copy(io.Discard, io.NewSectionReader(f, 0, f.Size())); !errors.Is(err, store.ErrCorrupt) {
				t.Errorf("%q replaced, read %s, again: %v", name, c.what, err)
			}
		}
	}
}

// A part of a file tells nothing, and is read as it is.
func TestTarReadInPart(t *testing.T) {
	u, f, large := openedTar(t)
	replace(t, u, "large")
	p := f.(store.PartReader)
	if p.InParts() {
		t.Error("nothing was read, and some is missing")
	}
	for _, off := range []int64{large + 5000, large, large + 3<<20} {
		b := make([]byte, 2000)
		if _, err := f.ReadAt(b, off); err != nil || !p.InParts() {
			t.Fatalf("at %d: %v, %t", off, err, p.InParts())
		}
	}
}

// Several readers at once, in pieces that do not fit each other.
func TestTarSumsAtOnce(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 4))
	b := make([]byte, 200_000)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	sum := crc64ISO(0, b)
	for _, want := range []uint64{sum, sum + 1} {
		var s tarSums
		var wg sync.WaitGroup
		for k := range 8 {
			wg.Go(func() {
				r := rand.New(rand.NewPCG(uint64(k), 5))
				for off := 0; off < len(b); {
					n := min(1+r.IntN(5000), len(b)-off)
					if !s.add(3, b[off:off+n], int64(off), int64(len(b)), want) && want == sum {
						t.Error("right bytes are wrong")
					}
					off += n
				}
			})
		}
		wg.Wait()
		if ok := s.add(3, b[:10], 0, int64(len(b)), want); ok != (want == sum) {
			t.Errorf("in the end: %t", ok)
		}
	}
}

// Pieces that never meet take a bounded memory, and it shows that some are missing.
func TestTarSumsAreBounded(t *testing.T) {
	var s tarSums
	b := []byte("content")
	for run := range 3 {
		for i := range int64(maxPieces) {
			if !s.add(run, b, i*10, 1<<30, 1) {
				t.Fatal("half a file is wrong")
			}
		}
	}
	n := 0
	for _, e := range s.files {
		n += len(e.Value.(*pieces).have)
	}
	if n != s.count || n > maxPieces || s.order.Len() != len(s.files) {
		t.Errorf("%d pieces, counted %d, of %d and %d files", n, s.count, len(s.files), s.order.Len())
	}
	if !s.open() {
		t.Error("nothing is missing")
	}
	for run := range 2 * maxWrong {
		if s.add(run+100, b, 0, int64(len(b)), 1) {
			t.Fatal("another file is right")
		}
	}
	if len(s.wrong) > maxWrong {
		t.Errorf("%d are remembered", len(s.wrong))
	}
}
