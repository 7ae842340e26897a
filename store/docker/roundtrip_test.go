package docker

import (
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	digest "github.com/opencontainers/go-digest"

	"imagefs/store"
	"imagefs/store/storetest"
	"imagefs/store/storetest/stacks"
)

// checkTar compares a layer's tar with what was loaded, whole and in random pieces.
func checkTar(t testing.TB, l store.Layer, want []byte) {
	t.Helper()
	if size, err := l.TarSize(ctx); err != nil || size != int64(len(want)) {
		t.Errorf("layer %s: tar size %d %v, want %d", l.DiffID(), size, err, len(want))
	}
	f, err := l.Tar(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, io.NewSectionReader(f, 0, f.Size())); err != nil || digest.NewDigest(digest.SHA256, h) != l.DiffID() {
		t.Errorf("layer %s: the tar is another: %v", l.DiffID(), err)
	}
	r := rand.New(rand.NewPCG(uint64(len(want)), 7))
	for range 200 {
		off := r.Int64N(int64(len(want)) + 10)
		b := make([]byte, r.IntN([]int{2, 600, 70000}[r.IntN(3)]))
		n, err := f.ReadAt(b, off)
		rest := want[min(off, int64(len(want))):]
		rest = rest[:min(len(b), len(rest))]
		if n != len(rest) || !bytes.Equal(b[:n], rest) || n < len(b) && err != io.EOF || n == len(b) && err != nil && err != io.EOF {
			t.Fatalf("layer %s: read %d at %d: %d bytes, %v", l.DiffID(), len(b), off, n, err)
		}
	}
}

func TestTarsComeBack(t *testing.T) {
	for seed := uint64(1000); seed < 1012; seed++ {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			s := openNew(t)
			stack := stacks.New(seed)
			id := load(t, s, "stack", nil, stack.Tars()...)
			img, err := s.Image(ctx, id)
			if err != nil || img.Err() != nil {
				t.Fatal(err, img.Err())
			}
			for n, l := range img.Layers() {
				checkTar(t, l, stack[n].Tar)
			}
			clean(t, s)
			if _, err := s.Remove(ctx, id.String(), false); err != nil {
				t.Error(err)
			}
			isEmpty(t, s)
		})
	}
}

// isEmpty checks that a store has nothing in it, not even half of something.
func isEmpty(t testing.TB, s *Store) {
	t.Helper()
	for _, d := range []string{overlay2.content, overlay2.metadata, overlay2.layers, overlay2.links, indexDir, spillDir, stageDir, journalDir, overlay2.image + "/layerdb/tmp"} {
		if names, err := s.root.List(d); err != nil || len(names) != 0 {
			t.Errorf("%s: %q %v", d, names, err)
		}
	}
	if names, err := s.root.List(overlay2.home); err != nil || !slices.Equal(names, []string{"l"}) {
		t.Errorf("%s: %q %v", overlay2.home, names, err)
	}
	noTemps(t, s)
	clean(t, s)
}

// noTemps checks that no temporary file is anywhere.
func noTemps(t testing.TB, s *Store) {
	t.Helper()
	err := filepath.WalkDir(s.path, func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && filepath.Base(filepath.Dir(p)) == "overlay2" {
			return fs.SkipDir
		}
		if strings.HasPrefix(d.Name(), ".tmp-") || strings.HasSuffix(d.Name(), "-removing") {
			t.Errorf("left behind: %s", p)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// classified tells whether an error says what was wrong.
func classified(err error) bool {
	var errno syscall.Errno
	return errors.Is(err, store.ErrCorrupt) || errors.Is(err, store.ErrTooLarge) || errors.As(err, &errno)
}

// TestNastyTars loads odd tars: each gives its bytes back, or a clear error and
// leaves nothing behind.
func TestNastyTars(t *testing.T) {
	dir := storetest.Extract(t, filepath.Join(storetest.Fixtures(t), "nasty-tars.tar.gz"))
	t.Setenv("TMPDIR", t.TempDir()) // what others make is not counted
	loaded, refused := 0, 0
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		name, _ := filepath.Rel(dir, p)
		raw, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		raw = plain(name, raw)
		t.Run(name, func(t *testing.T) {
			s := openNew(t)
			before := tempFiles(t)
			id, err := tryLoad(s, name, []string{"nasty:1"}, raw)
			if err != nil {
				refused++
				t.Log(err)
				if !classified(err) {
					t.Errorf("unclassified: %v", err)
				}
				isEmpty(t, s)
				return
			}
			loaded++
			img, err := s.Image(ctx, id)
			if err != nil || img.Err() != nil {
				t.Fatal(err, img.Err())
			}
			checkTar(t, img.Layers()[0], raw)
			tree(t, s, id)
			clean(t, s)
			if _, err := s.Remove(ctx, "nasty:1", false); err != nil {
				t.Error(err)
			}
			isEmpty(t, s)
			if after := tempFiles(t); after > before {
				t.Errorf("%d temporary files more than before", after-before)
			}
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d loaded, %d refused", loaded, refused)
	if loaded < refused {
		t.Errorf("only %d of %d load", loaded, loaded+refused)
	}
}

// plain undoes what a tar is packed in, where the standard library can.
func plain(name string, raw []byte) []byte {
	var r io.Reader = bytes.NewReader(raw)
	switch filepath.Ext(name) {
	case ".base64":
		r = base64.NewDecoder(base64.StdEncoding, r)
	case ".bz2":
		r = bzip2.NewReader(r)
	case ".gz", ".tgz":
		z, err := gzip.NewReader(r)
		if err != nil {
			return raw
		}
		r = z
	}
	if out, err := io.ReadAll(io.LimitReader(r, 64<<20)); err == nil {
		return out
	}
	return raw
}

// tempFiles counts what unpacked.TempFile has made and left a name.
func tempFiles(t testing.TB) int {
	t.Helper()
	m, err := filepath.Glob(filepath.Join(os.TempDir(), "imagefs-*"))
	if err != nil {
		t.Fatal(err)
	}
	return len(m)
}

// endless is a tar of files that nobody holds in memory.
type endless struct {
	files, size int
	head, body  []byte
	n, at       int
}

func newEndless(files, size int) *endless {
	return &endless{files: files, size: size}
}

func (e *endless) Read(p []byte) (int, error) {
	if e.n == e.files && e.at == len(e.head)+len(e.body) {
		return 0, io.EOF
	}
	if e.at == len(e.head)+len(e.body) {
		one := layerTar(noFail{}, fmt.Sprintf("dir%d/file%d=%s", e.n/1000, e.n, strings.Repeat("x", e.size)))
		e.head, e.body, e.at = one[:512], one[512:len(one)-1024], 0
		e.n++
	}
	var k int
	if e.at < len(e.head) {
		k = copy(p, e.head[e.at:])
	} else {
		k = copy(p, e.body[e.at-len(e.head):])
	}
	e.at += k
	return k, nil
}

// noFail is a testing.TB for helpers that are used where no test runs.
type noFail struct{ testing.TB }

func (noFail) Helper() {}

// TestMemoryIsBounded loads a layer of many files and one of a large file, and
// reads their tars, while it watches the heap.
func TestMemoryIsBounded(t *testing.T) {
	for name, c := range map[string]struct {
		files, size int
		limit       uint64
	}{
		"large file":  {1, 200 << 20, 48 << 20},
		"many files":  {10000, 1, 24 << 20},
		"large files": {400, 500 << 10, 48 << 20},
	} {
		t.Run(name, func(t *testing.T) {
			var src io.Reader = newEndless(c.files, c.size)
			if c.files == 1 {
				// The file itself must not be in memory either.
				head := layerTar(t, "big=")[:512]
				copy(head[124:], fmt.Sprintf("%011o\x00", c.size))
				copy(head[148:], "        ")
				sum := 0
				for _, b := range head {
					sum += int(b)
				}
				copy(head[148:], fmt.Sprintf("%06o\x00 ", sum))
				src = io.MultiReader(bytes.NewReader(head), io.LimitReader(repeat{}, int64(c.size)))
			}
			s := openNew(t)
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			before, most := m.HeapInuse, uint64(0)
			look := func() {
				runtime.ReadMemStats(&m)
				most = max(most, m.HeapInuse-min(before, m.HeapInuse))
			}
			in, err := s.Ingest(ctx)
			if err != nil {
				t.Fatal(err)
			}
			defer in.Abort()
			st, err := in.Unpack(ctx, watch{src, look, new(int)})
			if err != nil {
				t.Fatal(err)
			}
			cfg := fmt.Appendf(nil, `{"rootfs":{"type":"layers","diff_ids":[%q]}}`, st.DiffID())
			if err := in.Commit(ctx, []store.NewImage{{Config: cfg, Layers: []store.NewLayer{{DiffID: st.DiffID(), Staged: st}}}}); err != nil {
				t.Fatal(err)
			}
			look()
			img, err := s.Image(ctx, digest.FromBytes(cfg))
			if err != nil || img.Err() != nil {
				t.Fatal(err, img.Err())
			}
			f, err := img.Layers()[0].Tar(ctx)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			h := sha256.New()
			if _, err := io.Copy(h, watch{io.NewSectionReader(f, 0, f.Size()), look, new(int)}); err != nil || digest.NewDigest(digest.SHA256, h) != st.DiffID() {
				t.Error("the tar is another", err)
			}
			if most > c.limit {
				t.Errorf("%d MiB of memory", most>>20)
			}
			t.Logf("%d MiB of memory for a tar of %d MiB", most>>20, f.Size()>>20)
		})
	}
}

// watch calls look now and then.
type watch struct {
	r    io.Reader
	look func()
	n    *int
}

func (w watch) Read(p []byte) (int, error) {
	if *w.n++; *w.n%200 == 0 {
		w.look()
	}
	return w.r.Read(p)
}

type repeat struct{}

func (repeat) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'r'
	}
	return len(p), nil
}
