package uring_test

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"imagefs/fusefs/conn"
	"imagefs/fusefs/conn/conntest"
	"imagefs/fusefs/uring"
	"imagefs/fusefs/uring/uringtest"
)

func TestMain(m *testing.M) { os.Exit(uringtest.Main(m)) }

// What both transports have is tested in package conn.

func serve(t *testing.T) *conntest.Served {
	t.Helper()
	uringtest.NeedRoot(t)
	return conntest.Serve(t, func(fs fuse.RawFileSystem, dir string, o *fuse.MountOptions, u conn.Options) (conntest.Server, error) {
		return uring.New(fs, dir, o, u)
	})
}

// A queue that cannot go on ends the connection: nobody waits for ever.
func TestFail(t *testing.T) {
	s := serve(t)
	all := s.Readers(t, 10)
	s.Server.(*uring.Server).Fail(errors.New("as it should"))
	for _, c := range all {
		if err := conntest.WaitFor(t, c); err == nil {
			t.Error("a client has read what was never answered")
		}
	}
	s.Wait(t)
	if _, err := os.Stat(s.Path("fast77")); !errors.Is(err, unix.ENOTCONN) {
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
				_, err = conntest.Read(s.Path(fmt.Sprintf("fast%d", 100*cpu+n)))
			}
			done <- err
		}()
		if err := <-done; err != nil {
			t.Errorf("on CPU %d: %v", cpu, err)
		}
	}
	all := s.Readers(t, 4*runtime.NumCPU())
	conntest.Abort(t, s.Dir)
	for _, c := range all {
		_ = conntest.WaitFor(t, c)
	}
	s.Wait(t)
}
