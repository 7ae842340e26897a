// Package uringtest lets tests use FUSE over io_uring on a machine where it is
// switched off, which root may change: it is on while a test process needs it,
// and then again what it was. A test package that calls Need has
//
//	func TestMain(m *testing.M) { os.Exit(uringtest.Main(m)) }
package uringtest

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"imagefs/fusefs/uring"
)

// lockFile is held, shared, by every test process that needs the setting on, and
// alone by the one that changes it. It has what the setting was before the first.
const lockFile = "/run/imagefs-test-enable_uring.lock"

var held struct {
	sync.Mutex
	lock *os.File
}

// Main runs a package's tests and puts the setting back.
func Main(m *testing.M) int {
	code := m.Run()
	if err := Release(); err != nil {
		fmt.Fprintln(os.Stderr, "FAIL: put back", uring.Setting, "-", err)
		return 1
	}
	return code
}

// Need skips the test unless FUSE over io_uring is there or can be switched on;
// in CI that is a failure.
func Need(t testing.TB) {
	t.Helper()
	err := SwitchOn()
	if err == nil {
		err = uring.Supported()
	}
	if err != nil {
		missing(t, "FUSE over io_uring: "+err.Error())
	}
}

// NeedRoot is Need for a test that mounts by itself, without fusermount.
func NeedRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		missing(t, "root, to mount")
	}
	Need(t)
}

// missing ends a test that cannot run here, which CI takes for a failure.
func missing(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatalf("needs %s", what)
	}
	t.Skipf("needs %s", what)
}

// SwitchOn has the setting on until Release. Who may not change it finds it as it is.
func SwitchOn() error {
	held.Lock()
	defer held.Unlock()
	if held.lock != nil || os.Geteuid() != 0 {
		return nil
	}
	if err := uring.Supported(); errors.Is(err, uring.ErrNone) {
		return err
	}
	f, err := os.OpenFile(lockFile, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	if err := change(f); err != nil {
		f.Close()
		return err
	}
	held.lock = f
	return nil
}

// change notes what the setting is and switches it on, unless another process has.
func change(f *os.File) error {
	for {
		err := flock(f, unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			break
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return err
		}
		if err := flock(f, unix.LOCK_SH); err != nil {
			return err
		}
		// Who changed it back a moment ago had it alone until now.
		if !errors.Is(uring.Supported(), uring.ErrOff) {
			return nil
		}
		if err := flock(f, unix.LOCK_UN); err != nil {
			return err
		}
	}
	was, err := os.ReadFile(uring.Setting)
	if err != nil {
		return err
	}
	// What a process that was killed noted is what was, not what it left.
	if noted, err := os.ReadFile(lockFile); err != nil || len(noted) == 0 {
		if err := os.WriteFile(lockFile, was, 0o600); err != nil {
			return err
		}
	}
	if err := os.WriteFile(uring.Setting, []byte("1"), 0); err != nil {
		return err
	}
	return flock(f, unix.LOCK_SH)
}

// Release puts the setting back, unless another process needs it.
func Release() error {
	held.Lock()
	defer held.Unlock()
	f := held.lock
	if f == nil {
		return nil
	}
	held.lock = nil
	defer f.Close()
	if err := flock(f, unix.LOCK_EX|unix.LOCK_NB); errors.Is(err, unix.EWOULDBLOCK) {
		return nil // the last one does
	} else if err != nil {
		return err
	}
	was, err := os.ReadFile(lockFile)
	if err != nil || len(was) == 0 {
		return err
	}
	if err := os.WriteFile(uring.Setting, []byte(strings.TrimSpace(string(was))), 0); err != nil {
		return err
	}
	return os.Truncate(lockFile, 0)
}

func flock(f *os.File, how int) error {
	for {
		if err := unix.Flock(int(f.Fd()), how); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
