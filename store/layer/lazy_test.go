package layer

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"imagefs/overlay"
)

// dump lists everything that a layer shows, a line a path.
func dump(t *testing.T, l overlay.Layer, nlinkOfDirs bool) []string {
	t.Helper()
	var out []string
	var walk func(path string, i overlay.Ino)
	first := map[overlay.Ino]string{}
	walk = func(path string, i overlay.Ino) {
		a := l.Stat(i)
		if a.Mode&unix.S_IFMT == unix.S_IFDIR && !nlinkOfDirs {
			a.Nlink = 0
		}
		line := fmt.Sprintf("%q %o %d %d:%d %d %d.%d %d %d %d %q", path, a.Mode, a.Nlink, a.UID, a.GID, a.Rdev, a.Sec, a.Nsec, a.Size, a.Blocks, a.Flags, l.Readlink(i))
		l.Xattrs(i, func(n string, v []byte) bool { line += fmt.Sprintf(" %s=%x", n, v); return true })
		if p, ok := first[i]; ok {
			line += " = " + p
		} else {
			first[i] = path
		}
		out = append(out, line)
		lo, hi, err := l.Children(i)
		if err != nil {
			t.Fatal(err)
		}
		for e := lo; e < hi; e++ {
			n, c, f := l.Entry(e)
			walk(path+fmt.Sprintf("/%d%s", f, n), c)
		}
	}
	walk("", 0)
	return out
}

// Lazy shows what Scan finds.
func TestLazyIsScan(t *testing.T) {
	dir := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []string{"a", "a/b", "a/b/c", "empty", "opaque"} {
		must(os.Mkdir(filepath.Join(dir, d), 0o751))
	}
	for n := range 50 {
		must(os.WriteFile(filepath.Join(dir, "a", fmt.Sprintf("f%02d", n)), make([]byte, n*1000), os.FileMode(0o600+n%8)))
	}
	must(os.Symlink("b/c", filepath.Join(dir, "a/link")))
	must(os.Link(filepath.Join(dir, "a/f01"), filepath.Join(dir, "a/b/hard")))
	must(os.Link(filepath.Join(dir, "a/f01"), filepath.Join(dir, "z")))
	must(unix.Mkfifo(filepath.Join(dir, "fifo"), 0o640))
	must(unix.Setxattr(filepath.Join(dir, "a/f02"), "user.b", []byte("2"), 0))
	must(unix.Setxattr(filepath.Join(dir, "a/f02"), "user.a", []byte("1"), 0))
	must(unix.Setxattr(filepath.Join(dir, "a/b"), "user.dir", nil, 0))
	opaque := "user.overlay.opaque"
	if os.Geteuid() == 0 {
		must(unix.Mknod(filepath.Join(dir, "a/gone"), unix.S_IFCHR, 0))
		must(unix.Mknod(filepath.Join(dir, "dev"), unix.S_IFBLK|0o660, int(unix.Mkdev(259, 300))))
		must(os.Chown(filepath.Join(dir, "a/f03"), 12, 34))
		opaque = "trusted.overlay.opaque"
	}
	must(unix.Setxattr(filepath.Join(dir, "opaque"), opaque, []byte("y"), 0))
	d, err := os.Open(dir)
	must(err)
	defer d.Close()
	b, err := Scan(context.Background(), d, Limits{})
	must(err)
	raw, err := EncodeIndex(b, Meta{})
	must(err)
	ix, err := ReadIndex(raw)
	must(err)
	lazy, err := NewLazy(d, Limits{})
	must(err)
	if n := lazy.Inodes(); n != 1 {
		t.Errorf("%d inodes before anybody looked", n)
	}
	got, want := dump(t, lazy, false), dump(t, ix, false)
	if !slices.Equal(got, want) {
		for i := range min(len(got), len(want)) {
			if got[i] != want[i] {
				t.Fatalf("lazy\n%s\nscan\n%s", got[i], want[i])
			}
		}
		t.Fatalf("%d lines, want %d", len(got), len(want))
	}
	if lazy.Inodes() != ix.Inodes() {
		t.Errorf("%d inodes, want %d", lazy.Inodes(), ix.Inodes())
	}
	for i := range overlay.Ino(lazy.Inodes()) {
		if lazy.Stat(i).Mode&unix.S_IFMT != unix.S_IFREG || lazy.Stat(i).Mode&0o777 == 0 {
			continue
		}
		f, err := Open(d, lazy, i)
		if err != nil {
			t.Errorf("open %q: %v", lazy.Path(nil, i), err)
			continue
		}
		f.Close()
	}
	// The same again gives the same numbers.
	if again := dump(t, lazy, false); !slices.Equal(again, got) {
		t.Error("a second look shows something else")
	}
}

func TestLazyLimit(t *testing.T) {
	dir := t.TempDir()
	for n := range 20 {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(n)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	d, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	l, err := NewLazy(d, Limits{Entries: 10})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := l.Children(0); err == nil {
		t.Error("more entries than the limit")
	}
}

// A directory that cannot be read to its end leaves nothing behind, however often somebody asks.
func TestLazyFailsMidway(t *testing.T) {
	dir := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for n := range 20 {
		must(os.WriteFile(filepath.Join(dir, fmt.Sprintf("%02d", n)), nil, 0o600))
	}
	must(unix.Setxattr(filepath.Join(dir, "00"), "user.a", []byte("1"), 0))
	must(os.Link(filepath.Join(dir, "00"), filepath.Join(dir, "01-linked")))
	must(os.WriteFile(filepath.Join(dir, "zz"), nil, 0o600))
	must(unix.Setxattr(filepath.Join(dir, "zz"), "user.long", []byte("1"), 0))
	d, err := os.Open(dir)
	must(err)
	defer d.Close()
	l, err := NewLazy(d, Limits{Entries: 30})
	must(err)
	buf := l.scan.buf
	l.scan.buf = make([]byte, len("user.a\x00")) // no room for user.long: the last file is an error
	for range 5 {
		if _, _, err := l.Children(0); err == nil {
			t.Fatal("an attribute that cannot be read is no error")
		}
		if n := l.inodes.next(); l.Inodes() != 1 || n > 22 {
			t.Fatalf("%d inodes, %d of them can be seen", n, l.Inodes())
		}
	}
	l.scan.buf = buf
	// What the failed reads had found is not mixed up with what is there now.
	must(os.Remove(filepath.Join(dir, "00")))
	must(os.WriteFile(filepath.Join(dir, "00"), nil, 0o600))
	got := dump(t, l, false)
	fresh, err := NewLazy(d, Limits{})
	must(err)
	if want := dump(t, fresh, false); !slices.Equal(got[1:], want[1:]) { // the root was read before
		t.Errorf("after errors\n%q\nwithout\n%q", got, want)
	}
}
