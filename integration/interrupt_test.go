package integration

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"imagefs/integration/harness"
)

// clean checks that a command that was interrupted has left nothing and says so.
func clean(t *testing.T, s harness.Imagefs, m *harness.Mount, op string, images string) {
	t.Helper()
	eventually(t, "the result of "+op, func() bool { r := last(t, m); return r.Op == op && !r.OK })
	if r := last(t, m); r.Error != "interrupted" {
		t.Errorf("ctl/last after %s: %+v", op, r)
	}
	if got := s.Run(t, "images", "--format", "{{.Repository}}:{{.Tag}}"); got != images {
		t.Errorf("images after %s: %q, want %q", op, got, images)
	}
	if left, err := os.ReadDir(filepath.Join(s.Store, "imagefs/stage")); err == nil && len(left) > 0 {
		t.Errorf("%s left %q staged", op, left)
	}
	if out := s.Run(t, "check"); !strings.Contains(out, "all well") {
		t.Errorf("check after %s: %s", op, out)
	}
}

// An archive whose writer is killed is not loaded, also where it is cut so that
// nobody can see it, and one that waits for more can be interrupted.
func TestKilledWriter(t *testing.T) {
	overBoth(t, func(t *testing.T, transport string) {
		whole, err := os.ReadFile(assembled(t))
		if err != nil {
			t.Fatal(err)
		}
		s := box(t)
		s.Transport = transport
		before := s.Run(t, "images", "--format", "{{.Repository}}:{{.Tag}}")
		m := s.Mount(t)
		pipe := filepath.Join(t.TempDir(), "pipe")
		if err := unix.Mkfifo(pipe, 0o600); err != nil {
			t.Fatal(err)
		}
		start := func(part []byte) (c *exec.Cmd, w *os.File) {
			c = exec.Command("sh", "-c", `exec cat "$1" >"$2"`, "sh", pipe, m.Path("ctl/load"))
			if err := c.Start(); err != nil {
				t.Fatal(err)
			}
			if w, err = os.OpenFile(pipe, os.O_WRONLY, 0); err != nil {
				t.Fatal(err)
			}
			if _, err := w.Write(part); err != nil {
				t.Fatal(err)
			}
			eventually(t, "all is read", func() bool {
				n, err := unix.IoctlGetInt(int(w.Fd()), unix.TIOCINQ)
				return err == nil && n == 0
			})
			return c, w
		}
		for _, sig := range []syscall.Signal{unix.SIGINT, unix.SIGKILL, unix.SIGTERM, unix.SIGHUP} {
			for what, part := range map[string][]byte{"half": whole[:len(whole)/2], "all": whole} {
				c, w := start(part)
				_ = c.Process.Signal(sig)
				if err := c.Wait(); err == nil {
					t.Errorf("cat outlived %v", sig)
				}
				w.Close()
				t.Logf("%v after %s of it", sig, what)
				clean(t, s, m, "load", before)
			}
		}
		c, w := start(whole)
		w.Close()
		if err := c.Wait(); err != nil || !strings.Contains(s.Run(t, "images"), "app") {
			t.Errorf("not killed: %v", err)
		}
	})
}

// A command that waits can be interrupted, and then has done nothing. A signal
// that says something else does not end it.
func TestInterruptedCommand(t *testing.T) {
	harness.Need(t, "bash")
	overBoth(t, func(t *testing.T, transport string) {
		s := box(t)
		s.Transport = transport
		before := s.Run(t, "images", "--format", "{{.Repository}}:{{.Tag}}")
		m := s.Mount(t)
		archive := assembled(t)
		start := func(file, command string) *exec.Cmd {
			c := exec.Command("bash", "-c", `trap : CHLD USR1; echo "$1" >"$2"`, "bash", command, m.Path("ctl", file))
			if err := c.Start(); err != nil {
				t.Fatal(err)
			}
			return c
		}
		waits := func(c *exec.Cmd) bool {
			b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/syscall", c.Process.Pid))
			return strings.HasPrefix(string(b), "1 ") // write
		}
		lock, err := os.OpenFile(filepath.Join(s.Store, "imagefs/lock"), os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer lock.Close()
		for _, x := range []struct{ file, command string }{{"tag", "box:1 x:1"}, {"rmi", "box:2"}, {"load", archive}} {
			if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
				t.Fatal(err)
			}
			c := start(x.file, x.command)
			eventually(t, x.file+" waits", func() bool { return waits(c) })
			_ = c.Process.Signal(unix.SIGCHLD)
			time.Sleep(200 * time.Millisecond)
			if !waits(c) {
				t.Errorf("%s was ended by SIGCHLD", x.file)
			}
			_ = c.Process.Signal(unix.SIGINT)
			ended := make(chan error, 1)
			go func() { ended <- c.Wait() }()
			select {
			case err := <-ended:
				if err == nil {
					t.Errorf("%s outlived SIGINT", x.file)
				}
			case <-time.After(20 * time.Second):
				t.Errorf("%s does not end after SIGINT", x.file)
				_ = c.Process.Kill()
			}
			if err := unix.Flock(int(lock.Fd()), unix.LOCK_UN); err != nil {
				t.Fatal(err)
			}
			clean(t, s, m, x.file, before)
		}
		// With the lock free, it goes on.
		if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
			t.Fatal(err)
		}
		c := start("tag", "box:1 x:1")
		eventually(t, "tag waits", func() bool { return waits(c) })
		_ = c.Process.Signal(unix.SIGUSR1)
		time.Sleep(100 * time.Millisecond)
		_ = unix.Flock(int(lock.Fd()), unix.LOCK_UN)
		var exit *exec.ExitError
		if err := c.Wait(); errors.As(err, &exit) {
			t.Errorf("a tag whose writer got SIGUSR1: %v", err)
		}
		if got := m.Read(t, "images/x/1/rootfs/etc/motd"); got != "hello\n" {
			t.Errorf("%q", got)
		}
	})
}
