package save

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"imagefs/store"
	"imagefs/store/archive"
	"imagefs/store/docker"
	"imagefs/store/storetest"
)

var ctx = context.Background()

func openNew(t testing.TB) *docker.Store {
	t.Helper()
	s, err := docker.Open(filepath.Join(t.TempDir(), "store"), docker.Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func load(t testing.TB, s *docker.Store, b []byte) []store.Loaded {
	t.Helper()
	out, err := archive.NewLoader(s, archive.Options{}).Load(ctx, struct{ io.Reader }{bytes.NewReader(b)})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func selected(t testing.TB, s store.Store, refs ...string) []Item {
	t.Helper()
	items, err := Select(ctx, s, refs)
	if err != nil {
		t.Fatal(err)
	}
	return items
}

func written(t testing.TB, a *Archive) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := a.Write(ctx, &b, nil); err != nil {
		t.Fatal(err)
	}
	if int64(b.Len()) != a.Size() {
		t.Errorf("%d bytes written, the size is %d", b.Len(), a.Size())
	}
	return b.Bytes()
}

func dockerTar(t testing.TB, s store.Store, refs ...string) []byte {
	t.Helper()
	a, err := Docker(ctx, selected(t, s, refs...))
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	return written(t, a)
}

func temp() (*os.File, error) {
	f, err := os.CreateTemp("", "save-")
	if err == nil {
		err = os.Remove(f.Name())
	}
	return f, err
}

func ociTar(t testing.TB, s store.Store, c Compression, refs ...string) []byte {
	t.Helper()
	a, err := OCI(ctx, selected(t, s, refs...), OCIOptions{Compress: c, Temp: temp})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	return written(t, a)
}

var (
	base   = storetest.Files("etc/", "etc/passwd=root", "big="+strings.Repeat("0123456789abcdef", 200_000))
	top    = storetest.Files("etc/group=g", "etc/.wh.passwd=")
	images = []storetest.Image{
		{Names: []string{"app:1", "team/app:x"}, Layers: [][]byte{base, top}},
		{Names: []string{"app:2"}, Layers: [][]byte{base, top, base}, Comment: "the first layer twice"},
		{Layers: [][]byte{top}, Comment: "no name"},
	}
)

// What was saved loads as the same images with the names that were asked for, in every form.
func TestRoundTrip(t *testing.T) {
	s := openNew(t)
	load(t, s, storetest.Docker(images...).Tar())
	bare := images[2].ID().String()
	want := []store.Loaded{
		{ID: images[0].ID(), Names: []string{"app:1"}},
		{ID: images[1].ID(), Names: []string{"app:2"}},
		{ID: images[2].ID()},
	}
	refs := []string{"app", bare}
	forms := map[string]func() []byte{
		"docker":   func() []byte { return dockerTar(t, s, refs...) },
		"oci":      func() []byte { return ociTar(t, s, None, refs...) },
		"oci gzip": func() []byte { return ociTar(t, s, Gzip, refs...) },
		"oci zstd": func() []byte { return ociTar(t, s, Zstd, refs...) },
	}
	for name, form := range forms {
		t.Run(name, func(t *testing.T) {
			b := form()
			if !bytes.Equal(b, form()) {
				t.Error("twice is not the same")
			}
			other := openNew(t)
			if got := load(t, other, b); fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("got %v, want %v", got, want)
			}
			if err := other.Check(ctx, true, func(p store.Problem) { t.Errorf("%s: %v", p.What, p.Err) }); err != nil {
				t.Error(err)
			}
			// A layer that images share is in it once; the two have five layers, of two tars.
			if n := bytes.Count(b, base); strings.HasSuffix(name, "zip") || strings.HasSuffix(name, "zstd") {
				if len(b) > len(base)/2 {
					t.Errorf("%d bytes are not compressed", len(b))
				}
			} else if n != 1 {
				t.Errorf("the shared layer is in it %d times", n)
			}
		})
	}
	for _, c := range []Compression{None, Gzip, Zstd} {
		t.Run("directory "+c.String(), func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "layout")
			if err := OCIDir(ctx, dir, selected(t, s, refs...), OCIOptions{Compress: c, Temp: temp}); err != nil {
				t.Fatal(err)
			}
			got, err := archive.NewLoader(openNew(t), archive.Options{}).LoadPath(ctx, dir)
			if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("got %v %v, want %v", got, err, want)
			}
			if err := OCIDir(ctx, dir, selected(t, s, refs...), OCIOptions{Temp: temp}); !errors.Is(err, store.ErrExists) {
				t.Errorf("into a directory that is not empty: %v", err)
			}
			if left, _ := filepath.Glob(filepath.Join(filepath.Dir(dir), ".*")); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

// Any piece at any place is what it is when read from front to back, by several at a time.
func TestReadAt(t *testing.T) {
	s := openNew(t)
	load(t, s, storetest.Docker(images...).Tar())
	a, err := Docker(ctx, selected(t, s, "app", images[2].ID().String()))
	if err != nil {
		t.Fatal(err)
	}
	want := written(t, a)
	f := a.Open(ctx)
	defer f.Close()
	done := make(chan error)
	for seed := range uint64(4) {
		go func() {
			done <- func() error {
				r := rand.New(rand.NewPCG(seed, 1))
				for range 300 {
					off := r.Int64N(f.Size() + 10)
					b := make([]byte, r.IntN([]int{2, 600, 300_000}[r.IntN(3)]))
					n, err := f.ReadAt(b, off)
					rest := want[min(off, f.Size()):]
					rest = rest[:min(len(b), len(rest))]
					if !bytes.Equal(b[:n], rest) || n < len(b) && err != io.EOF || n == len(b) && err != nil {
						return fmt.Errorf("read %d at %d: %d bytes, %w", len(b), off, n, err)
					}
				}
				return nil
			}()
		}()
	}
	for range 4 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func TestSelect(t *testing.T) {
	s := openNew(t)
	load(t, s, storetest.Docker(images...).Tar())
	id := images[0].ID()
	for _, c := range []struct {
		refs string
		want string
		err  error
	}{
		{"app:1", "0 app:1", nil},
		{"docker.io/library/app:1", "0 app:1", nil},
		{"app", "0 app:1|1 app:2", nil},
		{"app:2 app", "1 app:2|0 app:1", nil},
		{"team/app:x app:1 app:1", "0 team/app:x app:1", nil},
		{id.String(), "0", nil},
		{id.Encoded()[:12], "0", nil},
		{id.Encoded()[:12] + " app:1", "0 app:1", nil},
		{"nothing", "", store.ErrNotFound},
		{"app:3", "", store.ErrNotFound},
		{"app:1 nothing", "", store.ErrNotFound},
		{"App:1", "", store.ErrInvalid},
		{"", "", store.ErrInvalid},
	} {
		var got []string
		items, err := Select(ctx, s, strings.Fields(c.refs))
		for _, it := range items {
			n := slices.IndexFunc(images, func(i storetest.Image) bool { return i.ID() == it.Image.ID() })
			got = append(got, strings.Join(append([]string{fmt.Sprint(n)}, it.Names...), " "))
		}
		if strings.Join(got, "|") != c.want || !errors.Is(err, c.err) {
			t.Errorf("%s: %q %v, want %q %v", c.refs, got, err, c.want, c.err)
		}
	}
}

// An archive that docker itself saved, in this form, comes back to the byte.
func TestFixtureComesBack(t *testing.T) {
	f, err := os.Open(filepath.Join(storetest.Fixtures(t), "da-docker1809-alpine310.tar.gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	want, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	s := openNew(t)
	load(t, s, want)
	if got := dockerTar(t, s, "alpine:3.10"); !bytes.Equal(got, want) {
		t.Errorf("alpine:3.10 comes back as another: %d bytes, want %d", len(got), len(want))
	}
}

// All fixtures that load at all: saved and loaded again they have the same IDs and names.
func TestFixturesAgain(t *testing.T) {
	dir := storetest.Fixtures(t)
	files, err := filepath.Glob(filepath.Join(dir, "[do]?-*.t*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"da-small-cases.tar.gz", "oa-small-cases.tar.gz", "ol-sylabs-semantics.tar.gz"} {
		files = append(files, storetest.Packed(t, name)...)
	}
	loadedAny := 0
	for _, file := range files {
		s := openNew(t)
		loaded, err := archive.NewLoader(s, archive.Options{Platform: "linux/amd64"}).LoadPath(ctx, file)
		if err != nil {
			continue
		}
		loadedAny++
		var refs []string
		for _, l := range loaded {
			if refs = append(refs, l.Names...); len(l.Names) == 0 {
				refs = append(refs, l.ID.String())
			}
		}
		want := inWords(loaded)
		for form, b := range map[string][]byte{"docker": dockerTar(t, s, refs...), "oci": ociTar(t, s, Zstd, refs...)} {
			again, err := archive.NewLoader(&storetest.Sink{}, archive.Options{}).Load(ctx, struct{ io.Reader }{bytes.NewReader(b)})
			if got := inWords(again); err != nil || got != want {
				t.Errorf("%s as %s: got %s %v, want %s", filepath.Base(file), form, got, err, want)
			}
		}
		s.Close()
	}
	if loadedAny < 50 {
		t.Errorf("only %d fixtures loaded", loadedAny)
	}
}

// inWords says what was loaded, in an order of its own.
func inWords(loaded []store.Loaded) string {
	var out []string
	for _, l := range loaded {
		out = append(out, fmt.Sprint(l.ID, l.Names))
	}
	slices.Sort(out)
	return strings.Join(out, "\n")
}
