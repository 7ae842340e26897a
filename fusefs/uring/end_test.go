package uring_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"imagefs/fusefs/uring"
)

// A client that gets a signal is told so, and the request's cancel channel closes.
func TestInterrupt(t *testing.T) {
	for _, sig := range []syscall.Signal{unix.SIGINT, unix.SIGKILL} {
		t.Run(unix.SignalName(sig), func(t *testing.T) {
			s := serve(t)
			for n, c := range s.readers(t, 20) {
				_ = c.Process.Signal(sig)
				if n%2 == 0 {
					continue // several at once, and one by one
				}
				eventually(t, "an interrupt", func() bool { return s.interrupted.Load() > int64(n)-1 })
			}
			eventually(t, "all interrupts", func() bool { return s.interrupted.Load() == 20 && s.blocked.Load() == 0 })
			if got, err := read(s.path("fast")); got != "fast" || err != nil {
				t.Errorf("afterwards: %q %v", got, err)
			}
		})
	}
}

// An interrupt that overtakes its request, or comes right after it, is not lost.
func TestInterruptAtOnce(t *testing.T) {
	s := serve(t)
	for n := range 100 {
		c := s.client(t, fmt.Sprintf("cat block%d", n))
		eventually(t, "the READ is there", func() bool { return s.blocked.Load() > 0 })
		_ = c.Process.Signal(unix.SIGINT)
		eventually(t, "the READ is over", func() bool { return s.blocked.Load() == 0 })
		_ = c.Wait()
	}
}

// waitFor waits for the end of a client and returns how it ended.
func waitFor(t *testing.T, c *exec.Cmd) error {
	t.Helper()
	ended := make(chan error, 1)
	go func() { ended <- c.Wait() }()
	select {
	case err := <-ended:
		return err
	case <-time.After(patience):
		t.Fatal("a client does not end")
		return nil
	}
}

// While a request is held the tree is busy; unmounted by force, its client gets an error.
func TestForcedUnmount(t *testing.T) {
	s := serve(t)
	all := s.readers(t, 10)
	if err := unix.Unmount(s.dir, 0); !errors.Is(err, unix.EBUSY) {
		t.Fatalf("unmount of a tree in use: %v, want EBUSY", err)
	}
	// MNT_FORCE ends the connection, and then the tree may still be busy.
	if err := unix.Unmount(s.dir, unix.MNT_FORCE); err != nil && !errors.Is(err, unix.EBUSY) {
		t.Error(err)
	}
	for _, c := range all {
		if err := waitFor(t, c); err == nil {
			t.Error("a client has read what was never answered")
		}
	}
	s.wait(t)
	if n := s.interrupted.Load(); n != 10 {
		t.Errorf("%d requests were told of the end, want 10", n)
	}
}

// A tree that is detached while it is in use is served until nobody uses it any more.
func TestDetach(t *testing.T) {
	s := serve(t)
	f, err := os.Open(s.path("fast"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	all := s.readers(t, 4)
	if err := unix.Unmount(s.dir, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 4)
	if n, err := f.ReadAt(b, 0); n != 4 || err != nil {
		t.Errorf("a file that is open: %d bytes, %v", n, err)
	}
	select {
	case <-s.ended:
		t.Error("it ended while files were open")
	case <-time.After(50 * time.Millisecond):
	}
	for _, c := range all {
		_ = c.Process.Kill()
		_ = waitFor(t, c)
	}
	f.Close()
	s.wait(t)
}

// abort ends the connection of a mount as root does by hand.
func abort(t *testing.T, dir string) {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		t.Fatal(err)
	}
	control := t.TempDir()
	if err := unix.Mount("test", control, "fusectl", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Unmount(control, unix.MNT_DETACH) }()
	if err := os.WriteFile(filepath.Join(control, fmt.Sprint(unix.Minor(st.Dev)), "abort"), []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
}

func TestAbort(t *testing.T) {
	for _, held := range []int{0, 10} {
		t.Run(fmt.Sprintf("%d requests held", held), func(t *testing.T) {
			s := serve(t)
			all := s.readers(t, held)
			abort(t, s.dir)
			for _, c := range all {
				if err := waitFor(t, c); err == nil {
					t.Error("a client has read what was never answered")
				}
			}
			s.wait(t)
			if _, err := os.Stat(s.path("fast77")); !errors.Is(err, unix.ENOTCONN) {
				t.Errorf("afterwards: %v, want ENOTCONN", err)
			}
		})
	}
}

// The end comes while clients ask as fast as they can.
func TestEndInFullFlight(t *testing.T) {
	for n := range 10 {
		s := serve(t)
		for c := range 8 {
			s.client(t, fmt.Sprintf("sh -c 'i=0; while cat fast%d_ block >/dev/null 2>&1 || [ -e fast%d$i ]; do i=$((i+1)); done'", c, c))
		}
		time.Sleep(time.Duration(n) * 7 * time.Millisecond)
		if n%2 == 0 {
			abort(t, s.dir)
		} else if err := unix.Unmount(s.dir, unix.MNT_FORCE|unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
		s.wait(t)
	}
}

// A queue that cannot go on ends the connection: nobody waits for ever.
func TestFail(t *testing.T) {
	s := serve(t)
	all := s.readers(t, 10)
	s.srv.Fail(errors.New("as it should"))
	for _, c := range all {
		if err := waitFor(t, c); err == nil {
			t.Error("a client has read what was never answered")
		}
	}
	s.wait(t)
	if _, err := os.Stat(s.path("fast77")); !errors.Is(err, unix.ENOTCONN) {
		t.Errorf("afterwards: %v, want ENOTCONN", err)
	}
}

// Whatever CPU a client runs on, its queue is served, also by a thread of another CPU.
func TestOfflineCPU(t *testing.T) {
	uring.WithCPUs(t, 0)
	s := serve(t)
	for cpu := range runtime.NumCPU() {
		done := make(chan error)
		go func() {
			runtime.LockOSThread() // for good: the thread has only that CPU
			var set unix.CPUSet
			set.Set(cpu)
			err := unix.SchedSetaffinity(0, &set)
			for n := 0; err == nil && n < 100; n++ {
				_, err = read(s.path(fmt.Sprintf("fast%d", 100*cpu+n)))
			}
			done <- err
		}()
		if err := <-done; err != nil {
			t.Errorf("on CPU %d: %v", cpu, err)
		}
	}
	all := s.readers(t, 4*runtime.NumCPU())
	abort(t, s.dir)
	for _, c := range all {
		_ = waitFor(t, c)
	}
	s.wait(t)
}

// Those who wait, however many, keep nobody else from being served.
func TestManyWait(t *testing.T) {
	s := serve(t)
	all := s.readers(t, 300)
	for range 50 {
		if got, err := read(s.path("fast")); got != "fast" || err != nil {
			t.Fatalf("while others wait: %q %v", got, err)
		}
	}
	for _, c := range all {
		_ = c.Process.Signal(unix.SIGINT)
	}
	for _, c := range all {
		_ = waitFor(t, c)
	}
	if n := s.interrupted.Load(); n != 300 {
		t.Errorf("%d requests were told of the interrupt, want 300", n)
	}
}
