package archive

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	digest "github.com/opencontainers/go-digest"

	"imagefs/store"
	"imagefs/store/docker"
	"imagefs/store/storetest"
)

// openInPlace opens an archive with a cache of the test's.
func openInPlace(t testing.TB, path, cache string) (*Store, error) {
	t.Helper()
	s, err := Open(path, StoreOptions{Cache: cache})
	if err == nil {
		t.Cleanup(func() { s.Close() })
	}
	return s, err
}

// seen is what a fixture must give in place beyond, or instead of, what loading
// it gives: images, broken ones with what is wrong with them, or an error of all.
type seen struct {
	more   []string          // images that loading passes over, for other platforms as a rule
	broken map[string]string // ID → a part of the error; "layer:" first if it is one of a layer, which is found when that is read
	err    error
	says   string
}

var inPlace = map[string]seen{
	"da-tampered-nginx.tar": {broken: map[string]string{"5a3221f0137b": "1 layers, its config 3"}},
	"oa-tampered-nginx.tar": {broken: map[string]string{"e26d615025f5": "expected sha256:e26d615025f594002683ea9b0104aeb886e0c383fcf96f9e372491beb17678e6, found sha256:01799edb"}},
}

// checkInPlace opens an archive and compares it with what loading gives.
func (f fixture) checkInPlace(t *testing.T, path string) {
	name := filepath.Base(path)
	want := inPlace[name]
	cache := t.TempDir()
	s, err := openInPlace(t, path, cache)
	if err != nil {
		e, says := f.err, f.says
		if want.err != nil {
			e, says = want.err, want.says
		}
		if e == nil || !errors.Is(err, e) || !strings.Contains(err.Error(), says) || len(want.broken) > 0 {
			t.Errorf("%s: %v, want %v %s", name, err, e, says)
		}
		return
	}
	got := summary(t, s, want)
	expect := append(slices.Clone(f.images), want.more...)
	for id := range want.broken {
		expect = append(expect, id+" broken")
	}
	slices.Sort(expect)
	if fmt.Sprint(got) != fmt.Sprint(expect) {
		t.Errorf("%s: %q\nwant %q", name, got, expect)
	}
	// Once more, with what the cache has now.
	again, err := openInPlace(t, path, cache)
	if err != nil {
		t.Errorf("%s: again: %v", name, err)
		return
	}
	if a := summary(t, again, want); fmt.Sprint(a) != fmt.Sprint(got) {
		t.Errorf("%s: again: %q", name, a)
	}
	if len(f.images) > 0 {
		sameAsLoaded(t, name, path, s, again)
	}
}

// summary lists the images as fixtures have them, checks those that are whole to
// the last byte, and the errors of the others.
func summary(t *testing.T, s *Store, want seen) []string {
	t.Helper()
	ids, err := s.IDs(ctx)
	if err != nil {
		t.Fatal(err)
	}
	names, err := s.Names(ctx)
	if err != nil {
		t.Fatal(err)
	}
	by := map[digest.Digest][]string{}
	for ref, id := range names.Tags {
		by[id] = append(by[id], ref)
	}
	problems := map[string]bool{}
	if err := s.Check(ctx, true, func(p store.Problem) { problems[p.What] = true }); err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, id := range ids {
		short := id.Encoded()[:12]
		img, err := s.Image(ctx, id)
		if err != nil {
			t.Fatal(err)
		}
		if says, ok := want.broken[short]; ok {
			if !errors.Is(img.Err(), store.ErrCorrupt) && !errors.Is(img.Err(), store.ErrUnsupported) || !strings.Contains(img.Err().Error(), says) {
				t.Errorf("%s: %v, want %q", short, img.Err(), says)
			}
			if len(problems) == 0 {
				t.Errorf("%s: check finds nothing", short)
			}
			out = append(out, short+" broken")
			continue
		}
		if img.Err() != nil || problems["image "+id.String()] {
			t.Errorf("%s: %v", short, img.Err())
		}
		for _, l := range img.Layers() {
			if problems["layer "+l.DiffID().String()] {
				t.Errorf("%s: layer %s has a problem", short, l.DiffID())
			}
		}
		slices.Sort(by[id])
		out = append(out, strings.Join(append([]string{short}, by[id]...), " "))
	}
	slices.Sort(out)
	return out
}

// sameAsLoaded compares every image with that of a store into which the archive was loaded.
func sameAsLoaded(t *testing.T, name, path string, stores ...*Store) {
	t.Helper()
	d, err := docker.Open(filepath.Join(t.TempDir(), "store"), docker.Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	loaded, err := NewLoader(d, Options{}).LoadPath(ctx, path)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	for _, l := range loaded {
		want, err := d.Image(ctx, l.ID)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range stores {
			got, err := s.Image(ctx, l.ID)
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			storetest.SameImage(t, name, got, want)
		}
	}
}

func TestFixturesInPlace(t *testing.T) {
	dir := storetest.Fixtures(t)
	there, err := filepath.Glob(filepath.Join(dir, "[do]?-*"))
	if err != nil {
		t.Fatal(err)
	}
	used := map[string]bool{}
	check := func(f fixture, path string) {
		t.Helper()
		f.checkInPlace(t, path)
		used[filepath.Base(path)] = true
		if strings.HasPrefix(filepath.Base(path), "ol-") {
			f.checkInPlace(t, renamed(t, storetest.Extract(t, path), filepath.Base(path)))
		}
	}
	for _, path := range there {
		name := filepath.Base(path)
		if cases, ok := packed[name]; ok {
			for _, f := range storetest.Packed(t, name) {
				check(cases[filepath.Base(f)], f)
			}
			continue
		}
		check(fixtures[name], path)
	}
	check(fixtures["nasty-tars.tar.gz"], filepath.Join(dir, "nasty-tars.tar.gz"))
	for name := range inPlace {
		if !used[name] {
			t.Errorf("there is no %s", name)
		}
	}
}

// renamed gives a directory the name that the table of fixtures knows.
func renamed(t *testing.T, dir, name string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), name)
	if err := os.Rename(dir, to); err != nil {
		t.Fatal(err)
	}
	return to
}
