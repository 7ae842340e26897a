package bench

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"imagefs/integration/harness"
)

// privateVariable is set where this program has a mount namespace of its own.
const privateVariable = "IMAGEFS_BENCH_PRIVATE"

// cacheDir is where imagefs keeps the indexes of foreign stores for root.
const cacheDir = "/var/cache/imagefs"

// inPrivate runs the tests in a mount namespace of their own, so that imagefs
// can be given an empty cache without touching the machine's, and nothing stays
// mounted whatever happens. Ordinary users run them as they are.
func inPrivate(m *testing.M) int {
	if os.Geteuid() != 0 || os.Getenv(privateVariable) != "" {
		return harness.Main(m)
	}
	self, err := os.Executable()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	c := exec.Command(self, os.Args[1:]...)
	c.Env = append(os.Environ(), privateVariable+"=1")
	c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stderr
	c.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL}
	runtime.LockOSThread() // the death that Pdeathsig means is that of this thread
	err = c.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		fmt.Fprintln(os.Stderr, "a mount namespace for the tests:", err)
		return 1
	}
	return c.ProcessState.ExitCode()
}

// ownCache puts an empty directory where imagefs has its cache.
func ownCache(t testing.TB, dir string) {
	t.Helper()
	if os.Getenv(privateVariable) == "" {
		t.Fatal("the cache of the machine is not touched")
	}
	if err := os.MkdirAll(cacheDir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(dir, cacheDir, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
}

// forget empties the cache.
func forget(t testing.TB) {
	t.Helper()
	entries, err := os.ReadDir(cacheDir)
	for _, e := range entries {
		err = errors.Join(err, os.RemoveAll(filepath.Join(cacheDir, e.Name())))
	}
	if err != nil {
		t.Fatal(err)
	}
}
