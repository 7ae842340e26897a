package fusefs_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"imagefs/fusefs"
)

func TestOriginOfFiles(t *testing.T) {
	s := newStore(t)
	base, top := layerTar(t, "a/f=1", "a/g=1"), layerTar(t, "a/f=2")
	load(t, s, "", []string{"a:1"}, base, top)
	for _, listed := range []bool{false, true} {
		dir := filepath.Join(mount(t, s, fusefs.Options{ListOrigin: listed}), "images/a/1/rootfs")
		for path, want := range map[string]struct{ layer, diffID string }{
			"a/f": {"1", digestOf(top)}, "a/g": {"0", digestOf(base)}, "a": {"1", digestOf(top)},
		} {
			path = filepath.Join(dir, path)
			if got := xattr(t, path, "user.imagefs.layer"); got != want.layer {
				t.Errorf("%s is of layer %s, want %s", path, got, want.layer)
			}
			if got := xattr(t, path, "user.imagefs.diffid"); got != want.diffID {
				t.Errorf("%s is of diff ID %s, want %s", path, got, want.diffID)
			}
			_, err := unix.Getxattr(path, "user.imagefs.other", make([]byte, 8))
			wantErr(t, "another name", err, unix.ENODATA)
			b := make([]byte, 1024)
			n, err := unix.Listxattr(path, b)
			if err != nil || strings.Contains(string(b[:n]), "user.imagefs.layer\x00") != listed {
				t.Errorf("%s lists %q, %v", path, b[:n], err)
			}
		}
		if _, err := unix.Getxattr(filepath.Join(dir, "../id"), "user.imagefs.layer", nil); err != unix.ENODATA {
			t.Errorf("a file of no layer: %v", err)
		}
		if _, err := os.Stat(dir); err != nil {
			t.Error(err)
		}
	}
}

func xattr(t *testing.T, path, name string) string {
	t.Helper()
	b := make([]byte, 1024)
	n, err := unix.Getxattr(path, name, b)
	if err != nil {
		t.Errorf("%s of %s: %v", name, path, err)
		return ""
	}
	return string(b[:n])
}
