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
	broken map[string]string // ID and names → a part of the error
	err    error
	says   string
}

var inPlace = map[string]seen{
	"da-tampered-nginx.tar": {broken: map[string]string{"5a3221f0137b nginx:latest": "1 layers, its config 3"}},
	"oa-tampered-nginx.tar": {broken: map[string]string{"e26d615025f5": "expected sha256:e26d615025f594002683ea9b0104aeb886e0c383fcf96f9e372491beb17678e6, found sha256:01799edb"}},
	"cinsp-windows-mini.tar.gz": {broken: map[string]string{
		"67f0a0c2d8ef": "expected sha256:e4e02f4caaa37d28ad4b66babf9d64098e81f08c0be24ea427614eafcbbdc3de, found sha256:9265ebea6c7c"}},
	"ggcr-sparse_foreign.tar": {broken: map[string]string{"53029f61be64 gcr.io/foo/bar:latest": "example.com"}},
	"bd-two-tags-bad-digests.tar": {broken: map[string]string{
		"ae5a13c07d2b wrongrepo:wrongtag": "blob sha256:35807b77a593c1147d13dc926a91dcc3015616ff7307cc30442c5a8e07546283 has 120 bytes, its manifest says 28570074",
		"b75d1544a06e testrepo:testtag":   "blob sha256:59390c695558464c51dc1fced64934b549770630192a1639ac6a90f59bd63b13 has 120 bytes, its manifest says 33291791"}},
	"containers-image-two-same-refs.tar": {broken: map[string]string{
		"a527179158cd": "layer sha256:0c8b263642b51b5c1dc40fe402ae2e97119c6007b6e52146419985ec1f0092dc: layer tar",
		"ce229a4eb579": "layer sha256:fa00bb4e2adbc73a5da1fd54d2a840020592530a8d4e8de9888b9e9a533419d8: layer tar"}},
	"imgutil-busybox-sparse.tar": {broken: map[string]string{
		"9d5226e6ce3f": `blobs/sha256/405fecb6a2fa4f29683f977e7e3b852bf6f8975a2aba647d234d2371894943da": not in the archive`}},
	"imgutil-multi-platform.tar": {broken: map[string]string{
		"e18f2c12bb4e": "manifest sha256:e18f2c12bb4ea582045415243370a3d9cf3874265aa2867f21a35e630ebe45a7 for linux/arm/v7",
		"f5b920213fc6": "manifest sha256:f5b920213fc6498c0c5eaee7e04f8424202b565bb9e5e4de9e617719fb7bd873 for linux/amd64"}},
	"sylabs-aufs-docker-v2-manifest.tar": {broken: map[string]string{
		"6c9c1b8d1adb": "blob sha256:6c9c1b8d1adba535a40046b52c051cccf33d85f60827bd269c978fd95f05c3c9 has 536 bytes, its descriptor says 525"}},
	"ol-regclient-testrepo.tar": {more: []string{"0da9b7d747f2", "187f89fb0852", "1b2d7646f08d", "2c0bee668dfa", "3812057c3fcf", "602521dbab20", "6146077b4bee",
		"72ef9867e70f", "917a47e590b9", "92351a10d8ae", "93eeda5d097c", "a7df0b904212", "adc1ef638916", "b4972303e3b2", "cffb7c92259a"}},
	"sylabs-hello-world-cosign-manifest-list.tar":    {more: helloWorlds},
	"sylabs-hello-world-docker-v2-manifest-list.tar": {more: helloWorlds},
}

var helloWorlds = []string{"29a03bf1904f", "36d89aa75357", "46331d942d63", "5004e9d559e7", "7066d68bd2f2", "72d7b2a56244", "b3593dab0549", "df5477cea558"}

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
		slices.Sort(by[id])
		short = strings.Join(append([]string{short}, by[id]...), " ")
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
		out = append(out, short)
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
		used[filepath.Base(path)] = true
		if storetest.Race && len(used)%6 != 1 {
			return
		}
		f.checkInPlace(t, path)
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
