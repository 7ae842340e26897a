// Package harness is what the integration tests stand on: real mounts by
// imagefs and by the kernel, real engines, and a listing of everything that a
// reader can see in a tree.
//
// A test package has `func TestMain(m *testing.M) { os.Exit(harness.Main(m)) }`.
// Everything a run makes lies in one directory that TMPDIR points to, and that
// Main removes; the run fails if a mount is left in it.
package harness

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// atEnd holds what Main does when all tests have run, last added first.
var atEnd []func()

// Main runs the tests of a package and returns the exit code. It fails the
// run for a mount that a test left behind.
func Main(m *testing.M) int {
	base, err := os.MkdirTemp("", "imagefs-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	// Tests that run imagefs as an ordinary user have their files in here too.
	if err := os.Chmod(base, 0o755); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	os.Setenv("TMPDIR", base)
	code := m.Run()
	for _, f := range slices.Backward(atEnd) {
		f()
	}
	left, err := mountinfo.GetMounts(mountinfo.PrefixFilter(base))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	for _, l := range slices.Backward(left) {
		fmt.Fprintf(os.Stderr, "FAIL: left mounted: %s at %s\n", l.FSType, l.Mountpoint)
		_ = unix.Unmount(l.Mountpoint, unix.MNT_DETACH)
		code = 1
	}
	if err := os.RemoveAll(base); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	return code
}

// Need skips the test unless everything it names is there; in CI that is a
// failure. "root" means running as root, a path that it exists, anything else a command.
func Need(t testing.TB, what ...string) {
	t.Helper()
	for _, w := range what {
		var ok bool
		switch {
		case w == "root":
			ok = os.Geteuid() == 0
		case filepath.IsAbs(w):
			_, err := os.Stat(w)
			ok = err == nil
		default:
			_, err := exec.LookPath(w)
			ok = err == nil
		}
		if !ok {
			Missing(t, w)
		}
	}
}

// Missing skips the test for want of something; in CI that is a failure.
func Missing(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatalf("needs %s, which is not here", what)
	}
	t.Skipf("needs %s, which is not here", what)
}

// Repo returns the root directory of this repository.
func Repo() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Dir(filepath.Dir(filepath.Dir(file)))
}

// shared returns a directory of the reference material that may lie beside
// the repository, or that variable names; "" if there is none.
func shared(variable, name string) string {
	dir := os.Getenv(variable)
	if dir == "" {
		dir = filepath.Join(Repo(), "..", "shared", name)
	}
	if st, err := os.Stat(dir); err != nil || !st.IsDir() {
		return ""
	}
	return dir
}

// NeedFixtures returns the directory of foreign archives and stores. It is not
// part of the repository: IMAGEFS_SHARED_FIXTURES names another than the usual,
// and "none" says that there is none, in CI too.
func NeedFixtures(t testing.TB) string {
	t.Helper()
	const variable = "IMAGEFS_SHARED_FIXTURES"
	dir := shared(variable, "fixtures")
	if dir == "" {
		if os.Getenv(variable) == "none" {
			t.Skipf("%s says that there are none", variable)
		}
		Missing(t, "a directory of fixtures ("+variable+")")
	}
	return dir
}

// Scripts returns the directory of scripts that run engines and make images,
// "" if it is not here. IMAGEFS_SHARED_ENGINES names another than the usual.
func Scripts() string { return shared("IMAGEFS_SHARED_ENGINES", "engines") }

// Run runs a command to its end and returns what it printed on standard
// output. The test fails if the command does.
func Run(t testing.TB, name string, args ...string) string {
	t.Helper()
	return RunCmd(t, exec.Command(name, args...))
}

// RunCmd is Run for a prepared command.
func RunCmd(t testing.TB, c *exec.Cmd) string {
	t.Helper()
	var errOut strings.Builder
	if c.Stderr == nil {
		c.Stderr = &errOut
	}
	out, err := c.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s%s", strings.Join(c.Args, " "), err, tail(string(out)), tail(errOut.String()))
	}
	return string(out)
}

// tail shortens output for a message.
func tail(s string) string {
	const most = 4000
	if len(s) > most {
		return "…" + s[len(s)-most:]
	}
	return s
}

// patience is how long Until waits: much longer than anything takes on a machine that is not busy.
const patience = 30 * time.Second

// Until waits for something to become true and returns how long that took, -1 if it did not.
func Until(ok func() bool) time.Duration {
	start := time.Now()
	for ; !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Since(start) > patience {
			return -1
		}
	}
	return time.Since(start)
}
