package harness

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// KernelMount mounts layer directories, bottom first, with the kernel's
// overlayfs, read-only, until the test ends.
func KernelMount(t testing.TB, dirs ...string) string {
	t.Helper()
	mnt := overlayMount(t, dirs)
	Unmounted(t, mnt)
	return mnt
}

func overlayMount(t testing.TB, dirs []string) string {
	t.Helper()
	Need(t, "root")
	// The options of a mount fit into one page, so each layer gets a short
	// name; and overlayfs wants two layers at least.
	names, mnt := t.TempDir(), t.TempDir()
	empty := filepath.Join(names, "e")
	if err := os.Mkdir(empty, 0o755); err != nil {
		t.Fatal(err)
	}
	lower := []string{"e"}
	for n, d := range dirs {
		if err := os.Symlink(d, filepath.Join(names, strconv.Itoa(n))); err != nil {
			t.Fatal(err)
		}
		lower = append([]string{strconv.Itoa(n)}, lower...)
	}
	if len(dirs) > 1 {
		lower = lower[:len(dirs)]
	}
	c := exec.Command("mount", "-t", "overlay", "overlay", "-o", "ro,lowerdir="+strings.Join(lower, ":"), mnt)
	c.Dir = names
	RunCmd(t, c)
	return mnt
}

// OverlayOn mounts a writable overlay on a directory until the test ends, with
// its upper layer in a tmpfs.
func OverlayOn(t testing.TB, lower string) string {
	t.Helper()
	Need(t, "root")
	tmp, mnt := t.TempDir(), t.TempDir()
	Run(t, "mount", "-t", "tmpfs", "tmpfs", tmp)
	Unmounted(t, tmp)
	for _, d := range []string{"upper", "work"} {
		if err := os.Mkdir(filepath.Join(tmp, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	Run(t, "mount", "-t", "overlay", "overlay", "-o", "lowerdir="+lower+",upperdir="+tmp+"/upper,workdir="+tmp+"/work", mnt)
	Unmounted(t, mnt)
	return mnt
}

// Unmounted unmounts dir when the test ends, which fails if that is not possible.
func Unmounted(t testing.TB, dir string) {
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
			_ = unix.Unmount(dir, unix.MNT_DETACH)
		}
	})
}
