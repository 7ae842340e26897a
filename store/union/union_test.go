package union_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	digest "github.com/opencontainers/go-digest"

	"imagefs/overlay"
	"imagefs/store"
	"imagefs/store/docker"
	"imagefs/store/storetest"
	"imagefs/store/union"
)

var ctx = context.Background()

// root makes a store with images and returns its directory.
func root(t testing.TB, images ...storetest.Image) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "store")
	s, err := docker.Open(dir, docker.Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	storetest.Fill(t, s, images...)
	return dir
}

func part(t testing.TB, name, dir string, readOnly bool) store.Part {
	t.Helper()
	s, err := docker.Open(dir, docker.Options{ReadOnly: readOnly})
	if err != nil {
		t.Fatal(err)
	}
	p := store.Part{Name: name, Kind: "docker", Path: dir, Store: s}
	if readOnly {
		p.Fixed = "name it to change it"
	}
	return p
}

// reader is a store that can only be read, and cannot find layers by itself.
type reader struct{ store.Store }

func readOnly(p store.Part) store.Part {
	p.Store, p.Kind = reader{p.Store}, "reader"
	return p
}

func open(t testing.TB, o union.Options, parts ...store.Part) store.Store {
	t.Helper()
	if o.Log == nil {
		o.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	u, err := union.New(parts, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { u.Close() })
	return u
}

func TestSuite(t *testing.T) {
	held := storetest.Odd()
	all := storetest.Images(held)
	a, b := root(t, all[:5]...), root(t, all[3:]...)
	// Of the images in both, the first store has lost one, and the second another.
	lose(t, a, all[3])
	lose(t, b, all[4])
	for name, open := range map[string]func(t testing.TB) store.Store{
		"both find layers": func(t testing.TB) store.Store {
			return open(t, union.Options{}, part(t, "a", a, false), part(t, "b", b, false))
		},
		"neither does": func(t testing.TB) store.Store {
			return open(t, union.Options{}, readOnly(part(t, "a", a, true)), readOnly(part(t, "b", b, true)))
		},
		"the other way": func(t testing.TB) store.Store {
			return open(t, union.Options{}, readOnly(part(t, "b", b, true)), part(t, "a", a, true))
		},
	} {
		t.Run(name, func(t *testing.T) {
			want := storetest.Contents{Images: held, Damaged: true}
			storetest.Run(t, open, want)
		})
	}
}

// lose takes the config of an image from a store, and leaves its names.
func lose(t testing.TB, dir string, img storetest.Image) {
	t.Helper()
	p := filepath.Join(dir, "image/overlay2/imagedb/content/sha256", img.ID().Encoded())
	if err := os.WriteFile(p, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
}

var (
	base  = storetest.Files("etc/", "etc/f=the base\n")
	one   = storetest.Files("one=1\n")
	two   = storetest.Files("two=2\n")
	imgA  = storetest.Image{Names: []string{"app:1", "both:1"}, Layers: [][]byte{base, one}}
	imgB  = storetest.Image{Names: []string{"app:2", "both:1"}, Layers: [][]byte{base, two}}
	imgAB = storetest.Image{Names: []string{"same:1"}, Layers: [][]byte{base}}
)

func names(t testing.TB, st store.Store) map[string]digest.Digest {
	t.Helper()
	n, err := st.Names(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return n.Tags
}

func layers(t testing.TB, st store.Store, img storetest.Image) []store.Layer {
	t.Helper()
	i, err := st.Image(ctx, img.ID())
	if err != nil || i.Err() != nil {
		t.Fatal(err, i)
	}
	return i.Layers()
}

// file returns the content of a file at the top of a layer, and that of one that is held open.
func file(t testing.TB, l store.Layer, path string) string {
	t.Helper()
	f := openFile(t, l, path)
	defer f.Close()
	b, err := io.ReadAll(io.NewSectionReader(f, 0, f.Size()))
	if err != nil {
		t.Error(err)
	}
	return string(b)
}

func openFile(t testing.TB, l store.Layer, path string) store.File {
	t.Helper()
	ix, err := l.Index(ctx)
	if err != nil {
		t.Fatal(err)
	}
	tree, err := overlay.Merge(ix)
	if err != nil {
		t.Fatal(err)
	}
	n, ok, err := tree.Walk(path)
	if err != nil || !ok {
		t.Fatal(path, err)
	}
	f, err := l.Open(ctx, n.Ino())
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestFirstWins(t *testing.T) {
	a, b := root(t, imgA, imgAB), root(t, imgB, imgAB)
	u := open(t, union.Options{}, part(t, "a", a, false), part(t, "b", b, false))
	got := names(t, u)
	want := map[string]digest.Digest{"app:1": imgA.ID(), "both:1": imgA.ID(), "app:2": imgB.ID(), "same:1": imgAB.ID()}
	for ref, id := range want {
		if got[ref] != id {
			t.Errorf("%s is %s, want %s", ref, got[ref], id)
		}
	}
	if len(got) != len(want) {
		t.Errorf("names %v", got)
	}
	// The base is one layer for images of both stores, the first store's.
	ka, kb := layers(t, u, imgA)[0].Key(), layers(t, u, imgB)[0].Key()
	if ka != kb || !strings.HasPrefix(ka, "a/") || !strings.HasPrefix(layers(t, u, imgB)[1].Key(), "b/") {
		t.Errorf("keys %s and %s", ka, kb)
	}
	if u.Root() != "" || len(u.(store.Parter).Parts()) != 2 {
		t.Error("it says that it is one store")
	}
	if _, _, err := store.Resolve(ctx, u, "sha256:"+imgA.ID().Encoded()[:12]); err != nil {
		t.Error(err)
	}
}

// A layer that its store loses is another from then on, and what is open of it stays readable.
func TestALayerMoves(t *testing.T) {
	for _, find := range []bool{true, false} {
		a, b := root(t, imgA, imgAB), root(t, imgB, imgAB)
		pb := part(t, "b", b, false)
		if !find {
			pb = readOnly(pb)
		}
		u := open(t, union.Options{}, part(t, "a", a, false), pb)
		shared := layers(t, u, imgB)[0]
		if file(t, shared, "etc/f") != "the base\n" {
			t.Error("read another base")
		}
		for _, ref := range []string{"same:1", "both:1", "app:1"} {
			if _, err := u.(store.Remover).Remove(ctx, ref, false); err != nil {
				t.Fatal(err)
			}
		}
		if got := names(t, u); got["both:1"] != imgB.ID() || got["same:1"] != imgAB.ID() || got["app:1"] != "" {
			t.Errorf("names %v", got)
		}
		now := layers(t, u, imgB)[0]
		if now.Key() == shared.Key() || !strings.HasPrefix(now.Key(), "b/") || file(t, now, "etc/f") != "the base\n" {
			t.Errorf("its key was %s and is %s", shared.Key(), now.Key())
		}
		if layers(t, u, imgAB)[0].Key() != now.Key() {
			t.Error("the image that is left in the second store does not share its layer")
		}
		// Who still has the old one reads on.
		if file(t, shared, "etc/f") != "the base\n" {
			t.Error("what is lost in one store is not read from the other")
		}
		u.(store.Forgetter).Forget(shared)
		if file(t, layers(t, u, imgB)[0], "etc/f") != "the base\n" {
			t.Error("forgot what is there")
		}
	}
}

// A layer stays where it is served from when a store that goes before gets it too.
func TestALayerStays(t *testing.T) {
	a, b := root(t), root(t, imgB)
	u := open(t, union.Options{Into: "a"}, part(t, "a", a, false), part(t, "b", b, false))
	held := layers(t, u, imgB)
	defer runtime.KeepAlive(held)
	was := held[0].Key()
	storetest.Fill(t, u.(store.Ingester), imgA)
	if is := layers(t, u, imgB)[0].Key(); is != was {
		t.Errorf("its key was %s and is %s", was, is)
	}
	if k := layers(t, u, imgA)[0].Key(); k != was {
		t.Errorf("the new image's base has the key %s, want %s", k, was)
	}
}

// An index that the first store cannot give comes from the next.
func TestABrokenLayer(t *testing.T) {
	a, b := root(t, imgA, imgAB), root(t, imgB, imgAB)
	for _, d := range []string{"imagefs/index", "overlay2"} {
		entries, err := filepath.Glob(filepath.Join(a, d, "*"))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if filepath.Base(e) != "l" {
				// A directory that is there and cannot be read as one: the records stay whole.
				must(t, os.RemoveAll(e))
				if d == "overlay2" {
					must(t, os.MkdirAll(e+"/diff", 0o755))
				}
			}
		}
	}
	u := open(t, union.Options{}, brokenIndex(part(t, "a", a, true)), part(t, "b", b, true))
	l := layers(t, u, imgB)[0]
	if file(t, l, "etc/f") != "the base\n" || !strings.HasPrefix(l.Key(), "b/") {
		t.Errorf("key %s", l.Key())
	}
	if k := layers(t, u, imgAB)[0].Key(); k != l.Key() {
		t.Errorf("another image takes it from %s", k)
	}
	if _, err := layers(t, u, imgA)[1].Index(ctx); !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("a layer that is in the broken store only: %v", err)
	}
}

// brokenIndex lets a store's layers have no index.
func brokenIndex(p store.Part) store.Part {
	p.Store = noIndex{p.Store}
	return p
}

type noIndex struct{ store.Store }

func (s noIndex) Image(ctx context.Context, id digest.Digest) (store.Image, error) {
	img, err := s.Store.Image(ctx, id)
	if err != nil {
		return nil, err
	}
	return noIndexImage{img}, nil
}

type noIndexImage struct{ store.Image }

func (i noIndexImage) Layers() (out []store.Layer) {
	for _, l := range i.Image.Layers() {
		out = append(out, noIndexLayer{l})
	}
	return out
}

type noIndexLayer struct{ store.Layer }

func (noIndexLayer) Index(context.Context) (overlay.Layer, error) { return nil, store.ErrCorrupt }

// A store that cannot be read hides nothing of the others, and is back when it can.
func TestAStoreFails(t *testing.T) {
	a, b := root(t, imgA), root(t, imgB)
	var log bytes.Buffer
	u := open(t, union.Options{Log: slog.New(slog.NewTextHandler(&log, nil))}, part(t, "a", a, false), part(t, "b", b, false))
	repos := filepath.Join(a, "image/overlay2/repositories.json")
	good, err := os.ReadFile(repos)
	must(t, err)
	must(t, os.WriteFile(repos, []byte("{"), 0o600))
	for range 3 {
		if got := names(t, u); got["app:2"] != imgB.ID() || got["app:1"] != "" {
			t.Errorf("names %v", got)
		}
	}
	if n := strings.Count(log.String(), "WARN"); n != 1 {
		t.Errorf("%d warnings: %s", n, log.String())
	}
	must(t, os.WriteFile(repos, good, 0o600))
	if got := names(t, u); got["app:1"] != imgA.ID() {
		t.Errorf("names %v", got)
	}
	must(t, os.WriteFile(repos, []byte("{"), 0o600))
	must(t, os.WriteFile(filepath.Join(b, "image/overlay2/repositories.json"), []byte("{"), 0o600))
	if _, err := u.Names(ctx); !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("all stores fail: %v", err)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantErr(t testing.TB, what string, err, class error, word string) {
	t.Helper()
	if !errors.Is(err, class) || !strings.Contains(err.Error(), word) {
		t.Errorf("%s: %v, want %v with %q", what, err, class, word)
	}
}

func TestChanges(t *testing.T) {
	a, b, c := root(t, imgA), root(t, imgB), root(t, imgAB)
	u := open(t, union.Options{}, part(t, "a", a, false), part(t, "b", b, false), readOnly(part(t, "c", c, false)))
	tag, rm := u.(store.Tagger), u.(store.Remover)
	// A name is made where the image is.
	must(t, tag.Tag(ctx, "new:b", imgB.ID()))
	if names(t, u)["new:b"] != imgB.ID() || names(t, u.(store.Parter).Parts()[1].Store)["new:b"] != imgB.ID() {
		t.Error("the name is elsewhere")
	}
	wantErr(t, "a name that is hidden", tag.Tag(ctx, "app:1", imgB.ID()), store.ErrExists, "the store a has the name app:1")
	wantErr(t, "a name in a store that is only read", tag.Tag(ctx, "x:1", imgAB.ID()), store.ErrUnsupported, "the store c (reader) at "+c+" cannot name images")
	wantErr(t, "a name of nothing", tag.Tag(ctx, "x:1", digest.FromString("")), store.ErrNotFound, "no such image")
	// The name that shows goes; then the one that it hid shows.
	must(t, tag.Untag(ctx, "both:1"))
	if names(t, u)["both:1"] != imgB.ID() {
		t.Error("the hidden name does not show")
	}
	wantErr(t, "untag in a store that is only read", tag.Untag(ctx, "same:1"), store.ErrUnsupported, "the store c")
	wantErr(t, "untag nothing", tag.Untag(ctx, "none:1"), store.ErrNotFound, "none:1")
	_, err := rm.Remove(ctx, "same:1", false)
	wantErr(t, "remove in a store that is only read", err, store.ErrUnsupported, "the store c")
	_, err = rm.Remove(ctx, imgAB.ID().Encoded()[:12], false)
	wantErr(t, "remove by ID in a store that is only read", err, store.ErrUnsupported, "the store c")
	gone, err := rm.Remove(ctx, imgB.ID().Encoded()[:12], true)
	must(t, err)
	if !slices.Contains(gone.Deleted, imgB.ID()) || names(t, u)["app:2"] != "" {
		t.Errorf("removed %v", gone)
	}
	_, err = u.(store.Ingester).Ingest(ctx)
	wantErr(t, "load where several could", err, store.ErrUnsupported, "a b")
}

// What a union says that it can is what its parts can.
func TestAbilities(t *testing.T) {
	a, b := root(t, imgA), root(t, imgB)
	for _, c := range []struct {
		what          string
		parts         []store.Part
		o             union.Options
		tags, ingests bool
	}{
		{"one of two", []store.Part{part(t, "a", a, false), part(t, "b", b, true)}, union.Options{}, true, true},
		{"none", []store.Part{part(t, "a", a, true), readOnly(part(t, "b", b, false))}, union.Options{}, false, false},
		{"both", []store.Part{part(t, "a", a, false), part(t, "b", b, false)}, union.Options{}, true, true},
		{"both, one named", []store.Part{part(t, "a", a, false), part(t, "b", b, false)}, union.Options{Into: "b"}, true, true},
		{"one that is made", []store.Part{part(t, "a", a, true)}, union.Options{Make: func() (store.Part, error) { return store.Part{}, store.ErrBusy }}, true, true},
	} {
		u := open(t, c.o, c.parts...)
		_, tags := u.(store.Tagger)
		_, removes := u.(store.Remover)
		_, ingests := u.(store.Ingester)
		if tags != c.tags || removes != c.tags || ingests != c.ingests {
			t.Errorf("%s: tags %v, removes %v, ingests %v", c.what, tags, removes, ingests)
		}
	}
	if err := store.Cannot(open(t, union.Options{}, part(t, "a", a, true), part(t, "b", b, true)), "fly"); !errors.Is(err, store.ErrUnsupported) || err.Error() != "cannot fly in any of the stores a, b: not supported by this kind of store" {
		t.Error(err)
	}
}

// A store that was found is not changed.
func TestFixed(t *testing.T) {
	a, b := root(t, imgA), root(t, imgB)
	u := open(t, union.Options{}, part(t, "a", a, false), part(t, "b", b, true))
	err := u.(store.Tagger).Tag(ctx, "x:1", imgB.ID())
	wantErr(t, "tag", err, store.ErrReadOnly, "the store b at "+b+" is only read; name it to change it")
	_, err = u.(store.Remover).Remove(ctx, "app:2", true)
	wantErr(t, "remove", err, store.ErrReadOnly, "the store b")
}

// The store that takes in images is made by the first load, goes before the
// others, and is watched like them.
func TestMake(t *testing.T) {
	b := root(t, imgB)
	made := 0
	u := open(t, union.Options{Into: "own", Make: func() (store.Part, error) {
		made++
		s, err := docker.Open(filepath.Join(t.TempDir(), "own"), docker.Options{Create: true})
		return store.Part{Name: "own", Kind: "docker", Store: s}, err
	}}, part(t, "b", b, true))
	watch, stop := context.WithCancel(ctx)
	defer stop()
	events, err := u.(store.Watcher).Watch(watch)
	must(t, err)
	wantEvent := func(what string) {
		t.Helper()
		select {
		case <-events:
		case <-time.After(30 * time.Second):
			t.Fatalf("no event: %s", what)
		}
	}
	in, err := u.(store.Ingester).Ingest(ctx)
	must(t, err)
	in.Abort()
	wantEvent("a store came")
	storetest.Fill(t, u.(store.Ingester), imgA)
	wantEvent("an image came")
	if got := names(t, u); made != 1 || got["both:1"] != imgA.ID() || got["app:2"] != imgB.ID() {
		t.Errorf("made %d times, names %v", made, got)
	}
	if p := u.(store.Parter).Parts(); len(p) != 2 || p[0].Name != "own" {
		t.Errorf("parts %v", p)
	}
	stop()
	for range events {
	}
	must(t, u.Close())
	if err := u.Close(); err != nil {
		t.Error("closed twice:", err)
	}
}

func TestCheck(t *testing.T) {
	a, b := root(t, imgA, imgAB), root(t, imgB)
	lose(t, b, imgB)
	u := open(t, union.Options{}, part(t, "a", a, false), part(t, "b", b, false), readOnly(part(t, "c", a, true)))
	var found []string
	must(t, u.(store.Checker).Check(ctx, true, func(p store.Problem) { found = append(found, p.What) }))
	if len(found) == 0 || slices.ContainsFunc(found, func(w string) bool { return !strings.HasPrefix(w, "b: ") }) {
		t.Errorf("found %q", found)
	}
	u = open(t, union.Options{}, readOnly(part(t, "c", a, true)))
	wantErr(t, "check", u.(store.Checker).Check(ctx, true, nil), store.ErrUnsupported, "in c")
}

func TestNamesOfParts(t *testing.T) {
	a := root(t)
	for _, bad := range [][]string{{""}, {".."}, {"a/b"}, {"a b"}, {"a\n"}, {strings.Repeat("n", 65)}, {"a", "a"}, {"-a"}, {}} {
		var parts []store.Part
		for _, n := range bad {
			parts = append(parts, part(t, n, a, true))
		}
		if _, err := union.New(parts, union.Options{}); !errors.Is(err, store.ErrInvalid) {
			t.Errorf("%q: %v", bad, err)
		}
		for _, p := range parts {
			p.Store.Close()
		}
	}
}

// aliased is a store whose engine has other IDs.
type aliased struct {
	store.Store
	aliases map[digest.Digest]digest.Digest
}

func (a aliased) Names(context.Context) (store.Names, error) {
	return store.Names{Aliases: a.aliases}, nil
}

// The aliases of all parts are found; where two have the same, the first's.
func TestAliasesOfParts(t *testing.T) {
	a, b, c := part(t, "a", root(t), true), part(t, "b", root(t), true), part(t, "c", root(t), true)
	d := func(s string) digest.Digest { return digest.FromString(s) }
	b.Store = aliased{b.Store, map[digest.Digest]digest.Digest{d("1"): d("one"), d("2"): d("two")}}
	c.Store = aliased{c.Store, map[digest.Digest]digest.Digest{d("2"): d("other"), d("3"): d("three")}}
	u := open(t, union.Options{}, a, b, c)
	n, err := u.Names(ctx)
	want := map[digest.Digest]digest.Digest{d("1"): d("one"), d("2"): d("two"), d("3"): d("three")}
	if err != nil || !maps.Equal(n.Aliases, want) {
		t.Errorf("%v, %v, want %v", n.Aliases, err, want)
	}
}
