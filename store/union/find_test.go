package union_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"imagefs/store"
	"imagefs/store/archive"
	"imagefs/store/save"
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
