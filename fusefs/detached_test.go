package fusefs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"imagefs/store/storetest"
)

// When the mount table cannot be polled the watch ends, and leaves nothing open.
func TestWatchMountFails(t *testing.T) {
	storetest.NeedRoot(t)
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	held, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	was := pipes(t)
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	// poll(2) fails if it is given more files than a process may have.
	err = watchMount(context.Background(), fmt.Sprintf("/proc/self/fd/%d/.", held.Fd()), func() {
		_ = unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 1, Max: limit.Max})
	})
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if !errors.Is(err, unix.EINVAL) {
		t.Errorf("got %v, want that poll failed", err)
	}
	if is := pipes(t); is != was {
		t.Errorf("%d ends of pipes are open, %d were", is, was)
	}
}

// pipes counts the ends of pipes that this process has open.
func pipes(t *testing.T) (n int) {
	t.Helper()
	all, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range all {
		if to, _ := os.Readlink(fd); strings.HasPrefix(to, "pipe:") {
			n++
		}
	}
	return n
}
