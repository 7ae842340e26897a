package fusefs_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"imagefs/fusefs"
	"imagefs/store"
	"imagefs/store/archive"
	"imagefs/store/docker"
	"imagefs/store/union"
)

// twoStores are two data roots with a layer in common, as one store.
type twoStores struct {
	a, b       *docker.Store
	ida, idb   digest.Digest
	shared     digest.Digest // an image that both have
	all        store.Store
	dirA, dirB string
}

func newTwoStores(t *testing.T) twoStores {
	t.Helper()
	s := twoStores{dirA: filepath.Join(t.TempDir(), "a"), dirB: filepath.Join(t.TempDir(), "b")}
	s.a, s.b = openStore(t, s.dirA), openStore(t, s.dirB)
	base := layerTar(t, "etc/", "etc/f=the base", "etc/g=another", "big="+strings.Repeat("0123456789", 50_000))
	s.ida = load(t, s.a, "a", []string{"app:1", "both:x", "team/app:a"}, base, layerTar(t, "etc/v=1"))
	s.idb = load(t, s.b, "b", []string{"app:2", "both:x"}, base, layerTar(t, "etc/v=2"))
	s.shared = load(t, s.a, "shared", []string{"same:1"}, base)
	load(t, s.b, "shared", []string{"same:1"}, base)
	all, err := union.New([]store.Part{
		{Name: "first", Kind: "docker", Path: s.dirA, Store: s.a},
		{Name: "second", Kind: "docker", Path: s.dirB, Store: s.b},
	}, union.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s.all = all
	return s
}

func TestStores(t *testing.T) { bothModes(t, testStores) }

func testStores(t *testing.T, o fusefs.Options) {
	s := newTwoStores(t)
	dir := mount(t, s.all, o)
	for path, want := range map[string]string{
		"images":                       "app/ both/ same/ team/",
		"images/app":                   "1 2",
		"stores":                       "first/ second/",
		"stores/first":                 "diff/ images/ kind path",
		"stores/first/images":          "app/ both/ same/ team/",
		"stores/first/images/app":      "1",
		"stores/first/images/team/app": "a",
		"stores/second/images":         "app/ both/ same/",
		"stores/second/images/app":     "2",
		"images/both/x/rootfs/etc":     "f g v",
	} {
		if got := list(t, dir, path); got != want {
			t.Errorf("%s lists %q, want %q", path, got, want)
		}
	}
	for path, want := range map[string]string{
		"images/both/x/id":                         s.ida.String() + "\n",
		"stores/first/images/both/x/id":            s.ida.String() + "\n",
		"stores/second/images/both/x/id":           s.idb.String() + "\n",
		"stores/second/images/both/:x/id":          s.idb.String() + "\n",
		"stores/second/images/both:x/id":           s.idb.String() + "\n",
		"stores/first/images/team/app/a/id":        s.ida.String() + "\n",
		"stores/second/kind":                       "docker\n",
		"stores/second/path":                       s.dirB + "\n",
		"ids/" + s.idb.Encoded()[:12] + "/tags":    "app:2\n",
		"stores/second/images/app/2/rootfs/etc/v":  "2",
		"stores/second/images/same/1/rootfs/etc/f": "the base",
	} {
		if got := text(t, dir, path); got != want {
			t.Errorf("%s is %q, want %q", path, got, want)
		}
	}
	for _, path := range []string{"stores/third", "stores/first/images/app/2", "stores/first/error", "stores/first/nothing", "stores/first/kind/x", "stores/first/images/none"} {
		if _, err := os.Lstat(filepath.Join(dir, path)); err == nil {
			t.Errorf("%s is there", path)
		}
	}
	// What comes from the same layer is the same inode, whichever store has it.
	for _, f := range []string{"etc/f", "etc/g", "big"} {
		x, y, z := stat(t, dir, "images/app/1/rootfs", f), stat(t, dir, "images/app/2/rootfs", f), stat(t, dir, "stores/second/images/same/1/rootfs", f)
		if x != y || x != z || x.Ino == 0 {
			t.Errorf("%s has the inodes %d, %d and %d", f, x.Ino, y.Ino, z.Ino)
		}
	}
	if stat(t, dir, "images/app/1/rootfs/etc/v").Ino == stat(t, dir, "images/app/2/rootfs/etc/v").Ino {
		t.Error("what differs is one inode")
	}
}

// An image that one store loses is read from the other: what is open stays
// readable, what is looked up anew is new.
func TestAStoreLosesWhatAnotherHas(t *testing.T) { bothModes(t, testAStoreLoses) }

func testAStoreLoses(t *testing.T, o fusefs.Options) {
	s := newTwoStores(t)
	dir := mount(t, s.all, o)
	was := stat(t, dir, "images/app/2/rootfs/etc/f")
	open, err := os.Open(filepath.Join(dir, "images/app/2/rootfs/big"))
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	list(t, dir, "stores/first/images/same")
	for _, ref := range []string{"app:1", "both:x", "team/app:a", "same:1"} {
		if _, err := s.a.Remove(ctx, ref, false); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the name of the other store shows", func() bool {
		b, err := os.ReadFile(filepath.Join(dir, "images/both/x/id"))
		return err == nil && string(b) == s.idb.String()+"\n"
	})
	eventually(t, "the layer is the other store's", func() bool {
		var st unix.Stat_t
		return unix.Lstat(filepath.Join(dir, "images/app/2/rootfs/etc/f"), &st) == nil && st.Ino != was.Ino
	})
	if got := text(t, dir, "images/app/2/rootfs/etc/f"); got != "the base" {
		t.Errorf("read %q", got)
	}
	if x, y := stat(t, dir, "images/app/2/rootfs/etc/f"), stat(t, dir, "images/same/1/rootfs/etc/f"); x.Ino != y.Ino {
		t.Errorf("two images of one store have the inodes %d and %d", x.Ino, y.Ino)
	}
	b := make([]byte, 500_000)
	if n, err := open.ReadAt(b, 0); err != nil || string(b[n-10:n]) != "0123456789" {
		t.Errorf("what was open gives %d bytes, %v", n, err)
	}
	eventually(t, "the first store is seen to be empty", func() bool {
		entries, err := os.ReadDir(filepath.Join(dir, "stores/first/images"))
		return err == nil && len(entries) == 0
	})
	for _, path := range []string{"stores/first/images/app", "images/app/1", "images/team"} {
		if _, err := os.Lstat(filepath.Join(dir, path)); !os.IsNotExist(err) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// A store that breaks under the mount says so, and hides nothing of the other.
func TestAStoreBreaks(t *testing.T) { bothModes(t, testAStoreBreaks) }

func testAStoreBreaks(t *testing.T, o fusefs.Options) {
	s := newTwoStores(t)
	dir := mount(t, s.all, o)
	if got := list(t, dir, "stores/second"); got != "diff/ images/ kind path" {
		t.Errorf("lists %q", got)
	}
	repos := filepath.Join(s.dirB, "image/overlay2/repositories.json")
	good, err := os.ReadFile(repos)
	if err != nil {
		t.Fatal(err)
	}
	replace := func(content []byte) {
		t.Helper()
		if err := os.WriteFile(repos+".new", content, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(repos+".new", repos); err != nil {
			t.Fatal(err)
		}
	}
	replace([]byte("{"))
	eventually(t, "the store says that it is broken", func() bool {
		b, err := os.ReadFile(filepath.Join(dir, "stores/second/error"))
		return err == nil && strings.Contains(string(b), "repositories.json") && strings.Contains(string(b), "corrupt")
	})
	// Who looks up sees it a moment before the kernel is told to forget the listing that it has.
	eventually(t, "error is listed", func() bool { return list(t, dir, "stores/second") == "diff/ error images/ kind path" })
	if got := text(t, dir, "images/app/1/rootfs/etc/v"); got != "1" {
		t.Errorf("the other store shows %q", got)
	}
	replace(good)
	eventually(t, "the store is whole again", func() bool {
		_, err := os.Lstat(filepath.Join(dir, "stores/second/error"))
		b, e := os.ReadFile(filepath.Join(dir, "images/app/2/rootfs/etc/v"))
		return os.IsNotExist(err) && e == nil && string(b) == "2"
	})
	// Taken away as a whole, under the mount.
	if err := os.RemoveAll(s.dirB); err != nil {
		t.Fatal(err)
	}
	eventually(t, "its images are gone", func() bool {
		_, err := os.Lstat(filepath.Join(dir, "images/app/2"))
		return os.IsNotExist(err)
	})
	for path, want := range map[string]string{"images/app/1/rootfs/etc/v": "1", "images/same/1/rootfs/etc/f": "the base", "images/both/x/rootfs/etc/v": "1"} {
		if got := text(t, dir, path); got != want {
			t.Errorf("%s is %q, want %q", path, got, want)
		}
	}
}

// A retag in either store shows in stores/ as it does in images/, at once in
// listings that the kernel keeps too.
func TestRetagInAStore(t *testing.T) { bothModes(t, testRetagInAStore) }

func testRetagInAStore(t *testing.T, o fusefs.Options) {
	s := newTwoStores(t)
	dir := mount(t, s.all, o)
	if got := list(t, dir, "stores/second/images/app") + list(t, dir, "stores/second/images"); got != "2app/ both/ same/" {
		t.Errorf("lists %q", got)
	}
	if err := s.b.Tag(ctx, "app:new", s.idb); err != nil {
		t.Fatal(err)
	}
	if err := s.b.Tag(ctx, "app:2", s.shared); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the new tag is listed", func() bool { return list(t, dir, "stores/second/images/app") == "2 new" })
	eventually(t, "the tag leads elsewhere", func() bool {
		a, b := text(t, dir, "stores/second/images/app/2/id"), text(t, dir, "images/app/2/id")
		return a == s.shared.String()+"\n" && a == b
	})
	if err := s.b.Untag(ctx, "app:new"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the tag is gone", func() bool {
		_, err := os.Lstat(filepath.Join(dir, "stores/second/images/app/new"))
		return os.IsNotExist(err) && list(t, dir, "stores/second/images/app") == "2"
	})
}

// A store that cannot be written says so by name; a load into a store that is
// not there makes it, and it shows.
func TestControlOfStores(t *testing.T) {
	s := newTwoStores(t)
	own := filepath.Join(t.TempDir(), "own")
	all, err := union.New([]store.Part{
		{Name: "found", Kind: "docker", Path: s.dirA, Store: s.a, Fixed: "name it to change it"},
		{Name: "reader", Kind: "odd", Path: s.dirB, Store: struct{ store.Store }{s.b}},
	}, union.Options{Into: "own", Make: func() (store.Part, error) {
		st, err := docker.Open(own, docker.Options{Create: true})
		return store.Part{Name: "own", Kind: "docker", Path: own, Store: st}, err
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { all.Close() })
	dir := mount(t, all, fusefs.Options{Loader: archive.NewLoader(all.(store.Ingester), archive.Options{})})
	write := func(file, cmd string) error {
		return os.WriteFile(filepath.Join(dir, "ctl", file), []byte(cmd+"\n"), 0)
	}
	wantErr(t, "tag in the store that is only read", write("tag", "app:1 new:1"), unix.EROFS)
	if got := text(t, dir, "ctl/last"); !strings.Contains(got, "the store found at "+s.dirA+" is only read; name it to change it") {
		t.Errorf("last is %s", got)
	}
	wantErr(t, "tag in the store that cannot", write("tag", "app:2 new:1"), unix.EOPNOTSUPP)
	wantErr(t, "rmi in the store that cannot", write("rmi", "app:2"), unix.EOPNOTSUPP)
	if got := text(t, dir, "ctl/last"); !strings.Contains(got, "the store reader (odd) at "+s.dirB+" cannot remove images") {
		t.Errorf("last is %s", got)
	}
	if got := list(t, dir, "stores"); got != "found/ reader/" {
		t.Errorf("lists %q", got)
	}
	if err := write("load", savedImage(t, dir, "images/app/2/image.tar")); err != nil {
		t.Fatal(err)
	}
	if got := list(t, dir, "stores"); got != "found/ own/ reader/" {
		t.Errorf("lists %q", got)
	}
	if got := text(t, dir, "stores/own/images/app/2/id"); got != s.idb.String()+"\n" {
		t.Errorf("loaded %q", got)
	}
	if err := write("tag", "app:2 new:1"); err != nil {
		t.Error("the store that was made has it now:", err)
	}
}

// savedImage copies an archive out of the mount and returns its path.
func savedImage(t *testing.T, dir, path string) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), "image.tar")
	if err := os.WriteFile(p, []byte(text(t, dir, path)), 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}
