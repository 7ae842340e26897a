package layer

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"imagefs/overlay"
	"imagefs/store"
	"imagefs/store/guard"
	"imagefs/store/storetest"
	"imagefs/store/storetest/stacks"
)

// scanned is the index that the headers of a tar give, read in both ways.
func scanned(t *testing.T, raw []byte, lim Limits) (*Mapped, error) {
	t.Helper()
	finish := func(r *Records, err error) ([]byte, error) {
		if err != nil {
			return nil, err
		}
		b, err := r.Inherit(nil)
		if err != nil {
			return nil, err
		}
		return EncodeIndex(b, Meta{TarSize: int64(len(raw)), Size: -1})
	}
	front, err := finish(ScanTar(context.Background(), struct{ io.Reader }{bytes.NewReader(raw)}, lim))
	random, rerr := finish(ScanTarAt(context.Background(), bytes.NewReader(raw), int64(len(raw)), lim))
	if (err == nil) != (rerr == nil) || !bytes.Equal(front, random) {
		t.Fatalf("from front to back: %d bytes, %v; at random: %d bytes, %v", len(front), err, len(random), rerr)
	}
	if err != nil {
		return nil, err
	}
	m, err := ReadIndex(front)
	if err != nil {
		t.Fatal(err)
	}
	return m, nil
}

// sameContent compares all files of a tar with those of the diff directory that it was unpacked to.
func sameContent(t *testing.T, m *Mapped, raw []byte, u *unpacked) {
	t.Helper()
	r := rand.New(rand.NewPCG(1, 2))
	for i := range overlay.Ino(m.Inodes()) {
		a := m.Stat(i)
		if a.Mode&unix.S_IFMT != unix.S_IFREG || m.Whiteout(i) {
			continue
		}
		path := string(m.Path(nil, i))
		f, err := OpenRef(bytes.NewReader(raw), int64(len(raw)), m.Ref(i), int64(a.Size))
		if err != nil {
			t.Fatalf("%q: %v", path, err)
		}
		got, err := io.ReadAll(io.NewSectionReader(f, 0, f.Size()))
		if err != nil {
			t.Fatalf("%q: %v", path, err)
		}
		want, err := os.ReadFile(filepath.Join(u.dir.Name(), path))
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%q: %d bytes, on disk %d, %v", path, len(got), len(want), err)
		}
		for range 20 {
			off, n := r.Int64N(f.Size()+2), r.IntN(1000)
			p := make([]byte, n)
			k, err := f.ReadAt(p, off)
			if err != nil && err != io.EOF || !bytes.Equal(p[:k], want[min(off, f.Size()):min(off+int64(n), f.Size())]) {
				t.Fatalf("%q: %d bytes at %d: %d, %v", path, n, off, k, err)
			}
		}
	}
}

// A layer that is read where its tar lies is the layer that is unpacked.
func TestTarIsWhatIsUnpacked(t *testing.T) {
	tars := map[string][]byte{}
	for seed := range uint64(30) {
		tars[string(rune('a'+seed))] = stacks.New(seed).Tars()[0]
	}
	nasty := storetest.Extract(t, filepath.Join(storetest.Fixtures(t), "nasty-tars.tar.gz"))
	err := filepath.WalkDir(nasty, func(p string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			tars[p[len(nasty):]], err = os.ReadFile(p)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	storetest.NeedRoot(t)
	good, sparse := 0, 0
	for name, raw := range tars {
		t.Run(name, func(t *testing.T) {
			m, err := scanned(t, raw, Limits{})
			u, uerr := unpack(t, raw, nil, false)
			if (err == nil) != (uerr == nil) {
				t.Fatalf("in place: %v; unpacked: %v", err, uerr)
			}
			if err != nil {
				for _, s := range []error{store.ErrCorrupt, store.ErrTooLarge} {
					if errors.Is(err, s) != errors.Is(uerr, s) {
						t.Fatalf("in place: %v; unpacked: %v", err, uerr)
					}
				}
				return
			}
			good++
			sameLines(t, name, lines(m, true), lines(u.index, true))
			sameContent(t, m, raw, u)
			for i := range overlay.Ino(m.Inodes()) {
				if m.Ref(i)&refSparse != 0 {
					sparse++
				}
			}
		})
	}
	if good < 60 || sparse < 10 {
		t.Errorf("only %d of %d tars are good, with %d sparse files", good, len(tars), sparse)
	}
}

// hugeMember is a tar of one member that claims to have more content than can be.
func hugeMember(t testing.TB, h tar.Header) []byte {
	t.Helper()
	h.Format = tar.FormatGNU
	raw := makeTar(t, []tar.Header{h}, nil)
	head := raw[:blockBytes]
	copy(head[124:136], "\x80\x00\x00\x00\x7f\xff\xff\xff\xff\xff\xff\xff")
	copy(head[148:156], "        ")
	sum := 0
	for _, c := range head {
		sum += int(c)
	}
	copy(head[148:156], fmt.Sprintf("%06o\x00 ", sum))
	return raw
}

// hugeMembers are such tars of every kind that is not header alone.
func hugeMembers(t testing.TB) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	for _, name := range []string{"f", ".wh.x", ".wh..wh..opq", ".wh.x/below"} {
		out[name] = hugeMember(t, reg(name, 0o644))
	}
	out["of no known type"] = hugeMember(t, tar.Header{Typeflag: '8', Name: ".wh.x/below"})
	return out
}

// A member's size is checked whatever the member means to the layer, and
// nothing is skipped that is not there.
func TestHugeMembers(t *testing.T) {
	for name, raw := range hugeMembers(t) {
		for _, c := range []struct {
			lim  Limits
			want error
		}{{Limits{}, store.ErrTooLarge}, {Limits{Size: math.MaxInt64}, store.ErrCorrupt}} {
			_, front := ScanTar(context.Background(), bytes.NewReader(raw), c.lim)
			_, random := ScanTarAt(context.Background(), bytes.NewReader(raw), int64(len(raw)), c.lim)
			d, err := os.Open(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			_, unpacked := Unpack(context.Background(), bytes.NewReader(raw), UnpackOptions{Dst: d, Split: io.Discard, Unprivileged: true, Limits: c.lim})
			d.Close()
			for way, err := range map[string]error{"from front to back": front, "at random": random, "unpacked": unpacked} {
				if !errors.Is(err, c.want) {
					t.Errorf("%s, at most %d bytes, %s: %v", name, c.lim.Size, way, err)
				}
			}
		}
	}
}

// FuzzTarInPlace reads hostile tars in place, sparse files above all, and compares with archive/tar.
func FuzzTarInPlace(f *testing.F) {
	for seed := range uint64(8) {
		for _, raw := range stacks.New(seed).Tars() {
			f.Add(raw)
		}
	}
	for _, raw := range hugeMembers(f) {
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		lim := Limits{Sparse: 1 << 20}
		m, err := scanned(t, raw, lim)
		if err != nil {
			if !errors.Is(err, store.ErrCorrupt) && !errors.Is(err, store.ErrTooLarge) {
				t.Fatal(err)
			}
			return
		}
		want := map[string][]byte{}
		for tr := tar.NewReader(bytes.NewReader(raw)); ; {
			hdr, err := tr.Next()
			if err != nil {
				break
			}
			if r, err := parseHeader(hdr); err == nil && r.Kind == overlay.File {
				if want[r.Path], err = io.ReadAll(tr); err != nil {
					return
				}
			}
		}
		for i := range overlay.Ino(m.Inodes()) {
			a, path := m.Stat(i), string(m.Path(nil, i))
			if a.Mode&unix.S_IFMT != unix.S_IFREG || m.Whiteout(i) || a.Nlink > 1 {
				continue
			}
			r, err := OpenRef(bytes.NewReader(raw), int64(len(raw)), m.Ref(i), int64(a.Size))
			if err != nil {
				t.Fatalf("%q: %v", path, err)
			}
			got, err := io.ReadAll(io.NewSectionReader(r, 0, r.Size()))
			w, ok := want[path]
			if err != nil || ok && !bytes.Equal(got, w) {
				t.Fatalf("%q: %d bytes, archive/tar has %d: %v", path, len(got), len(w), err)
			}
		}
	})
}

// panicReader is a decompressor with a mistake in it.
type panicReader struct{}

func (panicReader) Read([]byte) (int, error) { panic("mistake") }

// The goroutine that reads ahead does not take the process with it.
func TestStreamPanics(t *testing.T) {
	var p *guard.Panic
	if _, err := ScanTarStream(context.Background(), panicReader{}, Limits{}); !errors.As(err, &p) {
		t.Errorf("a panic of the source became %v", err)
	}
}
