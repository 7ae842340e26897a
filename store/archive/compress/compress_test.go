package compress

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"imagefs/store"
)

// text is what the files in testdata hold. They were made with bzip2 1.0.8
// (two streams) and xz 5.4 (two streams with padding between them, the first of
// several blocks with sizes; no check; preset 9).
func text() []byte {
	var b bytes.Buffer
	for i := range 3000 {
		fmt.Fprintf(&b, "%d bottles\n", i*i)
	}
	return b.Bytes()
}

func packed(t testing.TB) map[string][]byte {
	t.Helper()
	all := map[string][]byte{}
	for _, n := range []string{"two.bz2", "two.xz", "nocheck.xz", "nine.xz"} {
		b, err := os.ReadFile("testdata/" + n)
		if err != nil {
			t.Fatal(err)
		}
		all[n] = b
	}
	for _, cut := range []int{0, 1000} {
		var gz, zs bytes.Buffer
		for _, part := range [][]byte{text()[:cut], text()[cut:]} {
			w := gzip.NewWriter(&gz)
			w.Write(part)
			w.Close()
			z, _ := zstd.NewWriter(&zs)
			z.Write(part)
			z.Close()
		}
		all[fmt.Sprint("gzip ", cut)], all[fmt.Sprint("zstd ", cut)] = gz.Bytes(), zs.Bytes()
	}
	all["zstd skip"] = append([]byte{0x50, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 'h', 'i'}, all["zstd 0"]...)
	all["plain"] = text()
	return all
}

func unpack(b []byte, o Options) ([]byte, error) {
	r := NewReader(bytes.NewReader(b), Detect(b), o)
	defer r.Close()
	return io.ReadAll(r)
}

func TestRead(t *testing.T) {
	for name, b := range packed(t) {
		if f := Detect(b); f == None != (name == "plain") || f != None && !strings.Contains(name, f.String()) && name != "two.bz2" {
			t.Errorf("%s is taken for %s", name, f)
		}
		if got, err := unpack(b, Options{}); err != nil || !bytes.Equal(got, text()) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
		r := NewReader(iotest.OneByteReader(bytes.NewReader(b)), Detect(b), Options{})
		if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, text()) {
			t.Errorf("%s byte by byte: %d bytes, %v", name, len(got), err)
		}
		r.Close()
	}
}

func TestTruncatedIsCorrupt(t *testing.T) {
	for name, b := range packed(t) {
		if name == "plain" {
			continue
		}
		for n := HeadSize; n < len(b); n += 1 + len(b)/41 {
			// A cut between two streams gives less, and cannot be seen.
			got, err := unpack(b[:n], Options{})
			if err == nil && len(got) < len(text()) && !strings.Contains("two.bz2 two.xz gzip 1000 zstd 1000 gzip 0 zstd 0 zstd skip", name) {
				t.Errorf("%s cut at %d of %d: no error", name, n, len(b))
			}
			if err != nil && !errors.Is(err, store.ErrCorrupt) {
				t.Errorf("%s cut at %d: %v", name, n, err)
			}
			if !bytes.HasPrefix(text(), got) {
				t.Errorf("%s cut at %d gives other content", name, n)
			}
		}
	}
}

func TestFlippedBitsInXZ(t *testing.T) {
	b := packed(t)["two.xz"]
	for n := HeadSize; n < len(b); n++ {
		if n > 100 && n < len(b)-100 && n%97 != 0 {
			continue
		}
		c := bytes.Clone(b)
		c[n] ^= 0x10
		// Some bits do not matter: a reset of what is in its first state.
		got, err := unpack(c, Options{})
		if err == nil && !bytes.Equal(got, text()) || err != nil && !errors.Is(err, store.ErrCorrupt) {
			t.Errorf("bit in byte %d: %d bytes, %v", n, len(got), err)
		}
	}
}

func TestWindow(t *testing.T) {
	all := packed(t)
	if _, err := unpack(all["nine.xz"], Options{Window: 32 << 20}); !errors.Is(err, store.ErrTooLarge) {
		t.Errorf("xz: %v", err)
	}
	var b bytes.Buffer
	z, _ := zstd.NewWriter(&b, zstd.WithWindowSize(64<<20), zstd.WithEncoderConcurrency(1))
	for range 100 {
		z.Write(text())
	}
	z.Flush()
	z.Close()
	if _, err := unpack(b.Bytes(), Options{Window: 32 << 20}); !errors.Is(err, store.ErrTooLarge) {
		t.Errorf("zstd: %v", err)
	}
	if _, err := unpack(b.Bytes(), Options{}); err != nil {
		t.Errorf("zstd: %v", err)
	}
	// A frame header that asks for a window of 1 GiB.
	if _, err := unpack([]byte{0x28, 0xb5, 0x2f, 0xfd, 0, 20 << 3, 1, 0, 0}, Options{}); !errors.Is(err, store.ErrTooLarge) {
		t.Errorf("zstd: %v", err)
	}
}

func TestErrorOfTheSource(t *testing.T) {
	broken := errors.New("the cable is out")
	for name, b := range packed(t) {
		for _, n := range []int{0, 3, len(b) / 2, len(b)} {
			r := NewReader(io.MultiReader(bytes.NewReader(b[:n]), iotest.ErrReader(broken)), Detect(b), Options{})
			if _, err := io.ReadAll(r); err != broken {
				t.Errorf("%s after %d bytes: %v", name, n, err)
			}
			r.Close()
		}
	}
}

func FuzzXZ(f *testing.F) {
	for _, n := range []string{"two.xz", "nocheck.xz"} {
		b, err := os.ReadFile("testdata/" + n)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r := NewReader(bytes.NewReader(b), XZ, Options{Window: 1 << 20})
		defer r.Close()
		_, err := io.Copy(io.Discard, io.LimitReader(r, 16<<20))
		if err != nil && !errors.Is(err, store.ErrCorrupt) && !errors.Is(err, store.ErrTooLarge) {
			t.Fatal(err)
		}
	})
}
