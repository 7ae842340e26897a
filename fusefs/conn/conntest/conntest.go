// Package conntest has a file system whose requests can be held, to test transports with.
package conntest

import (
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"imagefs/fusefs/conn"
)

// Patience is how long a test waits for what must happen.
const Patience = 30 * time.Second

// Nodes of FS: files in the root directory.
const (
	fileFast  = 2 // has "fast"
	fileBlock = 3 // a READ blocks until it is let go or interrupted, and gives "late"
	filePanic = 4 // a READ panics
)

var names = map[string]uint64{"fast": fileFast, "block": fileBlock, "panic": filePanic}

// FS is a file system whose requests can be held.
type FS struct {
	fuse.RawFileSystem
	Blocked     atomic.Int64 // READs that wait
	Interrupted atomic.Int64 // READs that were interrupted
	Forgets     atomic.Int64
	LetGo       chan struct{} // closed: no READ waits any more
	unmounted   atomic.Bool
}

func newFS() *FS {
	return &FS{RawFileSystem: fuse.NewDefaultRawFileSystem(), LetGo: make(chan struct{})}
}

func (f *FS) String() string                { return "test" }
func (f *FS) OnUnmount()                    { f.unmounted.Store(true) }
func (f *FS) Forget(nodeid, nlookup uint64) { f.Forgets.Add(1) }

func attr(node uint64, out *fuse.Attr) {
	out.Ino, out.Nlink, out.Mode, out.Size = node, 1, fuse.S_IFREG|0o666, 1<<20
	if node == fuse.FUSE_ROOT_ID {
		out.Mode = fuse.S_IFDIR | 0o777
	}
}

func (f *FS) Lookup(cancel <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	node := names[strings.TrimRight(name, "0123456789")]
	if node == 0 {
		return fuse.ENOENT
	}
	out.NodeId = node
	attr(node, &out.Attr)
	return fuse.OK
}

func (f *FS) GetAttr(cancel <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	attr(in.NodeId, &out.Attr)
	return fuse.OK
}

func (f *FS) Open(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	out.OpenFlags = fuse.FOPEN_DIRECT_IO
	return fuse.OK
}

func (f *FS) Read(cancel <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	switch in.NodeId {
	case filePanic:
		panic("as it should")
	case fileBlock:
		f.Blocked.Add(1)
		defer f.Blocked.Add(-1)
		select {
		case <-f.LetGo:
			return fuse.ReadResultData(buf[:copy(buf, "late")]), fuse.OK
		case <-cancel:
			f.Interrupted.Add(1)
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

func (f *FS) GetXAttr(cancel <-chan struct{}, h *fuse.InHeader, name string, dest []byte) (uint32, fuse.Status) {
	if name != "user.five" {
		return 0, fuse.ENOATTR
	}
	return give(dest, "value")
}

func (f *FS) ListXAttr(cancel <-chan struct{}, h *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	return give(dest, "user.five\x00")
}

func (f *FS) Write(cancel <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	for i, b := range data {
		if b != byte(i) {
			return 0, fuse.EIO
		}
	}
	return uint32(len(data)), fuse.OK
}

// quick are all requests but the READs that block.
func quick(h *fuse.InHeader) bool { return h.NodeId != fileBlock }

// served is a mounted FS.
type Served struct {
	*FS
	Server Server
	Dir    string
	Ended  chan struct{} // closed when Serve has returned
}

// Server is what both transports have.
type Server interface {
	Serve()
	WaitMount() error
	EntryNotify(parent uint64, name string) fuse.Status
}

// Start mounts and returns a server.
type Start func(fs fuse.RawFileSystem, dir string, o *fuse.MountOptions, u conn.Options) (Server, error)

// Serve mounts an FS for a test as start does, at whose end nothing may be left of it.
func Serve(t *testing.T, start Start) *Served {
	t.Helper()
	before := runtime.NumGoroutine()
	s := &Served{FS: newFS(), Dir: t.TempDir(), Ended: make(chan struct{})}
	o := &fuse.MountOptions{FsName: "test", Name: "conntest", DirectMountStrict: true, DirectMountFlags: unix.MS_NOSUID | unix.MS_NODEV, MaxWrite: 1 << 20,
		MaxBackground: 64, Logger: log.New(t.Output(), "", 0)}
	var err error
	if s.Server, err = start(s.FS, s.Dir, o, conn.Options{Quick: quick}); err != nil {
		t.Fatal(err)
	}
	go func() { s.Server.Serve(); close(s.Ended) }()
	if err := s.Server.WaitMount(); err != nil {
		t.Error(err)
	}
	t.Cleanup(func() {
		_ = unix.Unmount(s.Dir, unix.MNT_DETACH)
		s.Wait(t)
		if !s.unmounted.Load() {
			t.Error("the file system was not told of its end")
		}
		Eventually(t, "the goroutines are gone", func() bool { return runtime.NumGoroutine() <= before+1 })
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

// Wait waits for the end of serving.
func (s *Served) Wait(t *testing.T) {
	t.Helper()
	select {
	case <-s.Ended:
	case <-time.After(Patience):
		buf := make([]byte, 1<<16)
		t.Fatalf("it does not end\n%s", buf[:runtime.Stack(buf, true)])
	}
}

func (s *Served) Path(name string) string { return filepath.Join(s.Dir, name) }

// Client runs a shell command in another process, in the background.
func (s *Served) Client(t *testing.T, command string) *exec.Cmd {
	t.Helper()
	// Not with the tree as its Dir: this process would then wait for itself while it forks.
	c := exec.Command("sh", "-c", `cd "$1" && exec `+command, "sh", s.Dir)
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Process.Kill() })
	return c
}

// Readers starts processes that read the file that blocks, each through a name
// of its own, and returns when their READs are held.
func (s *Served) Readers(t *testing.T, n int) (all []*exec.Cmd) {
	t.Helper()
	for i := range n {
		all = append(all, s.Client(t, fmt.Sprintf("cat block%d", i)))
	}
	Eventually(t, fmt.Sprintf("%d READs wait", n), func() bool { return s.Blocked.Load() == int64(n) })
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

func Eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(Patience); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not so after %s: %s", Patience, what)
		}
	}
}

// Read reads a little of a file, in this process.
func Read(path string) (string, error) {
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

// WaitFor waits for the end of a client and returns how it ended.
func WaitFor(t *testing.T, c *exec.Cmd) error {
	t.Helper()
	ended := make(chan error, 1)
	go func() { ended <- c.Wait() }()
	select {
	case err := <-ended:
		return err
	case <-time.After(Patience):
		t.Fatal("a client does not end")
		return nil
	}
}

// Abort ends the connection of a mount as root does by hand.
func Abort(t *testing.T, dir string) {
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
