package fusefs_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"imagefs/fusefs"
)

// renameat is renameat2(2) in a directory.
func renameat(dir, from, to string, flags uint) error {
	return unix.Renameat2(unix.AT_FDCWD, filepath.Join(dir, from), unix.AT_FDCWD, filepath.Join(dir, to), flags)
}

func TestRenameFlags(t *testing.T) { bothTransports(t, testRenameFlags) }

func testRenameFlags(t *testing.T, o fusefs.Options) {
	s := newStore(t)
	a := load(t, s, "a", []string{"a:1"}, layerTar(t, "f=a"))
	b := load(t, s, "b", []string{"deep/er:2"}, layerTar(t, "f=b"))
	labels := map[digest.Digest]string{a: "a", b: "b"}
	dir := mount(t, s, o)
	for _, c := range []struct {
		from, to string
		flags    uint
		want     error
		names    string
	}{
		{"images/a/1", "images/deep/er/2", unix.RENAME_NOREPLACE, unix.EEXIST, "a:1=a deep/er:2=b"},
		{"images/a/1", "images/deep/er/2", unix.RENAME_EXCHANGE, nil, "a:1=b deep/er:2=a"},
		{"images/a/1", "images/deep/er/3", unix.RENAME_EXCHANGE, unix.ENOENT, "a:1=b deep/er:2=a"},
		{"images/a/1", "images/deep/er/3", unix.RENAME_WHITEOUT, unix.EINVAL, "a:1=b deep/er:2=a"},
		{"images/a/1", "images/deep/er", unix.RENAME_EXCHANGE, unix.EISDIR, "a:1=b deep/er:2=a"},
		{"images/a/1", "images/a/:1", 0, nil, "a:1=b deep/er:2=a"},
		{"images/a/1", "images/a:1", 0, nil, "a:1=b deep/er:2=a"},
		{"images/deep/er:2", "images/deep/er/2", unix.RENAME_EXCHANGE, nil, "a:1=b deep/er:2=a"},
		{"images/a/1", "images/deep:x", unix.RENAME_NOREPLACE, nil, "deep/er:2=a deep:x=b"},
		{"images/deep:x", "images/a/1", 0, nil, "a:1=b deep/er:2=a"},
		{"images/deep/er/2", "images/a/1", 0, nil, "a:1=a"},
	} {
		wantErr(t, c.from+" to "+c.to, renameat(dir, c.from, c.to, c.flags), c.want)
		if got := namesOf(t, s, labels); got != c.names {
			t.Errorf("%s to %s: the names are %s, want %s", c.from, c.to, got, c.names)
		}
		if c.want == nil {
			text(t, dir, c.to, "id")
		}
		if got := shownOf(t, dir+"/images", labels); got != c.names {
			t.Errorf("%s to %s: what shows is %s, want %s", c.from, c.to, got, c.names)
		}
	}
}

// A link that moves to another depth leads to its image from the first moment on.
func TestRenamedLinkLeads(t *testing.T) { bothTransports(t, testRenamedLinkLeads) }

func testRenamedLinkLeads(t *testing.T, o fusefs.Options) {
	s := newStore(t)
	load(t, s, "", []string{"a:1"}, layerTar(t, "f=a"))
	dir := mount(t, s, o)
	if err := os.MkdirAll(filepath.Join(dir, "images/d/e/e/p"), 0o755); err != nil {
		t.Fatal(err)
	}
	names := []string{"images/a/1", "images/d/e/e/p/1", "images/d/1"}
	for n := range 60 {
		from, to := names[n%3], names[(n+1)%3]
		before := stat(t, dir, from).Ino
		if err := renameat(dir, from, to, 0); err != nil {
			t.Fatal(err)
		}
		if got := text(t, dir, to, "rootfs/f"); got != "a" {
			t.Fatalf("%s reads %q", to, got)
		}
		if st := stat(t, dir, to); st.Ino != before || int(st.Size) != len(link(t, dir, to)) {
			t.Fatalf("%s is inode %d of %d bytes, was %d", to, st.Ino, st.Size, before)
		}
		if _, err := os.Lstat(filepath.Join(dir, from)); !errors.Is(err, unix.ENOENT) {
			t.Fatalf("%s is still there: %v", from, err)
		}
	}
}

// Two names of one image at different depths change places.
func TestExchangeNamesOfOneImage(t *testing.T) { bothTransports(t, testExchangeOne) }

func testExchangeOne(t *testing.T, o fusefs.Options) {
	s := newStore(t)
	load(t, s, "", []string{"a:1", "d/e/e/p:2"}, layerTar(t, "f=a"))
	dir := mount(t, s, o)
	one, two := "images/a/1", "images/d/e/e/p/2"
	for range 4 {
		if text(t, dir, one, "rootfs/f") != "a" || text(t, dir, two, "rootfs/f") != "a" {
			t.Fatal("a name does not lead to its image")
		}
		if err := renameat(dir, one, two, unix.RENAME_EXCHANGE); err != nil {
			t.Fatal(err)
		}
	}
}

func link(t testing.TB, path ...string) string {
	t.Helper()
	to, err := os.Readlink(filepath.Join(path...))
	if err != nil {
		t.Error(err)
	}
	return to
}

// While a name is moved from image to image, nobody finds it missing.
func TestRetagIsAtomic(t *testing.T) { bothTransports(t, testRetagIsAtomic) }

func testRetagIsAtomic(t *testing.T, o fusefs.Options) {
	s := newStore(t)
	a := load(t, s, "a", []string{"app:live", "app:a"}, layerTar(t, "f=a"))
	b := load(t, s, "b", []string{"app:b"}, layerTar(t, "f=b"))
	dir := mount(t, s, o)
	var end atomic.Bool
	var wg sync.WaitGroup
	var seen [2]atomic.Int64
	for range 3 {
		wg.Go(func() {
			for !end.Load() {
				id, err := os.ReadFile(filepath.Join(dir, "images/app/live/id"))
				switch strings.TrimSpace(string(id)) {
				case a.String():
					seen[0].Add(1)
				case b.String():
					seen[1].Add(1)
				default:
					t.Errorf("the name leads to %q, %v", id, err)
					return
				}
				names, err := os.ReadDir(filepath.Join(dir, "images/app"))
				if err != nil || !slices.ContainsFunc(names, func(e os.DirEntry) bool { return e.Name() == "live" }) {
					t.Errorf("the listing %v lacks it: %v", names, err)
					return
				}
			}
		})
	}
	for n := range 40 {
		if got := shell(t, dir, "ln -sfn "+[]string{"b", "a"}[n%2]+" images/app/live"); got != "" {
			t.Error(got)
		}
		if want := []digest.Digest{b, a}[n%2]; filepath.Base(link(t, dir, "images/app/live")) != want.Encoded() {
			t.Errorf("after the change it leads to %s", link(t, dir, "images/app/live"))
		}
	}
	end.Store(true)
	wg.Wait()
	if got := list(t, dir, "images/app"); got != "a b live" {
		t.Errorf("left: %s", got)
	}
	t.Logf("seen %d and %d times", seen[0].Load(), seen[1].Load())
}

// Nothing that removes trees removes an image: of those that remove what is in a
// directory and then the directory, some do that although the first failed.
func TestRemovingTreesDoesNoHarm(t *testing.T) { bothTransports(t, testRemovingTrees) }

func testRemovingTrees(t *testing.T, o fusefs.Options) {
	s := newStore(t)
	id := load(t, s, "a", nil, layerTar(t, "f=a", "d/", "d/g=b"))
	dir := mount(t, s, o)
	for _, command := range []string{"rm -rf ids/ID", "rm -rf ids", "find ids/ID -delete", "find ids -mindepth 1 -delete", "find ids -type d -delete", "mv ids/ID ..; chmod -R u+rwX ../ID; rm -rf ../ID", "busybox rm -rf ids/ID", "python3 -c 'import shutil; shutil.rmtree(\"ids\", True)'", "rm -rf ."} {
		shell(t, dir, strings.ReplaceAll(command, "ID", id.Encoded())+" 2>/dev/null")
		if got := text(t, dir, "ids", id.Encoded(), "rootfs/f"); got != "a" {
			t.Fatalf("after %s the file is %q", command, got)
		}
	}
	for _, path := range []string{filepath.Join(dir, "ids", id.Encoded()), filepath.Join(dir, "ids"), dir} {
		if err := os.RemoveAll(path); err == nil {
			t.Errorf("%s can be removed", path)
		}
	}
	if ids, err := s.IDs(ctx); err != nil || len(ids) != 1 {
		t.Errorf("images left: %q, %v", ids, err)
	}
	if got := text(t, dir, "ctl/last"); !strings.Contains(got, "rmdir alone removes the image") {
		t.Errorf("last: %s", got)
	}
}

// Many at once get one answer each, and none waits for another's notices.
func TestFileOperationsAtOnce(t *testing.T) { bothTransports(t, testAtOnce) }

func testAtOnce(t *testing.T, o fusefs.Options) {
	s := newStore(t)
	load(t, s, "a", []string{"a:1"}, layerTar(t, "f=a"))
	dir := mount(t, s, o)
	var wg sync.WaitGroup
	var made atomic.Int64
	at := func(format string, args ...any) string {
		return filepath.Join(dir, "images", fmt.Sprintf(format, args...))
	}
	must := func(err error) {
		if err != nil {
			t.Error(err)
		}
	}
	for w := range 4 {
		wg.Go(func() {
			for n := range 8 {
				must(os.Mkdir(at("w%d", w), 0o755))
				must(os.Symlink("a:1", at("w%d/%d", w, n)))
				must(os.Rename(at("w%d/%d", w, n), at("a/w%d", w)))
				must(os.Rename(at("a/w%d", w), at("w%d/x", w)))
				// One of all has it.
				if os.Symlink("a:1", at("a/race%d", n)) == nil {
					made.Add(1)
				}
				must(os.Remove(at("w%d:x", w)))
				must(os.Remove(at("w%d", w)))
				if _, err := os.ReadDir(at("")); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if made.Load() != 8 {
		t.Errorf("8 names were made %d times", made.Load())
	}
	if got := list(t, dir, "images"); got != "a/" {
		t.Errorf("images lists %q", got)
	}
	if got := list(t, dir, "images/a"); got != "1 race0 race1 race2 race3 race4 race5 race6 race7" {
		t.Errorf("images/a lists %q", got)
	}
}
