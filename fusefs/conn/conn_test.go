package conn_test

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"imagefs/fusefs/conn"
	"imagefs/fusefs/conn/conntest"
	"imagefs/fusefs/dev"
	"imagefs/fusefs/uring"
	"imagefs/fusefs/uring/uringtest"
)

func TestMain(m *testing.M) { os.Exit(uringtest.Main(m)) }

// overBoth runs a test over each transport.
func overBoth(t *testing.T, test func(t *testing.T, serve func(*testing.T) *conntest.Served)) {
	for name, start := range map[string]conntest.Start{
		"dev": func(fs fuse.RawFileSystem, dir string, o *fuse.MountOptions, u conn.Options) (conntest.Server, error) {
			return dev.New(fs, dir, o, u)
		},
		"io_uring": func(fs fuse.RawFileSystem, dir string, o *fuse.MountOptions, u conn.Options) (conntest.Server, error) {
			return uring.New(fs, dir, o, u)
		},
	} {
		t.Run(name, func(t *testing.T) {
			uringtest.NeedRoot(t)
			test(t, func(t *testing.T) *conntest.Served { t.Helper(); return conntest.Serve(t, start) })
		})
	}
}

func TestReadAndWrite(t *testing.T) {
	overBoth(t, func(t *testing.T, serve func(*testing.T) *conntest.Served) {
		s := serve(t)
		if got, err := conntest.Read(s.Path("fast")); got != "fast" || err != nil {
			t.Errorf("%q %v", got, err)
		}
		if _, err := os.Stat(s.Path("nothing")); !errors.Is(err, unix.ENOENT) {
			t.Errorf("what is not there: %v", err)
		}
		if got, err := conntest.Read(s.Path("panic")); !errors.Is(err, unix.EIO) {
			t.Errorf("a panic: %q %v, want EIO", got, err)
		}
		f, err := os.OpenFile(s.Path("fast"), os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		data := make([]byte, 1<<20)
		for i := range data {
			data[i] = byte(i)
		}
		// Sizes around a page and around the largest request.
		for _, n := range []int{1, 4095, 4096, 4097, 256<<10 - 1, 256 << 10, 256<<10 + 1, 1 << 20} {
			if got, err := f.WriteAt(data[:n], 0); got != n || err != nil {
				t.Errorf("write of %d bytes: %d, %v", n, got, err)
			}
		}
		b := make([]byte, 1<<20)
		if n, err := f.Read(b); err == nil {
			t.Errorf("read %d bytes of what is open for writing", n)
		}
	})
}

// Requests that are held hold up no other, on no CPU.
func TestSlowHoldsUpNoOther(t *testing.T) {
	overBoth(t, func(t *testing.T, serve func(*testing.T) *conntest.Served) {
		s := serve(t)
		all := s.Readers(t, 12*runtime.NumCPU())
		for n := range 100 {
			if got, err := conntest.Read(s.Path(fmt.Sprintf("fast%d", n))); got != "fast" || err != nil {
				t.Fatalf("%q %v", got, err)
			}
		}
		close(s.LetGo)
		for _, c := range all {
			// cat then reads on, to the end that is not there: it is let go by its pipe's end.
			_ = c.Process.Kill()
			_ = c.Wait()
		}
	})
}

// More requests at once than a queue has entries wait for their turn.
func TestMoreThanEntries(t *testing.T) {
	overBoth(t, func(t *testing.T, serve func(*testing.T) *conntest.Served) {
		s := serve(t)
		const n = 300
		results := make(chan error, n)
		for i := range n {
			go func() {
				got, err := conntest.Read(s.Path(fmt.Sprintf("block%d", i)))
				if err == nil && got != "late" {
					err = fmt.Errorf("read %q", got)
				}
				results <- err
			}()
		}
		conntest.Eventually(t, "some READs wait", func() bool { return s.Blocked.Load() >= 16 })
		close(s.LetGo)
		for range n {
			select {
			case err := <-results:
				if err != nil {
					t.Error(err)
				}
			case <-time.After(conntest.Patience):
				t.Fatal("a read does not end")
			}
		}
	})
}

func TestManyClients(t *testing.T) {
	overBoth(t, func(t *testing.T, serve func(*testing.T) *conntest.Served) {
		s := serve(t)
		var wg sync.WaitGroup
		for c := range 32 {
			wg.Go(func() {
				for n := range 200 {
					name := fmt.Sprintf("fast%d", c*1000+n)
					if got, err := conntest.Read(s.Path(name)); got != "fast" || err != nil {
						t.Errorf("%s: %q %v", name, got, err)
						return
					}
					if _, err := os.Stat(s.Path(fmt.Sprintf("none%d", n))); !errors.Is(err, unix.ENOENT) {
						t.Errorf("what is not there: %v", err)
						return
					}
				}
			})
		}
		wg.Wait()
		// A notice makes the kernel forget the names, and with the last of them the inode.
		for c := range 32 {
			for n := range 200 {
				s.Server.EntryNotify(fuse.FUSE_ROOT_ID, fmt.Sprintf("fast%d", c*1000+n))
			}
		}
		conntest.Eventually(t, "an inode is forgotten", func() bool { return s.Forgets.Load() > 0 })
	})
}

// An attribute's size can be asked for, and its value with room for it or not.
func TestXattr(t *testing.T) {
	overBoth(t, func(t *testing.T, serve func(*testing.T) *conntest.Served) {
		s := serve(t)
		b := make([]byte, 100)
		for _, c := range []struct {
			size, want int
			err        error
		}{{0, 5, nil}, {4, 0, unix.ERANGE}, {5, 5, nil}, {100, 5, nil}} {
			n, err := unix.Getxattr(s.Path("fast"), "user.five", b[:c.size])
			if max(n, 0) != c.want || !errors.Is(err, c.err) || c.size >= 5 && string(b[:n]) != "value" {
				t.Errorf("room for %d: %d %q, %v", c.size, n, b[:max(n, 0)], err)
			}
		}
		if _, err := unix.Getxattr(s.Path("fast"), "user.none", b); !errors.Is(err, unix.ENODATA) {
			t.Errorf("none: %v", err)
		}
		for size, want := range map[int]int{0: 10, 100: 10} {
			if n, err := unix.Listxattr(s.Path("fast"), b[:size]); n != want || err != nil || size > 0 && string(b[:n]) != "user.five\x00" {
				t.Errorf("list with room for %d: %d %q, %v", size, n, b[:max(n, 0)], err)
			}
		}
	})
}

// A client that gets a signal is told so, and the request's cancel channel closes.
func TestInterrupt(t *testing.T) {
	overBoth(t, func(t *testing.T, serve func(*testing.T) *conntest.Served) {
		for _, sig := range []syscall.Signal{unix.SIGINT, unix.SIGKILL} {
			t.Run(unix.SignalName(sig), func(t *testing.T) {
				s := serve(t)
				for n, c := range s.Readers(t, 20) {
					_ = c.Process.Signal(sig)
					if n%2 == 0 {
						continue // several at once, and one by one
					}
					conntest.Eventually(t, "an interrupt", func() bool { return s.Interrupted.Load() > int64(n)-1 })
				}
				conntest.Eventually(t, "all interrupts", func() bool { return s.Interrupted.Load() == 20 && s.Blocked.Load() == 0 })
				if got, err := conntest.Read(s.Path("fast")); got != "fast" || err != nil {
					t.Errorf("afterwards: %q %v", got, err)
				}
			})
		}
	})
}

// An interrupt that overtakes its request, or comes right after it, is not lost.
func TestInterruptAtOnce(t *testing.T) {
	overBoth(t, func(t *testing.T, serve func(*testing.T) *conntest.Served) {
		s := serve(t)
		for n := range 100 {
			c := s.Client(t, fmt.Sprintf("cat block%d", n))
			conntest.Eventually(t, "the READ is there", func() bool { return s.Blocked.Load() > 0 })
			_ = c.Process.Signal(unix.SIGINT)
			conntest.Eventually(t, "the READ is over", func() bool { return s.Blocked.Load() == 0 })
			_ = c.Wait()
		}
	})
}

// While a request is held the tree is busy; unmounted by force, its client gets an error.
func TestForcedUnmount(t *testing.T) {
	overBoth(t, func(t *testing.T, serve func(*testing.T) *conntest.Served) {
		s := serve(t)
		all := s.Readers(t, 10)
		if err := unix.Unmount(s.Dir, 0); !errors.Is(err, unix.EBUSY) {
			t.Fatalf("unmount of a tree in use: %v, want EBUSY", err)
		}
		// MNT_FORCE ends the connection, and then the tree may still be busy.
		if err := unix.Unmount(s.Dir, unix.MNT_FORCE); err != nil && !errors.Is(err, unix.EBUSY) {
			t.Error(err)
		}
		for _, c := range all {
			if err := conntest.WaitFor(t, c); err == nil {
				t.Error("a client has read what was never answered")
			}
		}
		s.Wait(t)
		if n := s.Interrupted.Load(); n != 10 {
			t.Errorf("%d requests were told of the end, want 10", n)
		}
	})
}

// A tree that is detached while it is in use is served until nobody uses it any more.
func TestDetach(t *testing.T) {
	overBoth(t, func(t *testing.T, serve func(*testing.T) *conntest.Served) {
		s := serve(t)
		f, err := os.Open(s.Path("fast"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		all := s.Readers(t, 4)
		if err := unix.Unmount(s.Dir, unix.MNT_DETACH); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 4)
		if n, err := f.ReadAt(b, 0); n != 4 || err != nil {
			t.Errorf("a file that is open: %d bytes, %v", n, err)
		}
		select {
		case <-s.Ended:
			t.Error("it ended while files were open")
		case <-time.After(50 * time.Millisecond):
		}
		for _, c := range all {
			_ = c.Process.Kill()
			_ = conntest.WaitFor(t, c)
		}
		f.Close()
		s.Wait(t)
	})
}

func TestAbort(t *testing.T) {
	overBoth(t, func(t *testing.T, serve func(*testing.T) *conntest.Served) {
		for _, held := range []int{0, 10} {
			t.Run(fmt.Sprintf("%d requests held", held), func(t *testing.T) {
				s := serve(t)
				all := s.Readers(t, held)
				conntest.Abort(t, s.Dir)
				for _, c := range all {
					if err := conntest.WaitFor(t, c); err == nil {
						t.Error("a client has read what was never answered")
					}
				}
				s.Wait(t)
				if _, err := os.Stat(s.Path("fast77")); !errors.Is(err, unix.ENOTCONN) {
					t.Errorf("afterwards: %v, want ENOTCONN", err)
				}
			})
		}
	})
}

// The end comes while clients ask as fast as they can.
func TestEndInFullFlight(t *testing.T) {
	overBoth(t, func(t *testing.T, serve func(*testing.T) *conntest.Served) {
		for n := range 10 {
			s := serve(t)
			for c := range 8 {
				s.Client(t, fmt.Sprintf("sh -c 'i=0; while cat fast%d_ block >/dev/null 2>&1 || [ -e fast%d$i ]; do i=$((i+1)); done'", c, c))
			}
			time.Sleep(time.Duration(n) * 7 * time.Millisecond)
			if n%2 == 0 {
				conntest.Abort(t, s.Dir)
			} else if err := unix.Unmount(s.Dir, unix.MNT_FORCE|unix.MNT_DETACH); err != nil {
				t.Error(err)
			}
			s.Wait(t)
		}
	})
}

// Those who wait, however many, keep nobody else from being served.
func TestManyWait(t *testing.T) {
	overBoth(t, func(t *testing.T, serve func(*testing.T) *conntest.Served) {
		s := serve(t)
		all := s.Readers(t, 300)
		for range 50 {
			if got, err := conntest.Read(s.Path("fast")); got != "fast" || err != nil {
				t.Fatalf("while others wait: %q %v", got, err)
			}
		}
		for _, c := range all {
			_ = c.Process.Signal(unix.SIGINT)
		}
		for _, c := range all {
			_ = conntest.WaitFor(t, c)
		}
		if n := s.Interrupted.Load(); n != 300 {
			t.Errorf("%d requests were told of the interrupt, want 300", n)
		}
	})
}
