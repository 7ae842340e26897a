package integration

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"imagefs/fusefs/uring"
	"imagefs/fusefs/uring/uringtest"
	"imagefs/integration/harness"
)

// overBoth runs a test with mounts over each transport.
func overBoth(t *testing.T, test func(t *testing.T, transport string)) {
	harness.Need(t, "root", "/dev/fuse")
	t.Run("dev", func(t *testing.T) { test(t, "dev") })
	t.Run("io_uring", func(t *testing.T) {
		uringtest.Need(t)
		test(t, "io_uring")
	})
}

// A transport that this machine has not is refused in one line that says what to do.
func TestTransport(t *testing.T) {
	harness.Need(t, "root", "/dev/fuse")
	s := box(t)
	dir := t.TempDir()
	if code, said := s.Fail(t, "mount", "--transport", "pigeon", dir); code != 2 || !strings.Contains(said, "auto, dev, io_uring") {
		t.Errorf("exit %d, %q", code, said)
	}
	if err := uring.Supported(); errors.Is(err, uring.ErrOff) {
		code, said := s.Fail(t, "mount", "-o", "transport=io_uring", dir)
		// Another test process may have switched it on just now.
		if still := errors.Is(uring.Supported(), uring.ErrOff); still && (code != 1 || strings.Count(said, "\n") != 1 || !strings.Contains(said, "echo 1 > "+uring.Setting)) {
			t.Errorf("exit %d, %q; want one line that says how to switch it on", code, said)
		}
	}
	uringtest.Need(t)
	for _, flags := range [][]string{{"--transport", "io_uring"}, {"-o", "ro,transport=io_uring"}, {"-o", "transport=auto"}, {"--transport", "dev"}} {
		s.Run(t, append(append([]string{"mount"}, flags...), dir)...)
		if b, err := os.ReadFile(dir + "/images/box/1/rootfs/etc/motd"); err != nil || string(b) != "hello\n" {
			t.Errorf("%q: %q %v", flags, b, err)
		}
		s.Run(t, "umount", dir)
	}
}

// A server that nobody asks anything uses no CPU time.
func TestIdle(t *testing.T) {
	overBoth(t, func(t *testing.T, transport string) {
		s := box(t)
		s.Transport = transport
		m := s.Mount(t, "--read-only")
		if got := m.Read(t, "images/box/1/rootfs/etc/motd"); got != "hello\n" {
			t.Errorf("%q", got)
		}
		// What came with the mount may still be going on for a moment.
		least := time.Hour
		for range 5 {
			before := cpuTime(t, m)
			time.Sleep(500 * time.Millisecond)
			least = min(least, cpuTime(t, m)-before)
		}
		if least > 10*time.Millisecond {
			t.Errorf("idle for half a second, it used %s", least)
		}
	})
}

// cpuTime is what a server has used, in steps of a hundredth of a second.
func cpuTime(t *testing.T, m *harness.Mount) time.Duration {
	t.Helper()
	var ts unix.Timespec
	// The clock of another process (clock_getcpuclockid(3)).
	if err := unix.ClockGettime(int32(^m.Server.Pid)<<3|2, &ts); err != nil {
		t.Fatal(err)
	}
	return time.Duration(ts.Nano())
}
