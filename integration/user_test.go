package integration

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"imagefs/integration/harness"
)

// An ordinary user has a store and a mount of their own, in which owners and
// devices are what the archive says.
func TestOrdinaryUser(t *testing.T) { overBoth(t, testOrdinaryUser) }

func testOrdinaryUser(t *testing.T, transport string) {
	harness.Need(t, "root", "/dev/fuse", "fusermount3", "find", "sha256sum")
	if st, err := os.Stat("/dev/fuse"); err != nil || st.Mode().Perm()&0o006 != 0o006 {
		harness.Missing(t, "a /dev/fuse that ordinary users may open")
	}
	archive := assembled(t)
	readable(t, archive)
	roots := harness.NewStore(t)
	roots.Run(t, "load", "-i", archive)
	rootsMount := roots.Mount(t, "--allow-other")
	want := list(t, rootsMount, 0)

	home := t.TempDir()
	readable(t, home)
	if err := os.Chown(home, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	users := harness.Imagefs{Store: filepath.Join(home, "store"), UID: nobody, Transport: transport}
	users.Run(t, "load", "-i", archive)
	users.Run(t, "check")
	m := users.Mount(t)
	harness.Same(t, "an ordinary user's rootfs", want, list(t, m, nobody))

	if _, err := os.Stat(m.Path("README")); err == nil {
		t.Error("root may look into a user's mount")
	}
	script := "cd \"$1\" && echo app:v1 app:mine >ctl/tag && cat images/app/mine/rootfs/sbin && ls -m images/app"
	out := harness.RunCmd(t, as(exec.Command("sh", "-c", script, "sh", m.Dir), nobody, ""))
	if want := "a file over a linkmine, v0, v1\n"; out != want {
		t.Errorf("%q, want %q", out, want)
	}
	script = `cd "$1" && mkdir -p images/my/own && ln -s app:v1 images/my/own/x && ln -sfn app:v0 images/my/own/x &&
		mv images/my/own/x images/app/moved && rm -r images/my && ls -m images/app && ls ids | wc -l &&
		! find ids -delete 2>/dev/null && ls ids | wc -l && rm images/app/moved`
	out = harness.RunCmd(t, as(exec.Command("sh", "-c", script, "sh", m.Dir), nobody, ""))
	if want := "mine, moved, v0, v1\n2\n2\n"; out != want {
		t.Errorf("%q, want %q", out, want)
	}

	// Root may not look at a user's mountpoint, and unmounts it all the same.
	own := filepath.Join(home, "own")
	if err := errors.Join(os.Mkdir(own, 0o755), os.Chown(own, nobody, nobody)); err != nil {
		t.Fatal(err)
	}
	readable(t, filepath.Dir(rootsMount.Dir))
	users.Run(t, "mount", own)
	roots.Run(t, "umount", own)
	if code, said := users.Fail(t, "umount", rootsMount.Dir); code != 1 || !strings.Contains(said, " was mounted by root: ") {
		t.Errorf("exit %d, %q", code, said)
	}
}

// In a namespace in which they are root, an ordinary user reads what only root may.
func TestUserAsRoot(t *testing.T) { overBoth(t, testUserAsRoot) }

func testUserAsRoot(t *testing.T, transport string) {
	harness.Need(t, "root", "/dev/fuse", "unshare")
	home := t.TempDir()
	readable(t, home)
	archive := boxArchive(t)
	readable(t, archive)
	mnt := filepath.Join(home, "mnt")
	if err := errors.Join(os.Mkdir(mnt, 0o755), os.Chown(home, nobody, nobody), os.Chown(mnt, nobody, nobody)); err != nil {
		t.Fatal(err)
	}
	s := harness.Imagefs{Store: filepath.Join(home, "data/imagefs"), UID: nobody}
	s.Run(t, "load", "-q", "-i", archive)
	script := `"$0" "$@" --transport ` + transport + ` mnt && cat mnt/images/box/1/rootfs/etc/secret; "$0" umount mnt`
	mount := s.Cmd(t, "mount")
	c := exec.Command("unshare", append([]string{"-rm", "sh", "-c", script}, mount.Args...)...)
	c.Env, c.Dir, c.SysProcAttr = mount.Env, home, mount.SysProcAttr
	if out := harness.RunCmd(t, c); out != "s\n" {
		t.Errorf("%q, want %q", out, "s\n")
	}
	// Without --store it is still the user's own that is meant.
	c = exec.Command("unshare", "-rm", mount.Path, "images", "-q", "box:1")
	c.Env, c.Dir, c.SysProcAttr = append(mount.Env, "IMAGEFS_STORE=", "XDG_DATA_HOME="+home+"/data"), home, mount.SysProcAttr
	if out := harness.RunCmd(t, c); len(harness.Lines(out)) != 1 {
		t.Errorf("%q, want the image", out)
	}
}

// readable lets every user reach a path of a test.
func readable(t *testing.T, path string) {
	t.Helper()
	for ; path != os.TempDir(); path = filepath.Dir(path) {
		if err := os.Chmod(path, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

// list tells of the root file systems of app:v0 and app:v1 what an ordinary
// user, who may not enter d and gone, can see.
func list(t *testing.T, m *harness.Mount, uid uint32) harness.Manifest {
	t.Helper()
	script := `cd "$1" || exit 1
		find v0/rootfs/ v1/rootfs/ ! -path '*/d/*' ! -path '*/gone/*' -printf '%p %y %m %U %G %n %T@ %l ' \( -type d -printf '-\n' -o -printf '%s\n' \) 2>/dev/null
		find v0/rootfs/ v1/rootfs/ ! -path '*/d/*' ! -path '*/gone/*' -type f -perm -004 -exec sha256sum {} + 2>/dev/null || true`
	c := exec.Command("sh", "-c", script, "sh", m.Path("images/app"))
	lines := harness.Lines(harness.RunCmd(t, as(c, uid, "")))
	if len(lines) < 30 {
		t.Fatalf("saw %d lines only: %q", len(lines), lines)
	}
	return lines
}
