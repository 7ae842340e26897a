package docker

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"imagefs/overlay"
	"imagefs/store"
)

// twoImages loads two images that share no layer and returns them, each with the chain ID of its one layer.
func twoImages(t *testing.T, s *Store) (a, b, chainA, chainB digest.Digest) {
	t.Helper()
	ta, tb := layerTar(t, "etc/=", "etc/a=a"), layerTar(t, "etc/=", "etc/b=b")
	a, b = load(t, s, "a", []string{"a:1"}, ta), load(t, s, "b", []string{"b:1"}, tb)
	return a, b, digest.FromBytes(ta), digest.FromBytes(tb)
}

func put(t *testing.T, s *Store, p, text string) {
	t.Helper()
	p = filepath.Join(s.path, p)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func get(t *testing.T, s *Store, p string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(s.path, p))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// readable checks that an image is whole and that all its files can be read.
func readable(t *testing.T, s *Store, id digest.Digest) {
	t.Helper()
	img, err := s.Image(ctx, id)
	if err != nil || img.Err() != nil {
		t.Fatal(err, img.Err())
	}
	for _, l := range img.Layers() {
		ix, err := l.Index(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for i := range overlay.Ino(ix.Inodes()) {
			if ix.Stat(i).Mode&unix.S_IFMT != unix.S_IFREG {
				continue
			}
			if w, ok := ix.(interface{ Whiteout(overlay.Ino) bool }); ok && w.Whiteout(i) {
				continue
			}
			f, err := l.Open(ctx, i)
			if err != nil {
				t.Fatal(err)
			}
			f.Close()
		}
		f, err := l.Tar(ctx)
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
}

// problems returns what check says, a line each.
func problems(t *testing.T, s *Store) (out []string) {
	t.Helper()
	if err := s.Check(ctx, true, func(p store.Problem) { out = append(out, p.What+": "+p.Err.Error()) }); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestSharedDirectoryStays(t *testing.T) {
	s := openNew(t)
	a, b, chainA, chainB := twoImages(t, s)
	cache := get(t, s, overlay2.layers+"/"+chainA.Encoded()+"/cache-id")
	put(t, s, overlay2.layers+"/"+chainB.Encoded()+"/cache-id", cache)
	if _, err := s.Remove(ctx, string(b), false); err != nil {
		t.Fatal(err)
	}
	readable(t, s, a)
	if s.root.Exists(overlay2.layers + "/" + chainB.Encoded()) {
		t.Error("the removed layer's record stays")
	}
	if _, err := s.Remove(ctx, string(a), false); err != nil || s.root.Exists(overlay2.home+"/"+cache) {
		t.Error("the last user's directory stays", err)
	}
}

// A layer that gives a container's directory as its own.
func TestContainersDirectoryStays(t *testing.T) {
	for _, file := range []string{"mount-id", "init-id"} {
		s := openNew(t)
		_, b, _, chainB := twoImages(t, s)
		put(t, s, overlay2.home+"/mine/diff/data", "precious")
		put(t, s, overlay2.mounts+"/c1/"+file, "mine")
		put(t, s, overlay2.layers+"/"+chainB.Encoded()+"/cache-id", "mine")
		if _, err := s.Remove(ctx, string(b), false); err != nil {
			t.Fatal(err)
		}
		if got := get(t, s, overlay2.home+"/mine/diff/data"); got != "precious" {
			t.Error(got)
		}
	}
}

// A valid record may be a stranger's, too: layers of other images stay.
func TestRecordOfOthersLayers(t *testing.T) {
	for _, op := range []string{opRemove, opUnload} {
		s := openNew(t)
		a, b, chainA, chainB := twoImages(t, s)
		cache := get(t, s, overlay2.layers+"/"+chainA.Encoded()+"/cache-id")
		put(t, s, journalDir+"/1.json", fmt.Sprintf(`{"op":%q,"layers":[{"chain":%q,"cache":%q},{"chain":%q,"cache":%q}]}`, op, chainA, cache, chainB, cache))
		again, err := Open(s.path, Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer again.Close()
		readable(t, again, a)
		readable(t, again, b)
		clean(t, again)
	}
}

// plants are what may lie where a file or directory should: each returns how to make it.
func plants(t *testing.T) map[string]func(path string) error {
	out := t.TempDir()
	if err := os.WriteFile(filepath.Join(out, "secret"), []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := map[string]func(string) error{
		"link to a file":      func(p string) error { return os.Symlink(filepath.Join(out, "secret"), p) },
		"link to a directory": func(p string) error { return os.Symlink(out, p) },
		"link to itself":      func(p string) error { return os.Symlink(filepath.Base(p), p) },
		"link to nothing":     func(p string) error { return os.Symlink("/nowhere", p) },
		"fifo":                func(p string) error { return unix.Mkfifo(p, 0o644) },
		"socket":              func(p string) error { return unix.Mknod(p, unix.S_IFSOCK|0o644, 0) },
		"garbage":             func(p string) error { return os.WriteFile(p, []byte("\x00garbage"), 0o644) },
		"nothing in it":       func(p string) error { return os.WriteFile(p, nil, 0o644) },
		"directory":           func(p string) error { return os.Mkdir(p, 0o755) },
	}
	if os.Geteuid() == 0 {
		// A device that hangs or has no driver would show if it was opened.
		p["device"] = func(p string) error { return unix.Mknod(p, unix.S_IFCHR|0o644, int(unix.Mkdev(10, 130))) }
		p["block device"] = func(p string) error { return unix.Mknod(p, unix.S_IFBLK|0o644, int(unix.Mkdev(240, 7))) }
	}
	t.Cleanup(func() {
		left, err := os.ReadDir(out)
		b, rerr := os.ReadFile(filepath.Join(out, "secret"))
		if err != nil || len(left) != 1 || rerr != nil || string(b) != "secret" {
			t.Errorf("outside the store: %v %q %v %v", left, b, err, rerr)
		}
	})
	return p
}

// TestDamagedJournal puts into the journal what no imagefs wrote there. The
// store opens, is written, keeps its images, and says what it has set aside.
func TestDamagedJournal(t *testing.T) {
	records := plants(t)
	for name, text := range map[string]string{"cut": `{"op":"rem`, "other operation": `{"op":"format"}`, "name": `{"op":"remove","layers":[{"chain":"../..","cache":"x"}]}`} {
		records[name] = func(p string) error { return os.WriteFile(p, []byte(text), 0o600) }
	}
	for name, plant := range records {
		t.Run(name, func(t *testing.T) {
			s := openNew(t)
			a, _, _, _ := twoImages(t, s)
			if err := plant(filepath.Join(s.path, journalDir, "1.json")); err != nil {
				t.Fatal(err)
			}
			again, err := Open(s.path, Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer again.Close()
			readable(t, again, a)
			if err := again.Tag(ctx, "c:1", a); err != nil {
				t.Error(err)
			}
			if names, err := again.Names(ctx); err != nil || names.Tags["c:1"] != a || len(names.Tags) != 3 {
				t.Error(names, err)
			}
			if got := problems(t, again); len(got) != 1 || !strings.Contains(got[0], "1.json.damaged") {
				t.Errorf("check: %q", got)
			}
		})
	}
}

// A whole record that cannot be carried out is in the way of writes only.
func TestRecordThatCannotBeDone(t *testing.T) {
	s := openNew(t)
	a, _, _, _ := twoImages(t, s)
	put(t, s, overlay2.repos, "{")
	put(t, s, journalDir+"/1.json", fmt.Sprintf(`{"op":"remove","untag":{"b:1":%q}}`, a))
	again, err := Open(s.path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	readable(t, again, a)
	if err := again.Tag(ctx, "c:1", a); !errors.Is(err, store.ErrCorrupt) || !strings.Contains(err.Error(), "1.json") {
		t.Error(err)
	}
}

func TestManyStages(t *testing.T) {
	s := openNew(t)
	if err := s.Tag(ctx, "none:1", digest.FromString("none")); !errors.Is(err, store.ErrNotFound) {
		t.Fatal(err) // and now there is a lock file
	}
	if err := skeleton(s.root); err != nil {
		t.Fatal(err)
	}
	for n := range 300 {
		put(t, s, fmt.Sprintf("%s/%016x/lock", stageDir, n), "")
	}
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	var was unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	few := was
	few.Cur = uint64(len(open)) + 40
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &few); err != nil {
		t.Fatal(err)
	}
	again, err := Open(s.path, Options{})
	if rerr := unix.Setrlimit(unix.RLIMIT_NOFILE, &was); err != nil || rerr != nil {
		t.Fatal(err, rerr)
	}
	defer again.Close()
	isEmpty(t, again)
}

// The layers of an image whose config is lost belong to no image once it is removed.
func TestRemoveBrokenImage(t *testing.T) {
	s := openNew(t)
	a, b, _, _ := twoImages(t, s)
	deep := load(t, s, "deep", []string{"deep:1"}, layerTar(t, "x=1"), layerTar(t, "x=2"), layerTar(t, "x=3"))
	put(t, s, overlay2.content+"/"+deep.Encoded(), "broken")
	put(t, s, overlay2.content+"/"+b.Encoded(), "broken too")
	r, err := s.Remove(ctx, string(deep), false)
	if err != nil || len(r.Deleted) != 1 {
		t.Errorf("another broken image may have the layers: %v %v", r.Deleted, err)
	}
	if got := strings.Join(problems(t, s), "\n"); strings.Count(got, "belongs to no image") != 4 {
		t.Errorf("check:\n%s", got)
	}
	if r, err = s.Remove(ctx, "b:1", false); err != nil || len(r.Deleted) != 5 {
		t.Errorf("%v %v", r.Deleted, err)
	}
	readable(t, s, a)
	clean(t, s)
	// An engine keeps layers without an image: they are its business.
	put(t, s, overlay2.content+"/"+a.Encoded(), "broken as well")
	put(t, s, "containers/x", "")
	if r, err = s.Remove(ctx, "a:1", false); err != nil || len(r.Deleted) != 1 {
		t.Errorf("%v %v", r.Deleted, err)
	}
}
