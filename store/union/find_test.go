package union_test

import (
	"bytes"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"imagefs/store"
	"imagefs/store/archive"
	"imagefs/store/save"
	"imagefs/store/storetest"
	"imagefs/store/union"
)

// An archive that is written again as it was has the same images, and gives
// their layers by another file from then on.
func TestArchiveWrittenAgain(t *testing.T) {
	items, err := save.Select(ctx, part(t, "src", root(t, imgA), true).Store, []string{"app:1"})
	must(t, err)
	a, err := save.Docker(ctx, items)
	must(t, err)
	var tar bytes.Buffer
	must(t, a.Write(ctx, &tar, nil))
	path := filepath.Join(t.TempDir(), "app.tar")
	must(t, os.WriteFile(path, tar.Bytes(), 0o600))
	for _, order := range []string{"archive first", "archive last"} {
		st, err := archive.Open(path, archive.StoreOptions{})
		must(t, err)
		parts := []store.Part{{Name: "arch", Store: st}, part(t, "other", root(t, imgB), true)}
		if order == "archive last" {
			parts[0], parts[1] = parts[1], parts[0]
		}
		u := open(t, union.Options{}, parts...)
		for n := range 3 {
			if n > 0 {
				time.Sleep(20 * time.Millisecond) // longer than what a file system's clock takes for one moment
				must(t, os.WriteFile(path, tar.Bytes(), 0o600))
			}
			l := layers(t, u, imgA)
			f, err := l[1].Tar(ctx)
			must(t, err)
			if _, err := f.ReadAt(make([]byte, 512), 0); err != nil {
				t.Errorf("%s, written %d times again: %v", order, n, err)
			}
			f.Close()
			if got := file(t, l[0], "etc/f"); got != "the base\n" {
				t.Errorf("%s: etc/f is %q", order, got)
			}
		}
	}
}

// Nothing stays open of an archive that was written again but what somebody has.
func TestArchiveLetGo(t *testing.T) {
	items, err := save.Select(ctx, part(t, "src", root(t, imgA, imgB), true).Store, []string{"app:1", "app:2"})
	must(t, err)
	path := filepath.Join(t.TempDir(), "app.tar")
	write := func(n int) {
		a, err := save.Docker(ctx, items[n:n+1])
		must(t, err)
		var tar bytes.Buffer
		must(t, a.Write(ctx, &tar, nil))
		must(t, os.WriteFile(path, tar.Bytes(), 0o600))
	}
	write(0)
	st, err := archive.Open(path, archive.StoreOptions{})
	must(t, err)
	u := open(t, union.Options{}, store.Part{Name: "arch", Store: st}, part(t, "other", root(t, imgAB), true))
	for n := range 6 {
		write(n % 2)
		layers(t, u, []storetest.Image{imgA, imgB}[n%2])[1].Size()
		time.Sleep(20 * time.Millisecond) // longer than what a file system's clock takes for one moment
	}
	count := func() (n int) {
		fds, err := os.ReadDir("/proc/self/fd")
		must(t, err)
		for _, fd := range fds {
			if to, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil && strings.HasPrefix(to, path) {
				n++
			}
		}
		return n
	}
	for end := time.Now().Add(20 * time.Second); count() > 1; time.Sleep(10 * time.Millisecond) {
		if runtime.GC(); time.Now().After(end) {
			t.Fatalf("the archive is open %d times", count())
		}
	}
}
