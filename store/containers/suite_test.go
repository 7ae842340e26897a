package containers

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	digest "github.com/opencontainers/go-digest"

	"imagefs/overlay"
	"imagefs/store"
	"imagefs/store/storetest"
)

// oddStore writes the odd images that an engine takes, but for those with a name in without.
func oddStore(t *testing.T, driver string, without ...string) (string, storetest.Contents) {
	t.Helper()
	dir := t.TempDir()
	w := newWriter(t, dir, driver)
	var want storetest.Contents
	for _, h := range storetest.Odd() {
		var names []string
		if slices.ContainsFunc(h.Names, func(n string) bool { return slices.Contains(without, n) }) {
			continue
		}
		for _, n := range h.Names {
			full, ok := store.Canonical(n)
			if !ok {
				t.Fatalf("%s is not in familiar form", n)
			}
			names = append(names, full)
		}
		if w.add(h.Image, names...) {
			want.Images = append(want.Images, h)
		}
	}
	w.done()
	if len(want.Images)+len(without) < 6 {
		t.Fatalf("an engine would take only %d images", len(want.Images))
	}
	return dir, want
}

func openStore(t testing.TB, dir string, o Options) *Store {
	t.Helper()
	s, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// TestSuite runs the suite of every kind of store, for both drivers, with
// layers that are read as they are looked into and layers that are indexed.
func TestSuite(t *testing.T) {
	for _, driver := range drivers {
		dir, want := oddStore(t, driver)
		for _, c := range []struct {
			name string
			o    Options
		}{
			{"indexed", Options{}}, {"cached", Options{Cache: t.TempDir()}}, {"lazy", Options{Lazy: true, Cache: t.TempDir()}},
		} {
			t.Run(driver+"/"+c.name, func(t *testing.T) {
				storetest.Run(t, func(t testing.TB) store.Store { return openStore(t, dir, c.o) }, want)
			})
		}
	}
}

// TestSuiteWithoutTarSplits has nothing but the directories to go by.
func TestSuiteWithoutTarSplits(t *testing.T) {
	for _, driver := range drivers {
		t.Run(driver, func(t *testing.T) {
			var without []string
			if driver == "vfs" {
				// Two trees are compared by sizes and times, which a layer of these changes nothing of.
				without = []string{"localhost:5000/odd/registry:V.1_-", "odd/twice:1"}
			}
			dir, want := oddStore(t, driver, without...)
			removeTarSplits(t, dir, driver)
			want.NoTar, want.Loose = true, os.Geteuid() != 0
			storetest.Run(t, func(t testing.TB) store.Store { return openStore(t, dir, Options{}) }, want)
		})
	}
}

func removeTarSplits(t *testing.T, dir, driver string) {
	t.Helper()
	splits, err := filepath.Glob(filepath.Join(dir, driver+"-layers", "*.tar-split.gz"))
	if err != nil || len(splits) == 0 {
		t.Fatal(splits, err)
	}
	for _, s := range splits {
		if err := os.Remove(s); err != nil {
			t.Fatal(err)
		}
	}
}

// TestSuiteOfABrokenStore has images that lack something, and all others.
func TestSuiteOfABrokenStore(t *testing.T) {
	dir, want := oddStore(t, "overlay")
	want.Broken = map[digest.Digest]string{}
	spoil := map[string]struct {
		word string
		do   func(h storetest.Held) error
	}{
		"odd/other:arm": {"no directory", func(h storetest.Held) error {
			return os.RemoveAll(filepath.Join(dir, "overlay", h.DiffIDs()[0].Encoded()))
		}},
		"odd/twice:1": {"hashes to", func(h storetest.Held) error {
			return os.WriteFile(filepath.Join(dir, "overlay-images", h.ID().Encoded(), dataName(h.ID().String())), []byte("{}"), 0o600)
		}},
	}
	var whole []storetest.Held
	for _, h := range want.Images {
		i := slices.IndexFunc(h.Names, func(n string) bool { return spoil[n].do != nil })
		if i < 0 {
			whole = append(whole, h)
			continue
		}
		s := spoil[h.Names[i]]
		want.Broken[h.ID()] = s.word
		if err := s.do(h); err != nil {
			t.Fatal(err)
		}
	}
	want.Images = whole
	if len(want.Broken) != len(spoil) {
		t.Fatalf("%d images are broken, want %d", len(want.Broken), len(spoil))
	}
	storetest.Run(t, func(t testing.TB) store.Store { return openStore(t, dir, Options{}) }, want)
}

// TestAdditionalStores has the lower layers of its images in another root.
func TestAdditionalStores(t *testing.T) {
	w := pair(t)
	other := newWriter(t, t.TempDir(), "overlay")
	lower := w.layers[1] // of bad
	id := lower["id"].(string)
	for _, name := range []string{"overlay/" + id, "overlay-layers/" + id + ".tar-split.gz"} {
		if err := os.Rename(filepath.Join(w.dir, name), filepath.Join(other.dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	other.layers = append(other.layers, lower)
	w.layers = slices.Delete(w.layers, 1, 2)
	if !other.add(storetest.Image{Layers: good.Layers, Comment: "another"}, "docker.io/library/good:1", "docker.io/library/other:1") {
		t.Fatal("an image was not written")
	}
	w.done()
	other.done()
	open := func(t testing.TB) store.Store {
		return openStore(t, w.dir, Options{Additional: []string{other.dir, t.TempDir()}})
	}
	held := func(i storetest.Image, names ...string) storetest.Held {
		i.Names = names
		return storetest.Held{Image: i}
	}
	storetest.Run(t, open, storetest.Contents{Images: []storetest.Held{
		held(good, "good:1"), held(bad, "localhost/bad:1"), held(storetest.Image{Layers: good.Layers, Comment: "another"}, "other:1"),
	}})
	alone := openStore(t, w.dir, Options{})
	if img, err := alone.Image(ctx, bad.ID()); err != nil || img.Err() == nil {
		t.Errorf("without the other root: %v %v", img.Err(), err)
	}
	whole(t, alone)
}

// TestFindLayer looks for layers by the stacks that they are in.
func TestFindLayer(t *testing.T) {
	w := pair(t)
	w.done()
	s := openStore(t, w.dir, Options{})
	ids := bad.DiffIDs()
	for n := range ids {
		l, err := s.FindLayer(ctx, ids[:n+1])
		if err != nil || l.ChainID() != store.ChainID(ids[:n+1]) {
			t.Fatalf("layer %d: %v", n, err)
		}
		img, err := s.Image(ctx, bad.ID())
		if err != nil || img.Layers()[n].Key() != l.Key() {
			t.Errorf("layer %d is another one than the image's: %v", n, err)
		}
	}
	for _, stack := range [][]digest.Digest{nil, ids[1:], {ids[0], ids[2]}, {digest.FromString("x")}, make([]digest.Digest, 2)} {
		if l, err := s.FindLayer(ctx, stack); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("%v: %v %v", stack, l, err)
		}
	}
}

// TestPlainAfterAnError looks at a layer's directory while that cannot be done, and again.
func TestPlainAfterAnError(t *testing.T) {
	w := pair(t)
	w.done()
	s := openStore(t, w.dir, Options{})
	img, err := s.Image(ctx, good.ID())
	if err != nil {
		t.Fatal(err)
	}
	l := img.Layers()[0].(*layerRec)
	dir := filepath.Join(w.dir, "overlay", l.rec.ID)
	if err := os.Rename(dir, dir+"-away"); err != nil {
		t.Fatal(err)
	}
	if _, err := l.plain(); err == nil {
		t.Error("no error of a directory that is not there")
	}
	if err := os.Rename(dir+"-away", dir); err != nil {
		t.Fatal(err)
	}
	if _, err := l.plain(); err != nil {
		t.Errorf("the error is kept: %v", err)
	}
}

// A file that a layer has lost is damage; when the layer's record is gone, it is being removed.
func TestLostFile(t *testing.T) {
	w := pair(t)
	w.done()
	s := openStore(t, w.dir, Options{})
	img, err := s.Image(ctx, good.ID())
	if err != nil {
		t.Fatal(err)
	}
	l := img.Layers()[0].(*layerRec)
	ix, err := l.Index(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var file overlay.Ino
	for lo, hi, _ := ix.Children(0); lo < hi; lo++ {
		if _, i, f := ix.Entry(lo); f&overlay.EntWhiteout == 0 && ix.Stat(i).Mode&0o170000 == 0o100000 && ix.Stat(i).Size > 0 {
			file = i
		}
	}
	if file == 0 {
		t.Fatal("no file")
	}
	if err := os.Remove(filepath.Join(w.dir, "overlay", l.rec.ID, "diff", string(ix.Path(nil, file)))); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Open(ctx, file); !errors.Is(err, store.ErrCorrupt) || errors.Is(err, store.ErrGone) {
		t.Errorf("a file that is lost: %v", err)
	}
	w.layers, w.images = nil, nil
	w.done()
	if _, err := l.Open(ctx, file); !errors.Is(err, store.ErrGone) || errors.Is(err, store.ErrCorrupt) {
		t.Errorf("of a layer that is being removed: %v", err)
	}
}
