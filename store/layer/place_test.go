package layer

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"imagefs/overlay"
)

// deep is how many directories lie one in the other in these tests.
const deep = 1900

// deepTar is a tar of such directories. There are files in each hundredth,
// before and behind the next directory in whatever order names come.
func deepTar(t *testing.T, more ...tar.Header) ([]byte, []string) {
	t.Helper()
	hdrs := []tar.Header{}
	content := map[string][]byte{}
	var files []string
	path := "d"
	for n := range deep {
		hdrs = append(hdrs, dir(path+"/", 0o755))
		if n%100 == 0 {
			for f := range 5 {
				file := fmt.Sprintf("%s/%c", path, 'b'+f*5)
				hdrs, files = append(hdrs, reg(file, 0o644)), append(files, file)
				content[file] = []byte(file)
			}
		}
		path += "/d"
	}
	return makeTar(t, append(hdrs, more...), content), files
}

// fewFiles lets the test have no more descriptors than it has, and some.
func fewFiles(t *testing.T, some uint64) {
	t.Helper()
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	var was unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	now := was
	now.Cur = uint64(len(open)) + some
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &now); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
			t.Error(err)
		}
	})
}

// A walk does not take a descriptor for each level.
func TestDeepWalks(t *testing.T) {
	raw, files := deepTar(t)
	u, err := unpackIn(t, filepath.Join(t.TempDir(), "diff"), raw)
	if err != nil {
		t.Fatal(err)
	}
	before := t.TempDir()
	copied, err := unpackIn(t, filepath.Join(before, "diff"), raw)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(u.dir.Name(), files[len(files)-3]), []byte("other"), 0o644); err != nil {
		t.Fatal(err)
	}
	walks := map[string]func() (*overlay.Builder, error){
		"scan": func() (*overlay.Builder, error) { return Scan(context.Background(), u.dir, Limits{}) },
		"compare": func() (*overlay.Builder, error) {
			return ScanTree(context.Background(), u.dir, copied.dir, nil, Limits{})
		},
	}
	found := map[string][]byte{}
	for _, few := range []bool{false, true} {
		if few {
			fewFiles(t, 2*maxOpen+16)
		}
		for name, walk := range walks {
			b, err := walk()
			if err != nil {
				t.Fatalf("%s, few descriptors %t: %v", name, few, err)
			}
			raw, err := EncodeIndex(b, Meta{})
			if err != nil {
				t.Fatal(err)
			}
			if few && !bytes.Equal(raw, found[name]) {
				t.Errorf("%s: with few descriptors it finds something else", name)
			}
			found[name] = raw
		}
	}
	for name, want := range map[string]int{"scan": len(files), "compare": 1} {
		ix, err := ReadIndex(found[name])
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for i := range overlay.Ino(ix.Inodes()) {
			if ix.Stat(i).Mode&unix.S_IFMT == unix.S_IFREG {
				n++
			}
		}
		if n != want {
			t.Errorf("%s: %d files, not %d", name, n, want)
		}
	}
}

// What lies deep can be replaced, and the tar is still there.
func TestDeepReplaced(t *testing.T) {
	raw, files := deepTar(t, reg("d", 0o644))
	fewFiles(t, maxDirs+maxOpen+16)
	u, err := unpackIn(t, filepath.Join(t.TempDir(), "diff"), raw)
	if err != nil {
		t.Fatal(err)
	}
	if st, err := os.Lstat(filepath.Join(u.dir.Name(), "d")); err != nil || !st.Mode().IsRegular() {
		t.Errorf("the tree is still there: %v", err)
	}
	if table, err := readSpill(u.spill); err != nil || len(table) != len(files) {
		t.Errorf("%d of %d files are kept for the tar, %v", len(table), len(files), err)
	}
	checkTar(t, u)
}

// A directory that was let go of is not another that has come into its place.
func TestPlaceIsTheSame(t *testing.T) {
	top := t.TempDir()
	path := strings.Repeat("/d", maxOpen+3)
	if err := os.MkdirAll(top+path, 0o755); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(top)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	at := start(int(f.Fd()), "")
	var places []*place
	for range maxOpen + 3 {
		if at, err = at.open("d"); err != nil {
			t.Fatal(err)
		}
		places = append(places, at)
	}
	for i, d := range places {
		if left := d.depth >= maxOpen && i < len(places)-2; left != (d.fd < 0) {
			t.Errorf("directory %d: descriptor %d", d.depth, d.fd)
		}
	}
	left := places[maxOpen-1]
	if fd, err := left.at(); err != nil || fd < 0 {
		t.Fatal(err)
	}
	left.leave()
	name := filepath.Join(top, left.path)
	if err := os.Rename(name, top+"/moved"); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(name+"/d", 0o755); err != nil {
		t.Fatal(err)
	}
	if fd, err := left.at(); err != unix.ENOENT {
		t.Errorf("another directory was opened: %d, %v", fd, err)
	}
	for _, d := range places {
		d.close()
	}
}
