package layer

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"imagefs/store"
)

// TestNear: files of a directory that is kept open are the same as any others, and
// what is no regular file of that size is refused as there.
func TestNear(t *testing.T) {
	root := t.TempDir()
	write := func(path, content string) {
		t.Helper()
		p := filepath.Join(root, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, []byte(content), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	write("top", "T")
	write("a/b/one", "1")
	write("a/b/two", "22")
	write("a/c/one", "333")
	write("a/b/gone", "x")
	if err := errors.Join(
		os.Symlink("one", filepath.Join(root, "a/b/link")),
		os.Symlink("b", filepath.Join(root, "a/d")),
		unix.Mkfifo(filepath.Join(root, "a/b/fifo"), 0o600),
	); err != nil {
		t.Fatal(err)
	}
	dir, err := os.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	var n Near
	read := func(path string, size int) (string, error) {
		b := make([]byte, size)
		err := n.readFile(dir, path, b)
		f, again := n.openFile(dir, path, int64(size))
		if again == nil {
			f.Close()
		}
		if (err == nil) != (again == nil) {
			t.Errorf("%s: read %v, opened %v", path, err, again)
		}
		return string(b), err
	}
	good := func(path, want string) {
		t.Helper()
		if got, err := read(path, len(want)); got != want || err != nil {
			t.Errorf("%s: %q, %v", path, got, err)
		}
	}
	for range 2 {
		good("a/b/one", "1")
		good("a/b/two", "22")
		good("a/c/one", "333")
		good("top", "T")
	}
	good("a/b/one", "1")
	good("a/b/two", "22")
	if n.kept != "a/b" {
		t.Fatalf("open is %q", n.kept)
	}
	if n.Trim(); n.kept != "" || keptOpen.Load() != 0 {
		t.Errorf("after Trim %q is open, and %d in all", n.kept, keptOpen.Load())
	}
	good("a/b/one", "1")
	good("a/b/two", "22")
	if err := os.Remove(filepath.Join(root, "a/b/gone")); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]error{
		"a/b/gone": store.ErrGone, "a/b/one/x": store.ErrGone, "a/b/link": store.ErrCorrupt, "a/b/fifo": store.ErrCorrupt,
		"a/b/..": store.ErrCorrupt, "a/b/.": store.ErrCorrupt, "a/d/one": store.ErrCorrupt, "../x": store.ErrCorrupt,
	} {
		for range 3 { // from afar, and near
			if _, err := read(path, 1); !errors.Is(err, want) {
				t.Errorf("%s: %v, want %v", path, err, want)
			}
		}
		good("a/b/one", "1")
		good("a/b/two", "22")
	}
	if _, err := read("a/b/two", 1); !errors.Is(err, store.ErrCorrupt) || !strings.Contains(err.Error(), "2 bytes") {
		t.Errorf("of another size: %v", err)
	}
	n.Close()
	good("a/b/one", "1")
	if n.at == nil {
		good("a/b/one", "1")
	}
	n.Close()
	if k := keptOpen.Load(); k != 0 {
		t.Errorf("%d directories are open", k)
	}
	keptOpen.Store(mostKept)
	for range 3 {
		good("a/b/one", "1")
	}
	if n.at != nil {
		t.Error("one more than there may be is kept open")
	}
	keptOpen.Store(0)
	dir.Close()
	if _, err := read("a/b/one", 1); !errors.Is(err, store.ErrGone) {
		t.Errorf("closed: %v", err)
	}
}
