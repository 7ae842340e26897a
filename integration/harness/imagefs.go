package harness

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
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
	if !Race {
		c.Env = append(os.Environ(), "CGO_ENABLED=0") // as `make build` does; the race detector needs cgo
	}
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
	// Transport of its mounts; "": what is best on this machine
	Transport string
	Program   string   // the binary, "" for that of Binary
	Env       []string // added to the environment
}

// NewStore returns the command on a store that is not there yet.
func NewStore(t testing.TB) Imagefs {
	t.Helper()
	return Imagefs{Store: filepath.Join(t.TempDir(), "store")}
}

// Cmd prepares a run of the command.
func (i Imagefs) Cmd(t testing.TB, args ...string) *exec.Cmd {
	t.Helper()
	program := i.Program
	if program == "" {
		program = Binary(t)
	}
	c := exec.Command(program, append([]string{"--store", i.Store}, args...)...)
	c.Env = append(os.Environ(), "IMAGEFS_STORE=", "GORACE=atexit_sleep_ms=0", "XDG_CACHE_HOME="+filepath.Join(os.TempDir(), "cache"))
	c.Env = append(c.Env, i.Env...)
	c.Dir = "/"
	if i.UID != 0 {
		own := filepath.Join(os.TempDir(), strconv.Itoa(i.UID))
		if err := errors.Join(os.MkdirAll(own, 0o700), os.Chown(own, i.UID, i.UID)); err != nil {
			t.Fatal(err)
		}
		c.Env = append(c.Env, "TMPDIR="+own, "HOME="+own, "XDG_CACHE_HOME="+filepath.Join(own, "cache"))
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
	dir := t.TempDir()
	if i.UID != 0 {
		Need(t, "fusermount3")
		if err := os.Chown(dir, i.UID, i.UID); err != nil {
			t.Fatal(err)
		}
	}
	return i.MountAt(t, dir, flags...)
}

// MountAt is Mount on a directory of the caller's.
func (i Imagefs) MountAt(t testing.TB, dir string, flags ...string) *Mount {
	t.Helper()
	m := i.TryMountAt(t, dir, flags...)
	if m.Ended() {
		t.Fatalf("imagefs mount ended: %v\n%s", m.err, m.log.String())
	}
	return m
}

// TryMountAt is MountAt of a server that may end before it is ready.
func (i Imagefs) TryMountAt(t testing.TB, dir string, flags ...string) *Mount {
	t.Helper()
	Need(t, "/dev/fuse")
	m := &Mount{Dir: dir, done: make(chan struct{})}
	ready := listenReady(t)
	if i.Transport != "" {
		flags = append([]string{"--transport", i.Transport}, flags...)
	}
	c := i.Cmd(t, append(append([]string{"mount", "--foreground"}, flags...), m.Dir)...)
	c.Env = append(c.Env, "NOTIFY_SOCKET="+ready.LocalAddr().String())
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
	told := make(chan error, 1)
	go func() {
		b := make([]byte, 4096)
		n, err := ready.Read(b)
		if err == nil && !strings.Contains(string(b[:n]), "READY=1") {
			err = fmt.Errorf("the server notifies of %q, not of being ready", b[:n])
		}
		told <- err
	}()
	select {
	case err := <-told:
		if err != nil {
			t.Fatal(err)
		}
	case <-m.done:
	case <-time.After(time.Minute):
		t.Fatal("imagefs mount: not ready after a minute")
	}
	return m
}

// listenReady makes the socket on which a supervised server says that it is ready.
func listenReady(t testing.TB) *net.UnixConn {
	t.Helper()
	name := fmt.Sprintf("@imagefs-test-%d-%d", os.Getpid(), sockets.Add(1))
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram", Name: name})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// sockets numbers them: abstract names are the machine's.
var sockets atomic.Int32

// Kill ends the server as a crash would, and leaves the mount point dead.
func (m *Mount) Kill() {
	_ = m.Server.Kill()
	<-m.done
	m.err = nil
}

// Ended tells whether the server has ended.
func (m *Mount) Ended() bool {
	select {
	case <-m.done:
		return true
	default:
		return false
	}
}

// Killed waits a moment for the end of a server that is to die by SIGKILL; false
// if it lives, or ended otherwise.
func (m *Mount) Killed(within time.Duration) bool {
	select {
	case <-m.done:
	case <-time.After(within):
		return false
	}
	var exit *exec.ExitError
	if !errors.As(m.err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		return false
	}
	m.err = nil
	return true
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
