package blob

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	digest "github.com/opencontainers/go-digest"

	"imagefs/store"

	"imagefs/store/storetest"
)

// tarOf makes a tar of files that compress more or less well.
func tarOf(t testing.TB, size int) []byte {
	t.Helper()
	r := rand.New(rand.NewPCG(1, uint64(size)))
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := 0; b.Len() < size; i++ {
		body := make([]byte, r.IntN(400000))
		for j := range body {
			switch i % 3 {
			case 0:
				body[j] = byte(r.Uint32())
			case 1:
				body[j] = "0123456789abcdef"[r.IntN(1+i%16)]
			}
		}
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: filepath.Join("d", string(rune('a'+i%26)), digest.FromBytes(body).Encoded()),
			Size: int64(len(body)), Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func gzipLevel(level int) func([]byte) []byte {
	return func(b []byte) []byte {
		var z bytes.Buffer
		w, err := gzip.NewWriterLevel(&z, level)
		if err != nil {
			panic(err)
		}
		_, _ = w.Write(b)
		_ = w.Close()
		return z.Bytes()
	}
}

func zstdOf(b []byte) []byte {
	w, err := zstd.NewWriter(nil)
	if err != nil {
		panic(err)
	}
	return w.EncodeAll(b, nil)
}

// zstdStream writes a frame that does not say its size.
func zstdStream(b []byte) []byte {
	var z bytes.Buffer
	w, err := zstd.NewWriter(&z)
	if err != nil {
		panic(err)
	}
	for len(b) > 0 {
		n := min(len(b), 1<<16)
		_, _ = w.Write(b[:n])
		b = b[n:]
	}
	_ = w.Close()
	return z.Bytes()
}

// inPieces compresses pieces of a size one after the other.
func inPieces(n int, pack func([]byte) []byte) func([]byte) []byte {
	return func(b []byte) (out []byte) {
		for len(b) > 0 {
			k := min(n, len(b))
			out = append(out, pack(b[:k])...)
			b = b[k:]
		}
		return out
	}
}

// skippable puts frames to be skipped around and between.
func skippable(b []byte) []byte {
	skip := append([]byte{0x5a, 0x2a, 0x4d, 0x18, 4, 0, 0, 0}, "skip"...)
	half := len(b) / 2
	out := append(bytes.Clone(skip), zstdOf(b[:half])...)
	out = append(append(out, skip...), zstdStream(b[half:])...)
	return append(out, skip...)
}

var packers = map[string]func([]byte) []byte{
	"gzip 1": gzipLevel(1), "gzip 6": gzipLevel(6), "gzip 9": gzipLevel(9), "gzip stored": gzipLevel(0), "gzip huffman": gzipLevel(gzip.HuffmanOnly),
	"gzip members":       inPieces(70000, gzipLevel(6)),
	"gzip large members": inPieces(3<<20, gzipLevel(1)),
	"zstd":               zstdOf, "zstd stream": zstdStream, "zstd chunks": inPieces(50000, zstdOf), "zstd large frames": inPieces(5<<20, zstdStream),
	"zstd skippable": skippable,
}

func TestCompressedAtRandom(t *testing.T) {
	raw := tarOf(t, 18<<20)
	for name, pack := range packers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			blob := pack(raw)
			dir := t.TempDir()
			for _, o := range []Options{{Dir: dir}, {Dir: dir, Memory: 1 << 20}, {Disk: -1, Memory: 1 << 20}} {
				c := NewCache(o)
				l := stack(c, [][]byte{raw}, func([]byte) []byte { return blob })[0]
				tar, err := l.Tar(ctx)
				if err != nil {
					t.Fatal(err)
				}
				if tar.Size() != int64(len(raw)) {
					t.Fatalf("%d bytes, not %d", tar.Size(), len(raw))
				}
				if !l.Verified() && o.Memory == 0 {
					t.Error("not verified")
				}
				randomReads(t, tar, raw, 10)
				if o.Memory == 0 && !bytes.Equal(readTar(t, l), raw) {
					t.Error("from front to back it is another")
				}
				if o.Memory != 0 && c.pages.used > max(o.Memory, pageSize) {
					t.Errorf("%d bytes in memory", c.pages.used)
				}
				l.Close()
				if c.pages.used != 0 {
					t.Errorf("%d bytes are kept of a layer that was closed", c.pages.used)
				}
				c.Close()
			}
		})
	}
}

func randomReads(t *testing.T, f io.ReaderAt, want []byte, n int) {
	t.Helper()
	var wg sync.WaitGroup
	for g := range 2 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(g), 9))
			for range n {
				off, p := r.IntN(len(want)+10), make([]byte, r.IntN(300000))
				k, err := f.ReadAt(p, int64(off))
				w := want[min(off, len(want)):min(off+len(p), len(want))]
				if err != nil && err != io.EOF || err == io.EOF && k == len(p) && k > 0 || !bytes.Equal(p[:k], w) {
					t.Errorf("%d bytes at %d: %d, %v", len(p), off, k, err)
				}
			}
		})
	}
	wg.Wait()
}

// What is kept is used, and what was damaged of it is not.
func TestKeptFiles(t *testing.T) {
	storetest.NoRace(t)
	raw := tarOf(t, 20<<20)
	for _, name := range []string{"gzip 6", "zstd stream"} {
		blob := packers[name](raw)
		dir := t.TempDir()
		open := func(o Options) *Layer {
			o.Dir = dir
			return stack(NewCache(o), [][]byte{raw}, func([]byte) []byte { return blob })[0]
		}
		if !bytes.Equal(readTar(t, open(Options{})), raw) {
			t.Fatalf("%s: another tar", name)
		}
		files, err := filepath.Glob(dir + "/*")
		if err != nil || len(files) < 3 {
			t.Fatalf("%s: %q are kept, %v", name, files, err)
		}
		for _, f := range files {
			good, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			for _, bad := range [][]byte{nil, good[:len(good)/2], append([]byte{good[0] ^ 1}, good[1:]...), flip(good, len(good)-1), flip(good, len(good)/2)} {
				if err := os.WriteFile(f, bad, 0o600); err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(readTar(t, open(Options{})), raw) {
					t.Errorf("%s: another tar with a damaged %s", name, filepath.Base(f))
				}
			}
			if err := os.WriteFile(f, good, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		// Another blob under the same digest: the sums of the pages do not fit.
		at := len(blob) / 2
		blob[at] ^= 0x10
		l := open(Options{})
		f, err := l.Tar(ctx)
		if err == nil {
			_, err = io.Copy(io.Discard, io.NewSectionReader(f, 0, f.Size()))
		}
		if err == nil {
			err = l.Verify(ctx)
		}
		if name == "gzip 6" && !errors.Is(err, store.ErrCorrupt) {
			t.Errorf("%s: a damaged blob with a good index: %v", name, err)
		}
	}
}

// mapped lists the files below a directory that this process has mapped, each once for each map.
func mapped(t *testing.T, dir string) (names []string) {
	t.Helper()
	b, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if i := strings.Index(line, dir); i >= 0 {
			names = append(names, strings.TrimSpace(line[i:]))
		}
	}
	return names
}

// A seek index is unmapped with what needs it, and reads from then on fail.
func TestSeekIndexIsUnmapped(t *testing.T) {
	raw := tarOf(t, 18<<20)
	for name, pack := range map[string]func([]byte) []byte{"gzip": gzipLevel(1), "zstd": zstdStream} {
		blob, dir := pack(raw), t.TempDir()
		open := func() *Layer {
			return stack(NewCache(Options{Dir: dir, Memory: 1}), [][]byte{raw}, func([]byte) []byte { return blob })[0]
		}
		first := open()
		if _, err := first.Index(ctx); err != nil {
			t.Fatal(err)
		}
		first.Close()
		if m := mapped(t, dir); len(m) != 0 {
			t.Errorf("%s: before anything was kept: %q", name, m)
		}
		l := open()
		if l.Size() < 0 || len(mapped(t, dir)) != 2 {
			t.Errorf("%s: %d bytes, with the maps %q", name, l.Size(), mapped(t, dir))
		}
		f, err := l.Tar(ctx)
		if err != nil {
			t.Fatal(err)
		}
		var reads sync.WaitGroup
		for g := range 2 {
			reads.Go(func() {
				for n := 0; ; n++ {
					off := (n*7 + g*3) % 60 * pageSize
					if _, err := f.ReadAt(make([]byte, 100), int64(off)); err != nil {
						if !errors.Is(err, os.ErrClosed) {
							t.Errorf("%s: read of a closed layer: %v", name, err)
						}
						return
					}
				}
			})
		}
		time.Sleep(10 * time.Millisecond)
		l.Close()
		reads.Wait()
		if m := mapped(t, dir); len(m) != 1 {
			t.Errorf("%s: after Close, %q", name, m)
		}
		if l.Err() != nil {
			t.Errorf("%s: a closed layer is broken: %v", name, l.Err())
		}
		// Without what it needs a kept index is of no use.
		files, err := filepath.Glob(dir + "/*" + spillSuffix)
		if err != nil || len(files) != map[string]int{"gzip": 0, "zstd": 1}[name] {
			t.Fatal(files, err)
		}
		for _, f := range files {
			if err := os.Remove(f); err != nil {
				t.Fatal(err)
			}
			if l := open(); l.Size() >= 0 {
				t.Errorf("%s: it can be read without %s", name, f)
			}
		}
		if m := mapped(t, dir); len(m) != 1 {
			t.Errorf("%s: in the end, %q", name, m)
		}
	}
}

// Nothing stays mapped of a layer that is forgotten, once nobody holds it.
func TestForget(t *testing.T) {
	raw := tarOf(t, 1<<20)
	for name, pack := range map[string]func([]byte) []byte{"plain": plain, "gzip": gzipLevel(6)} {
		dir := t.TempDir()
		open := func() []*Layer { return stack(NewCache(Options{Dir: dir}), [][]byte{raw, tarOf(t, 1<<19)}, pack) }
		layers := open()
		for _, l := range layers {
			if err := l.Verify(ctx); err != nil {
				t.Fatal(err)
			}
		}
		for _, l := range layers {
			l.Forget()
		}
		layers = open()
		for _, l := range layers {
			if _, err := l.Index(ctx); err != nil {
				t.Fatal(err)
			}
		}
		all := len(mapped(t, dir))
		if want := map[string]int{"plain": 2, "gzip": 4}[name]; all != want {
			t.Fatalf("%s: %q are mapped", name, mapped(t, dir))
		}
		release := layers[0].Hold()
		index, err := layers[0].Index(ctx)
		if err != nil {
			t.Fatal(err)
		}
		layers[1].Forget()
		layers[0].Forget()
		if m := mapped(t, dir); len(m) != 1 {
			t.Errorf("%s: %q are mapped while one layer is held", name, m)
		}
		if _, hi, err := index.Children(0); err != nil || hi == 0 {
			t.Errorf("%s: the root of a layer that is held has %d names, %v", name, hi, err)
		}
		release()
		if m := mapped(t, dir); len(m) != 0 {
			t.Errorf("%s: %q are mapped in the end", name, m)
		}
		if _, err := layers[0].Index(ctx); !errors.Is(err, os.ErrClosed) {
			t.Errorf("%s: a layer that was forgotten: %v", name, err)
		}
		layers[0].Forget()
	}
}

// A layer may be forgotten while the index of one above is made of its own.
func TestForgetBelow(t *testing.T) {
	dir := t.TempDir()
	tars := [][]byte{tarOf(t, 3000), tarOf(t, 2000)}
	if _, err := stack(NewCache(Options{Dir: dir}), tars, zstdOf)[1].Index(ctx); err != nil {
		t.Fatal(err)
	}
	for range 200 {
		// The index above is not kept.
		layers := stack(NewCache(Options{Dir: dir}), tars, zstdOf)
		layers[1].s.Origin = ""
		if _, err := layers[0].Index(ctx); err != nil {
			t.Fatal(err)
		}
		done := make(chan error)
		go func() { _, err := layers[1].Index(ctx); done <- err }()
		layers[0].Forget()
		if err := <-done; err != nil && !errors.Is(err, os.ErrClosed) {
			t.Fatal(err)
		}
		layers[1].Forget()
	}
	if m := mapped(t, dir); len(m) != 0 {
		t.Errorf("%q are mapped in the end", m)
	}
}

func flip(b []byte, at int) []byte {
	b = bytes.Clone(b)
	b[at] ^= 0x20
	return b
}

func TestSpillsAreBounded(t *testing.T) {
	storetest.NoRace(t)
	dir := t.TempDir()
	c := NewCache(Options{Dir: dir, Disk: 45 << 20})
	defer c.Close()
	for i := range 4 {
		raw := append(tarOf(t, 20<<20), byte(i))
		if l := stack(c, [][]byte{raw}, zstdStream)[0]; !bytes.Equal(readTar(t, l), raw) {
			t.Error("another tar")
		}
	}
	files, err := filepath.Glob(dir + "/*" + spillSuffix)
	if err != nil || len(files) != 2 {
		t.Errorf("%q are kept, %v", files, err)
	}
	big := tarOf(t, 50<<20)
	if l := stack(c, [][]byte{big}, zstdStream)[0]; !bytes.Equal(readTar(t, l), big) {
		t.Error("another tar of one that is too large to keep")
	}
}

func TestDamagedBlobs(t *testing.T) {
	raw := tarOf(t, 1<<20)
	r := rand.New(rand.NewPCG(1, 1))
	for name, pack := range packers {
		good := pack(raw)
		for i := range 12 {
			bad := bytes.Clone(good)
			if i%3 == 0 {
				bad = bad[:r.IntN(len(bad))]
			} else {
				bad[r.IntN(len(bad))] ^= 1 << r.IntN(8)
			}
			l := stack(NewCache(Options{}), [][]byte{raw}, func([]byte) []byte { return bad })[0]
			l.s.Blob = digest.FromBytes(good)
			_, err := l.Index(ctx)
			if err == nil {
				err = l.Verify(ctx)
			}
			if !errors.Is(err, store.ErrCorrupt) || !errors.Is(l.Err(), store.ErrCorrupt) {
				t.Errorf("%s: %v, Err %v", name, err, l.Err())
			}
		}
	}
	xz := stack(NewCache(Options{}), [][]byte{raw}, func([]byte) []byte { return []byte("\xfd7zXZ\x00abcdef") })[0]
	if _, err := xz.Index(ctx); !errors.Is(err, store.ErrUnsupported) {
		t.Errorf("xz: %v", err)
	}
}

// FuzzSeekIndex reads hostile index files.
func FuzzSeekIndex(f *testing.F) {
	x := newIndexer()
	_ = x.write(make([]byte, 300000))
	raw, err := x.finish(100, []byte("extra"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	blob := gzipLevel(6)(bytes.Repeat([]byte("some text "), 300000))
	p, err := NewCache(Options{}).newPass(ctx, bytes.NewReader(blob), int64(len(blob)), gzipped, digest.SHA256, "")
	if err != nil {
		f.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, p); err != nil {
		f.Fatal(err)
	}
	if raw, err = p.x.finish(int64(len(blob)), nil); err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) >= seekHeader {
			le.PutUint32(b[12:], checksum(b))
		}
		x, err := openSeek(b, int64(len(blob)))
		if err != nil {
			if !errors.Is(err, store.ErrCorrupt) {
				t.Fatal(err)
			}
			return
		}
		for _, form := range []format{gzipped, zstandard} {
			s := &stream{pages: newPageCache(1 << 20), src: bytes.NewReader(blob), size: int64(len(blob)), form: form, ix: x}
			for _, off := range []int64{0, 1, x.tarSize / 2, x.tarSize - 1} {
				_, err := s.ReadAt(make([]byte, 100), max(off, 0))
				if err != nil && err != io.EOF && !errors.Is(err, store.ErrCorrupt) {
					t.Fatal(err)
				}
			}
		}
	})
}

// manyFrames is a blob of frames to be skipped, a byte in each.
type manyFrames struct {
	reads int
	until int // reads; then stop is called
	stop  func()
}

func (m *manyFrames) ReadAt(p []byte, off int64) (int, error) {
	if m.reads++; m.reads == m.until {
		m.stop()
	}
	const frame = "\x50\x2a\x4d\x18\x01\x00\x00\x00x"
	n := copy(p, frame[off%int64(len(frame)):])
	for n < len(p) {
		n += copy(p[n:], frame)
	}
	return n, nil
}

// Frames of nothing are read many at a time, up to a limit, and somebody can stop it.
func TestManyFrames(t *testing.T) {
	const n = 1 << 20
	m := &manyFrames{}
	if groups, big, err := zstdGroups(ctx, m, 9*n); err != nil || big || len(groups) != 1 || m.reads > 9*n/2048 {
		t.Errorf("%d groups of %d frames, %t, in %d reads: %v", len(groups), n, big, m.reads, err)
	}
	if _, _, err := zstdGroups(ctx, &manyFrames{}, 9*(maxFrames+1)); !errors.Is(err, store.ErrTooLarge) {
		t.Errorf("one frame more than may be: %v", err)
	}
	stopped, stop := context.WithCancel(ctx)
	m = &manyFrames{until: 10, stop: stop}
	if _, _, err := zstdGroups(stopped, m, 9*n); !errors.Is(err, context.Canceled) || m.reads != 10 {
		t.Errorf("stopped in read 10, it made %d: %v", m.reads, err)
	}
}

// FuzzZstdFrames measures hostile frames.
func FuzzZstdFrames(f *testing.F) {
	for _, name := range []string{"zstd", "zstd stream", "zstd chunks", "zstd skippable"} {
		f.Add(packers[name]([]byte("some text, and some more of it")))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		groups, _, err := zstdGroups(ctx, bytes.NewReader(b), int64(len(b)))
		if err != nil {
			if !errors.Is(err, store.ErrCorrupt) {
				t.Fatal(err)
			}
			return
		}
		at := int64(0)
		for _, g := range groups {
			if g.off != at || g.end < g.off {
				t.Fatalf("%+v after %d", g, at)
			}
			at = g.end
		}
		if at != int64(len(b)) {
			t.Fatalf("%d of %d bytes", at, len(b))
		}
	})
}
