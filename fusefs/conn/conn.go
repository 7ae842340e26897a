package conn

import (
	"fmt"
	"log"
	"os"
	"os/exec"
	"runtime/debug"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// initTime is how long the kernel is given to greet.
const initTime = 10 * time.Second

// Options of New, beside those of the mount.
type Options struct {
	// Quick tells whether the file system answers a request without waiting for
	// anything but, perhaps, a disk. It is called for each request, with its
	// opcode in the header. nil: none is quick.
	Quick func(h *fuse.InHeader) bool
	// Poll tells which of the events of poll(2) a file has. nil: every file is
	// always ready, which the kernel then does not ask for. A process that asks
	// so itself for a file of its own tree can wait for itself for ever, and the
	// runtime does for what package os opens.
	Poll func(in *PollIn) (events uint32)
	// Apart says that this process opens no file of its own tree.
	Apart bool
	// Connected, if set, is called before the first request is served.
	Connected func(c *Conn)
}

// Conn is a connection. Once it is mounted, its methods may be called at any
// time, by anybody, unless they say otherwise.
type Conn struct {
	FS   fuse.RawFileSystem
	Opts fuse.MountOptions // with defaults; MaxWrite may be changed before Mount
	// Work are the goroutines that answer requests.
	Work sync.WaitGroup

	dir      string
	reader   Reader // FS, if it is one
	quick    func(h *fuse.InHeader) bool
	pollFile func(in *PollIn) uint32 // nil: see Options
	apart    bool
	told     func(c *Conn)
	proto    *fuse.ProtocolServer

	dev    *os.File
	raw    syscall.RawConn
	kernel fuse.InitIn

	active     active
	interrupts interrupts
}

// New prepares a connection of a file system that is to be mounted at dir.
func New(fs fuse.RawFileSystem, dir string, o *fuse.MountOptions, u Options) *Conn {
	c := &Conn{FS: fs, Opts: *o, dir: dir, quick: u.Quick, pollFile: u.Poll, apart: u.Apart, told: u.Connected}
	c.reader, _ = fs.(Reader)
	if c.quick == nil {
		c.quick = func(*fuse.InHeader) bool { return false }
	}
	if c.told == nil {
		c.told = func(*Conn) {}
	}
	if c.Opts.Logger == nil {
		c.Opts.Logger = log.Default()
	}
	if c.Opts.PanicHandler == nil {
		c.Opts.PanicHandler = func(what any) fuse.Status {
			c.Opts.Logger.Printf("panic: %v\n%s", what, debug.Stack())
			return fuse.EIO
		}
	}
	return c
}

// Mount attaches the connection to its directory and answers the kernel's
// greeting, if accept agrees to what the kernel can. With block, reads of the
// device block in the kernel, else the runtime waits for it. When it fails
// nothing is mounted.
func (c *Conn) Mount(block bool, accept func(kernel *fuse.InitIn) error) error {
	c.proto = fuse.NewProtocolServer(c.FS, &c.Opts)
	fd, err := mount(c.dir, &c.Opts)
	if err != nil {
		return err
	}
	if err := unix.SetNonblock(fd, !block); err != nil {
		_ = unix.Close(fd)
		c.Unmount()
		return err
	}
	// What blocks is not polled by the runtime, which each request would wake up for nothing.
	c.dev = os.NewFile(uintptr(fd), "/dev/fuse")
	if c.raw, err = c.dev.SyscallConn(); err == nil {
		err = c.greet(fd, accept)
	}
	if err != nil {
		c.Unmount()
		c.Close()
		return err
	}
	c.told(c)
	return nil
}

// Unmount takes away a mount that nobody has seen working; Close is to follow.
func (c *Conn) Unmount() {
	if c.Opts.DirectMountStrict {
		_ = unix.Unmount(c.dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		return
	}
	if program, err := helper(); err == nil {
		_ = exec.Command(program, "-u", "-z", "-q", "--", c.dir).Run()
	}
}

// Close closes the device, which ends the connection.
func (c *Conn) Close() { c.dev.Close() }

// greet answers INIT.
func (c *Conn) greet(fd int, accept func(*fuse.InitIn) error) error {
	in, out := make([]byte, 64<<10+c.Opts.MaxWrite), make([]byte, 4096)
	n, err := 0, error(unix.EAGAIN)
	for end := time.Now().Add(initTime); again(err); {
		left := time.Until(end)
		if left <= 0 {
			return fmt.Errorf("wait for INIT: %w", unix.ETIMEDOUT)
		}
		if _, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(left.Milliseconds())+1); err == nil {
			n, err = unix.Read(fd, in)
		}
	}
	if err != nil {
		return fmt.Errorf("wait for INIT: %w", err)
	}
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&c.kernel)), unsafe.Sizeof(c.kernel)), in[:n])
	if c.kernel.Opcode != OpInit || n < 64 {
		return fmt.Errorf("wait for INIT: %w", unix.EPROTO)
	}
	if err := accept(&c.kernel); err != nil {
		return err
	}
	n, st := c.proto.HandleRequest([][]byte{in[:n]}, [][]byte{out})
	if st != fuse.OK || n == 0 {
		return fmt.Errorf("answer INIT: %w", syscall.Errno(st))
	}
	if _, err := unix.Write(fd, out[:n]); err != nil {
		return fmt.Errorf("answer INIT: %w", err)
	}
	return nil
}

func again(err error) bool { return err == unix.EAGAIN || err == unix.EINTR }

// Device returns the open device.
func (c *Conn) Device() *os.File { return c.dev }

// FD returns the device's descriptor, which stays open until End or Close.
func (c *Conn) FD() (fd int, err error) {
	err = c.raw.Control(func(n uintptr) { fd = int(n) })
	return fd, err
}

// KernelSettings returns what the kernel said in INIT.
func (c *Conn) KernelSettings() *fuse.InitIn {
	k := c.kernel
	return &k
}

// Cancel interrupts all requests that goroutines answer: nobody waits for them any more.
func (c *Conn) Cancel() {
	for _, unique := range c.active.all() {
		c.tryInterrupt(unique)
	}
}

// End ends what is left when the tree is unmounted and nothing brings requests any more.
func (c *Conn) End() {
	c.Work.Wait()
	c.interrupts.stop()
	c.Close()
	c.FS.OnUnmount()
}

// WaitMount returns when the tree can be used by this process too; it is served already.
func (c *Conn) WaitMount() error {
	if c.pollFile != nil || c.apart {
		return nil
	}
	// The runtime polls what it opens, in the one way that the file system must
	// not be asked while it does: POLL is declined once, before it can happen.
	fd, err := unix.Open(c.dir+"/.go-fuse-epoll-hack", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN | unix.POLLOUT}}, 0)
	return nil
}
