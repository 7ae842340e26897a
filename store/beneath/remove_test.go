package beneath

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// deepTree makes a directory with others below it, n deep, a file in each hundredth.
func deepTree(t *testing.T, dir string, n int) {
	t.Helper()
	must(t, os.MkdirAll(dir, 0o755))
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	must(t, err)
	for i := range n {
		must(t, unix.Mkdirat(fd, "d", 0o755))
		sub, err := unix.Openat(fd, "d", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
		must(t, err)
		if i%100 == 0 {
			f, err := unix.Openat(sub, "file", unix.O_CREAT|unix.O_WRONLY, 0o600)
			must(t, err)
			must(t, unix.Close(f))
		}
		must(t, unix.Close(fd))
		fd = sub
	}
	must(t, unix.Close(fd))
}

// fewFiles lets the test have no more descriptors than it has, and some.
func fewFiles(t *testing.T, some uint64) {
	t.Helper()
	open, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	var was unix.Rlimit
	must(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &was))
	now := was
	now.Cur = uint64(len(open)) + some
	must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &now))
	t.Cleanup(func() { must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &was)) })
}

func TestRemoveAnyDepth(t *testing.T) {
	r, err := Open(t.TempDir())
	must(t, err)
	defer r.Close()
	deepTree(t, filepath.Join(r.Name(), "deep"), 6000)
	for n := range 3000 { // more than are read at a time
		must(t, os.WriteFile(filepath.Join(r.Name(), "deep", fmt.Sprint("file", n)), nil, 0o600))
	}
	for n := range 5 {
		deepTree(t, filepath.Join(r.Name(), "deep/d/d", fmt.Sprint(n)), 200)
	}
	must(t, os.Symlink(t.TempDir(), filepath.Join(r.Name(), "deep/d/link")))
	fewFiles(t, maxOpen+16)
	must(t, r.RemoveAll("deep"))
	if names, err := r.List("."); err != nil || len(names) != 0 {
		t.Errorf("left: %q %v", names, err)
	}
}

// An ordinary user's directories may forbid them to be changed.
func TestRemoveWithoutPermission(t *testing.T) {
	r, err := Open(t.TempDir())
	must(t, err)
	defer r.Close()
	deepTree(t, filepath.Join(r.Name(), "deep"), 150)
	var paths []string
	if os.Geteuid() == 0 {
		must(t, filepath.WalkDir(r.Name(), func(p string, _ os.DirEntry, err error) error {
			must(t, err)
			return os.Lchown(p, 65534, 65534)
		}))
	}
	must(t, filepath.WalkDir(filepath.Join(r.Name(), "deep"), func(p string, d os.DirEntry, err error) error {
		if d.IsDir() {
			paths = append(paths, p)
		}
		return err
	}))
	for _, p := range slices.Backward(paths) {
		must(t, os.Chmod(p, 0))
	}
	done := make(chan error)
	go func() {
		// Permissions do not count for root: the thread becomes another user, and ends.
		runtime.LockOSThread()
		if os.Geteuid() == 0 {
			if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, 65534, 65534, 65534); e != 0 {
				done <- e
				return
			}
		}
		done <- r.RemoveAll("deep")
	}()
	must(t, <-done)
}
