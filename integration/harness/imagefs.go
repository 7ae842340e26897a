package harness

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Race makes Binary build with the race detector. Set it before the first use.
var Race bool

var binary = sync.OnceValues(func() (string, error) {
	if b := os.Getenv("IMAGEFS_TEST_BINARY"); b != "" {
		return b, nil
	}
	dir, err := os.MkdirTemp("", "bin-")
	if err != nil {
		return "", err
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return "", err
	}
	args := []string{"build", "-o", filepath.Join(dir, "imagefs")}
	if Race {
		args = append(args, "-race")
	}
	c := exec.Command("go", append(args, "./cmd/imagefs")...)
	c.Dir = Repo()
	if out, err := c.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build imagefs: %w\n%s", err, out)
	}
	return filepath.Join(dir, "imagefs"), nil
})

// Binary returns the command, built once a run; IMAGEFS_TEST_BINARY names
// one that is already there.
func Binary(t testing.TB) string {
	t.Helper()
	b, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Imagefs is the command, used on one store.
type Imagefs struct {
	Store string
	UID   int // run as this user; 0: as the test's own
}

// NewStore returns the command on a store that is not there yet.
func NewStore(t testing.TB) Imagefs {
	t.Helper()
	return Imagefs{Store: filepath.Join(t.TempDir(), "store")}
}

// Cmd prepares a run of the command.
func (i Imagefs) Cmd(t testing.TB, args ...string) *exec.Cmd {
	t.Helper()
	c := exec.Command(Binary(t), append([]string{"--store", i.Store}, args...)...)
	c.Env = append(os.Environ(), "IMAGEFS_STORE=", "XDG_CACHE_HOME="+filepath.Join(os.TempDir(), "cache-"+strconv.Itoa(i.UID)))
	c.Dir = "/"
	if i.UID != 0 {
		c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(i.UID), Gid: uint32(i.UID)}}
	}
	return c
}

// Run runs the command, which must succeed, and returns its standard output.
func (i Imagefs) Run(t testing.TB, args ...string) string {
	t.Helper()
	return RunCmd(t, i.Cmd(t, args...))
}

// Fail runs the command, which must fail, and returns its exit code and what it said.
func (i Imagefs) Fail(t testing.TB, args ...string) (code int, stderr string) {
	t.Helper()
	c := i.Cmd(t, args...)
	var e bytes.Buffer
	c.Stderr = &e
	err := c.Run()
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		t.Fatalf("imagefs %q: %v, want a failure", args, err)
	}
	return exit.ExitCode(), e.String()
}

// Mount is a mounted tree.
type Mount struct {
	Dir    string
	Server *os.Process

	log  bytes.Buffer
	done chan struct{} // closed when the server has ended, then err holds
	err  error
}

// Mount mounts the store until the test ends, which fails if the server does
// not end cleanly.
func (i Imagefs) Mount(t testing.TB, flags ...string) *Mount {
	t.Helper()
	Need(t, "/dev/fuse")
	m := &Mount{Dir: t.TempDir(), done: make(chan struct{})}
	if i.UID != 0 {
		Need(t, "fusermount3")
		if err := os.Chown(m.Dir, i.UID, i.UID); err != nil {
			t.Fatal(err)
		}
	}
	before := device(m.Dir)
	c := i.Cmd(t, append(append([]string{"mount", "--foreground"}, flags...), m.Dir)...)
	c.Stdout, c.Stderr = &m.log, &m.log
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	m.Server = c.Process
	go func() {
		m.err = c.Wait()
		close(m.done)
	}()
	t.Cleanup(func() { m.Stop(t) })
	for deadline := time.Now().Add(60 * time.Second); device(m.Dir) == before; time.Sleep(5 * time.Millisecond) {
		select {
		case <-m.done:
			t.Fatalf("imagefs mount ended: %v\n%s", m.err, m.log.String())
		default:
		}
		if time.Now().After(deadline) {
			t.Fatal("imagefs mount: not mounted after a minute")
		}
	}
	return m
}

// Path returns a path in the tree.
func (m *Mount) Path(elem ...string) string {
	return filepath.Join(append([]string{m.Dir}, elem...)...)
}

// Read returns the content of a file of the tree.
func (m *Mount) Read(t testing.TB, elem ...string) string {
	t.Helper()
	b, err := os.ReadFile(m.Path(elem...))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// Stop unmounts, as a signal asks the server to, and waits for its end. It
// runs at the end of the test; earlier is allowed.
func (m *Mount) Stop(t testing.TB) {
	t.Helper()
	select {
	case <-m.done:
	default:
		_ = m.Server.Signal(syscall.SIGTERM)
	}
	select {
	case <-m.done:
	case <-time.After(20 * time.Second):
		t.Errorf("imagefs mount: still there 20 s after SIGTERM")
		_ = unix.Unmount(m.Dir, unix.MNT_DETACH)
		_ = m.Server.Kill()
		<-m.done
	}
	if m.err != nil {
		t.Errorf("imagefs mount: %v\n%s", m.err, tail(m.log.String()))
		m.err = nil
	}
}

// device returns the device that a directory lies on, 0 if that cannot be told.
func device(dir string) uint64 {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return 0
	}
	return uint64(st.Dev)
}
