package uring_test

import (
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"imagefs/fusefs/uring"
	"imagefs/fusefs/uring/uringtest"
)

func TestMain(m *testing.M) { os.Exit(uringtest.Main(m)) }

// patience is how long a test waits for what must happen.
const patience = 30 * time.Second

// Nodes of testFS: files in the root directory.
const (
	fileFast  = 2 // has "fast"
	fileBlock = 3 // a READ blocks until it is let go or interrupted, and gives "late"
	filePanic = 4 // a READ panics
)

var names = map[string]uint64{"fast": fileFast, "block": fileBlock, "panic": filePanic}

// testFS is a file system whose requests can be held.
type testFS struct {
	fuse.RawFileSystem
	blocked     atomic.Int64 // READs that wait
	interrupted atomic.Int64 // READs that were interrupted
	forgets     atomic.Int64
	letGo       chan struct{} // closed: no READ waits any more
	unmounted   atomic.Bool
}

func newTestFS() *testFS {
	return &testFS{RawFileSystem: fuse.NewDefaultRawFileSystem(), letGo: make(chan struct{})}
}

func (f *testFS) String() string                { return "test" }
func (f *testFS) OnUnmount()                    { f.unmounted.Store(true) }
func (f *testFS) Forget(nodeid, nlookup uint64) { f.forgets.Add(1) }

func attr(node uint64, out *fuse.Attr) {
	out.Ino, out.Nlink, out.Mode, out.Size = node, 1, fuse.S_IFREG|0o666, 1<<20
	if node == fuse.FUSE_ROOT_ID {
		out.Mode = fuse.S_IFDIR | 0o777
	}
}

func (f *testFS) Lookup(cancel <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	node := names[strings.TrimRight(name, "0123456789")]
	if node == 0 {
		return fuse.ENOENT
	}
	out.NodeId = node
	attr(node, &out.Attr)
	return fuse.OK
}

func (f *testFS) GetAttr(cancel <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	attr(in.NodeId, &out.Attr)
	return fuse.OK
}

func (f *testFS) Open(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	out.OpenFlags = fuse.FOPEN_DIRECT_IO
	return fuse.OK
}

func (f *testFS) Read(cancel <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	switch in.NodeId {
	case filePanic:
		panic("as it should")
	case fileBlock:
		f.blocked.Add(1)
		defer f.blocked.Add(-1)
		select {
		case <-f.letGo:
			return fuse.ReadResultData(buf[:copy(buf, "late")]), fuse.OK
		case <-cancel:
			f.interrupted.Add(1)
			return nil, fuse.EINTR
		}
	}
	return fuse.ReadResultData(buf[:copy(buf, "fast")]), fuse.OK
}

func give(dest []byte, value string) (uint32, fuse.Status) {
	if len(dest) < len(value) {
		return uint32(len(value)), fuse.ERANGE
	}
	return uint32(copy(dest, value)), fuse.OK
}

func (f *testFS) GetXAttr(cancel <-chan struct{}, h *fuse.InHeader, name string, dest []byte) (uint32, fuse.Status) {
	if name != "user.five" {
		return 0, fuse.ENOATTR
	}
	return give(dest, "value")
}

func (f *testFS) ListXAttr(cancel <-chan struct{}, h *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	return give(dest, "user.five\x00")
}

func (f *testFS) Write(cancel <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	for i, b := range data {
		if b != byte(i) {
			return 0, fuse.EIO
		}
	}
	return uint32(len(data)), fuse.OK
}

// quick are all requests but the READs that block.
func quick(h *fuse.InHeader) bool { return h.NodeId != fileBlock }

// served is a mounted testFS.
type served struct {
	*testFS
	srv   *uring.Server
	dir   string
	ended chan struct{}
}

// serve mounts a testFS for a test, at whose end nothing may be left of it.
func serve(t *testing.T) *served {
	t.Helper()
	uringtest.NeedRoot(t)
	before := runtime.NumGoroutine()
	s := &served{testFS: newTestFS(), dir: t.TempDir(), ended: make(chan struct{})}
	o := &fuse.MountOptions{FsName: "test", Name: "uringtest", DirectMountStrict: true, DirectMountFlags: unix.MS_NOSUID | unix.MS_NODEV, MaxWrite: 1 << 20,
		MaxBackground: 64, Logger: log.New(t.Output(), "", 0)}
	srv, err := uring.New(s.testFS, s.dir, o, uring.Options{Quick: quick})
	if err != nil {
		t.Fatal(err)
	}
	s.srv = srv
	go func() { srv.Serve(); close(s.ended) }()
	if err := srv.WaitMount(); err != nil {
		t.Error(err)
	}
	t.Cleanup(func() {
		_ = unix.Unmount(s.dir, unix.MNT_DETACH)
		s.wait(t)
		if !s.unmounted.Load() {
			t.Error("the file system was not told of its end")
		}
		eventually(t, "the goroutines are gone", func() bool { return runtime.NumGoroutine() <= before+1 })
		for _, what := range descriptors(t) {
			if strings.Contains(what, "/dev/fuse") || strings.Contains(what, "io_uring") {
				t.Errorf("left open: %s", what)
			}
		}
		for _, line := range strings.Split(text(t, "/proc/self/maps"), "\n") {
			if strings.Contains(line, "io_uring") {
				t.Errorf("left mapped: %s", line)
			}
		}
	})
	return s
}

// wait waits for the end of serving.
func (s *served) wait(t *testing.T) {
	t.Helper()
	select {
	case <-s.ended:
	case <-time.After(patience):
		buf := make([]byte, 1<<16)
		t.Fatalf("it does not end\n%s", buf[:runtime.Stack(buf, true)])
	}
}

func (s *served) path(name string) string { return filepath.Join(s.dir, name) }

// client runs a shell command in another process, in the background.
func (s *served) client(t *testing.T, command string) *exec.Cmd {
	t.Helper()
	// Not with the tree as its Dir: this process would then wait for itself while it forks.
	c := exec.Command("sh", "-c", `cd "$1" && exec `+command, "sh", s.dir)
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Process.Kill() })
	return c
}

// readers starts processes that read the file that blocks, each through a name
// of its own, and returns when their READs are held.
func (s *served) readers(t *testing.T, n int) (all []*exec.Cmd) {
	t.Helper()
	for i := range n {
		all = append(all, s.client(t, fmt.Sprintf("cat block%d", i)))
	}
	eventually(t, fmt.Sprintf("%d READs wait", n), func() bool { return s.blocked.Load() == int64(n) })
	return all
}

func descriptors(t *testing.T) (out []string) {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if to, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil {
			out = append(out, to)
		}
	}
	return out
}

func text(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Error(err)
	}
	return string(b)
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not so after %s: %s", patience, what)
		}
	}
}

// read reads a little of a file, in this process.
func read(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b := make([]byte, 16)
	n, err := f.Read(b)
	if err == io.EOF {
		err = nil
	}
	return string(b[:n]), err
}

func TestReadAndWrite(t *testing.T) {
	s := serve(t)
	if got, err := read(s.path("fast")); got != "fast" || err != nil {
		t.Errorf("%q %v", got, err)
	}
	if _, err := os.Stat(s.path("nothing")); !errors.Is(err, unix.ENOENT) {
		t.Errorf("what is not there: %v", err)
	}
	if got, err := read(s.path("panic")); !errors.Is(err, unix.EIO) {
		t.Errorf("a panic: %q %v, want EIO", got, err)
	}
	f, err := os.OpenFile(s.path("fast"), os.O_WRONLY, 0)
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
}

// Requests that are held hold up no other, on no CPU.
func TestSlowHoldsUpNoOther(t *testing.T) {
	s := serve(t)
	all := s.readers(t, 12*runtime.NumCPU())
	for n := range 100 {
		if got, err := read(s.path(fmt.Sprintf("fast%d", n))); got != "fast" || err != nil {
			t.Fatalf("%q %v", got, err)
		}
	}
	close(s.letGo)
	for _, c := range all {
		// cat then reads on, to the end that is not there: it is let go by its pipe's end.
		_ = c.Process.Kill()
		_ = c.Wait()
	}
}

// More requests at once than a queue has entries wait for their turn.
func TestMoreThanEntries(t *testing.T) {
	s := serve(t)
	const n = 300
	results := make(chan error, n)
	for i := range n {
		go func() {
			got, err := read(s.path(fmt.Sprintf("block%d", i)))
			if err == nil && got != "late" {
				err = fmt.Errorf("read %q", got)
			}
			results <- err
		}()
	}
	eventually(t, "some READs wait", func() bool { return s.blocked.Load() >= 16 })
	close(s.letGo)
	for range n {
		select {
		case err := <-results:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(patience):
			t.Fatal("a read does not end")
		}
	}
}

func TestManyClients(t *testing.T) {
	s := serve(t)
	var wg sync.WaitGroup
	for c := range 32 {
		wg.Go(func() {
			for n := range 200 {
				name := fmt.Sprintf("fast%d", c*1000+n)
				if got, err := read(s.path(name)); got != "fast" || err != nil {
					t.Errorf("%s: %q %v", name, got, err)
					return
				}
				if _, err := os.Stat(s.path(fmt.Sprintf("none%d", n))); !errors.Is(err, unix.ENOENT) {
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
			s.srv.EntryNotify(fuse.FUSE_ROOT_ID, fmt.Sprintf("fast%d", c*1000+n))
		}
	}
	eventually(t, "an inode is forgotten", func() bool { return s.forgets.Load() > 0 })
}

// An attribute's size can be asked for, and its value with room for it or not.
func TestXattr(t *testing.T) {
	s := serve(t)
	b := make([]byte, 100)
	for _, c := range []struct {
		size, want int
		err        error
	}{{0, 5, nil}, {4, 0, unix.ERANGE}, {5, 5, nil}, {100, 5, nil}} {
		n, err := unix.Getxattr(s.path("fast"), "user.five", b[:c.size])
		if max(n, 0) != c.want || !errors.Is(err, c.err) || c.size >= 5 && string(b[:n]) != "value" {
			t.Errorf("room for %d: %d %q, %v", c.size, n, b[:max(n, 0)], err)
		}
	}
	if _, err := unix.Getxattr(s.path("fast"), "user.none", b); !errors.Is(err, unix.ENODATA) {
		t.Errorf("none: %v", err)
	}
	for size, want := range map[int]int{0: 10, 100: 10} {
		if n, err := unix.Listxattr(s.path("fast"), b[:size]); n != want || err != nil || size > 0 && string(b[:n]) != "user.five\x00" {
			t.Errorf("list with room for %d: %d %q, %v", size, n, b[:max(n, 0)], err)
		}
	}
}
