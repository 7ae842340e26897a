package fusefs_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"imagefs/fusefs"
	"imagefs/store/storetest"
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

// ls asks each file for a label and an ACL; where there are none it is told to stop.
func TestRareAttributes(t *testing.T) {
	s := newStore(t)
	load(t, s, "", []string{"plain:1"}, layerTar(t, "f=1"))
	acl := string([]byte{2, 0, 0, 0, 1, 0, 7, 0, 255, 255, 255, 255, 4, 0, 5, 0, 255, 255, 255, 255, 32, 0, 5, 0, 255, 255, 255, 255})
	labelled := storetest.Tar(storetest.Entry{Name: "g", Body: "1"}, storetest.Entry{Name: "h", Body: "1", Xattrs: map[string]string{"system.posix_acl_access": acl}})
	load(t, s, "", []string{"acl:1"}, labelled)
	dir := filepath.Join(mount(t, s, fusefs.Options{ReadOnly: true}), "images")
	ask := func(path, name string) error {
		_, err := unix.Lgetxattr(filepath.Join(dir, path), name, make([]byte, 100))
		return err
	}
	for _, name := range []string{"security.selinux", "system.posix_acl_access"} {
		wantErr(t, name+" where no file has it", ask("plain/1/rootfs/f", name), unix.EOPNOTSUPP)
	}
	wantErr(t, "another name", ask("plain/1/rootfs/f", "user.x"), unix.ENODATA)
	if err := ask("acl/1/rootfs/h", "system.posix_acl_access"); err != nil {
		t.Errorf("an ACL: %v", err)
	}
	wantErr(t, "no ACL beside one", ask("acl/1/rootfs/g", "system.posix_acl_access"), unix.ENODATA)
	wantErr(t, "no ACL in another image", ask("plain/1/rootfs/f", "system.posix_acl_access"), unix.ENODATA)
	wantErr(t, "no label", ask("acl/1/rootfs/h", "security.selinux"), unix.EOPNOTSUPP)
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
