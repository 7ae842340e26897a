package uring

import (
	"errors"
	"fmt"
	"log"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

const (
	// maxPayload bounds the largest read and write, in bytes: each entry has as
	// much memory, of which only what is used is real.
	maxPayload = 256 << 10
	// initTime is how long the kernel is given to greet.
	initTime = 10 * time.Second
)

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
	// Connected, if set, is called before the first request is served.
	Connected func(s *Server)
}

// Server is a mounted file system that is served over io_uring. Its methods but
// Serve and WaitMount may be called at any time, by anybody.
type Server struct {
	dir      string
	fs       fuse.RawFileSystem
	opts     fuse.MountOptions
	quick    func(h *fuse.InHeader) bool
	pollFile func(in *PollIn) uint32 // nil: see Options
	proto    *fuse.ProtocolServer

	dev    *os.File
	conn   syscall.RawConn
	devFD  int // of dev, for as long as a queue's thread lives
	kernel fuse.InitIn

	queues  []*queue
	threads sync.WaitGroup // of the queues
	work    sync.WaitGroup // requests that goroutines answer
	down    atomic.Int64   // since when the connection is no more, in Unix nanoseconds; 0: it is
	failed  atomic.Bool    // the connection is to be ended from this side

	active     active
	interrupts interrupts
}

// New mounts a file system at dir. Any error that wraps ErrUnavailable means that
// it can be served over the device all the same; nothing is mounted then.
func New(fs fuse.RawFileSystem, dir string, o *fuse.MountOptions, u Options) (*Server, error) {
	if err := Supported(); err != nil {
		return nil, err
	}
	s := &Server{dir: dir, fs: fs, opts: *o, quick: u.Quick, pollFile: u.Poll}
	if s.quick == nil {
		s.quick = func(*fuse.InHeader) bool { return false }
	}
	if s.opts.Logger == nil {
		s.opts.Logger = log.Default()
	}
	if s.opts.PanicHandler == nil {
		s.opts.PanicHandler = func(what any) fuse.Status {
			s.opts.Logger.Printf("panic: %v\n%s", what, debug.Stack())
			return fuse.EIO
		}
	}
	s.opts.MaxWrite = min(s.opts.MaxWrite, maxPayload, pagesLimit()*os.Getpagesize())
	s.opts.ExtraCapabilities |= fuse.CAP_OVER_IO_URING
	s.proto = fuse.NewProtocolServer(fs, &s.opts)
	// The rings come first: after the greeting there is no way back to the device alone.
	if err := s.makeQueues(); err != nil {
		s.endQueues()
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	var err error
	if s.dev, err = mount(dir, &s.opts); err == nil {
		s.conn, err = s.dev.SyscallConn()
	}
	if err != nil {
		s.endQueues()
		return nil, err
	}
	if err = s.greet(); err == nil {
		if u.Connected != nil {
			u.Connected(s)
		}
		err = s.register()
	}
	if err != nil {
		unmount(dir, &s.opts)
		s.endQueues()
		s.dev.Close()
		return nil, err
	}
	return s, nil
}

// pagesLimit is the kernel's limit of a request, in pages.
func pagesLimit() int {
	const usual = 256
	b, err := os.ReadFile("/proc/sys/fs/fuse/max_pages_limit")
	if err != nil {
		return usual
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || n < 1 {
		return usual
	}
	return n
}

// payload is the size of an entry's payload: what the kernel wants of it at least, in whole pages.
func (s *Server) payload() int {
	page := os.Getpagesize()
	return max(8192, (s.opts.MaxWrite+page-1)/page*page)
}

// greet answers INIT.
func (s *Server) greet() error {
	_ = s.dev.SetReadDeadline(time.Now().Add(initTime))
	defer func() { _ = s.dev.SetReadDeadline(time.Time{}) }()
	in, out := make([]byte, 64<<10+s.opts.MaxWrite), make([]byte, 4096)
	n, err := s.dev.Read(in)
	if err != nil {
		return fmt.Errorf("wait for INIT: %w", err)
	}
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&s.kernel)), unsafe.Sizeof(s.kernel)), in[:n])
	if s.kernel.Opcode != opInit || n < 64 {
		return fmt.Errorf("wait for INIT: %w", unix.EPROTO)
	}
	if s.kernel.Flags64()&fuse.CAP_OVER_IO_URING == 0 {
		return ErrOff // a moment ago it was on
	}
	n, st := s.proto.HandleRequest([][]byte{in[:n]}, [][]byte{out})
	if st != fuse.OK || n == 0 {
		return fmt.Errorf("answer INIT: %w", syscall.Errno(st))
	}
	if _, err := s.dev.Write(out[:n]); err != nil {
		return fmt.Errorf("answer INIT: %w", err)
	}
	return nil
}

// Serve serves until the tree is unmounted and all requests have ended.
func (s *Server) Serve() {
	if err := s.readDevice(); !errors.Is(err, unix.ENODEV) && !errors.Is(err, os.ErrDeadlineExceeded) {
		s.opts.Logger.Printf("read /dev/fuse: %v", err)
	}
	s.endQueues()
	s.work.Wait()
	s.interrupts.stop()
	s.dev.Close()
	s.fs.OnUnmount()
}

// fail ends the connection: a queue that is not served would let its callers wait for ever.
func (s *Server) fail(err error) {
	s.opts.Logger.Printf("FUSE over io_uring failed: %v", err)
	s.failed.Store(true)
	_ = s.dev.SetReadDeadline(time.Unix(1, 0))
}

// readDevice answers what comes over the device until that ends.
func (s *Server) readDevice() error {
	size := 8192 + s.opts.MaxWrite
	// Mapped, since most of it is never touched.
	in, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Munmap(in) }()
	for {
		n, err := s.dev.Read(in)
		switch {
		case errors.Is(err, unix.ENOENT), errors.Is(err, unix.EINTR):
			continue // the request went while it was being read
		case err != nil:
			return err
		case n < int(unsafe.Sizeof(fuse.InHeader{})):
			return unix.EPROTO
		}
		switch h := (*fuse.InHeader)(unsafe.Pointer(&in[0])); {
		case h.Opcode == opInterrupt && n >= int(unsafe.Sizeof(fuse.InterruptIn{})):
			s.interrupt((*fuse.InterruptIn)(unsafe.Pointer(&in[0])).Unique)
		case h.Opcode == opForget || h.Opcode == opBatchForget:
			s.proto.HandleRequest([][]byte{in[:n]}, nil)
		default:
			request := append([]byte(nil), in[:n]...)
			s.work.Go(func() { s.answerOverDevice(request) })
		}
	}
}

// answerOverDevice answers a request that the kernel sent before all queues were there.
func (s *Server) answerOverDevice(request []byte) {
	out := make([]byte, 4096+s.payload())
	n, st := s.proto.HandleRequest([][]byte{request}, [][]byte{out})
	if st != fuse.OK || n == 0 {
		*(*fuse.OutHeader)(unsafe.Pointer(&out[0])) = fuse.OutHeader{
			Length: sizeOutHeader, Status: -int32(unix.EIO), Unique: (*fuse.InHeader)(unsafe.Pointer(&request[0])).Unique,
		}
		n = sizeOutHeader
	}
	_ = s.write(out[:n])
}

// WaitMount returns when the tree can be used by this process too.
func (s *Server) WaitMount() error {
	if s.pollFile != nil {
		return nil
	}
	// The runtime polls what it opens, in the one way that the file system must
	// not be asked while it does: POLL is declined once, before it can happen.
	fd, err := unix.Open(s.dir+"/.go-fuse-epoll-hack", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN | unix.POLLOUT}}, 0)
	return nil
}
