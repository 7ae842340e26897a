package layer

import (
	"hash/crc64"
	"math/rand/v2"
	"testing"
)

var isoTable = crc64.MakeTable(crc64.ISO)

// TestCRC64 compares with the standard library, at all lengths and in pieces.
func TestCRC64(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	b := make([]byte, 4096)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	for n := range 300 {
		if got, want := crc64ISO(0, b[:n]), crc64.Checksum(b[:n], isoTable); got != want {
			t.Errorf("%d bytes: %x, want %x", n, got, want)
		}
	}
	for range 2000 {
		lo, hi := r.IntN(len(b)), r.IntN(len(b)+1)
		if lo > hi {
			lo, hi = hi, lo
		}
		sum := r.Uint64()
		if got, want := crc64ISO(sum, b[lo:hi]), crc64.Update(sum, isoTable, b[lo:hi]); got != want {
			t.Fatalf("bytes %d to %d after %x: %x, want %x", lo, hi, sum, got, want)
		}
	}
}

// The sum of two pieces is that of the whole.
func TestJoinCRC64(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	b := make([]byte, 70_000)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	for range 2000 {
		n := r.IntN(len(b) + 1)
		k := r.IntN(n + 1)
		got := joinCRC64(crc64.Checksum(b[:k], isoTable), crc64.Checksum(b[k:n], isoTable), int64(n-k))
		if want := crc64.Checksum(b[:n], isoTable); got != want {
			t.Fatalf("%d and %d bytes: %x, want %x", k, n-k, got, want)
		}
	}
	// Pieces that no test has in memory: in two steps as in one.
	const far = 1 << 41
	sum := r.Uint64()
	if got, want := joinCRC64(sum, 0, far+5), joinCRC64(joinCRC64(sum, 0, far), 0, 5); got != want {
		t.Errorf("%x, want %x", got, want)
	}
}

func FuzzCRC64(f *testing.F) {
	f.Add(uint64(0), []byte("content"))
	f.Add(^uint64(0), make([]byte, 100))
	f.Fuzz(func(t *testing.T, sum uint64, b []byte) {
		if got, want := crc64ISO(sum, b), crc64.Update(sum, isoTable, b); got != want {
			t.Errorf("%x, want %x", got, want)
		}
	})
}

func BenchmarkCRC64(b *testing.B) {
	buf := make([]byte, 256<<10)
	for name, f := range map[string]func(uint64, []byte) uint64{
		"shifts":   crc64ISO,
		"standard": func(s uint64, p []byte) uint64 { return crc64.Update(s, isoTable, p) },
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(buf)))
			for b.Loop() {
				f(0, buf)
			}
		})
	}
}
