package uring

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"imagefs/fusefs/conn"
)

// maxPayload bounds the largest read and write, in bytes: each entry has as
// much memory, of which only what is used is real.
const maxPayload = 256 << 10

// Server is a mounted file system that is served over io_uring. Its methods but
// Serve and WaitMount may be called at any time, by anybody.
type Server struct {
	*conn.Conn
	devFD int // of the device, for as long as a queue's thread lives

	queues  []*queue
	threads sync.WaitGroup // of the queues
	down    atomic.Int64   // since when the connection is no more, in Unix nanoseconds; 0: it is
	failed  atomic.Bool    // the connection is to be ended from this side
}

// New mounts a file system at dir. Any error that wraps ErrUnavailable means that
// it can be served over the device all the same; nothing is mounted then.
func New(fs fuse.RawFileSystem, dir string, o *fuse.MountOptions, u conn.Options) (*Server, error) {
	if err := Supported(); err != nil {
		return nil, err
	}
	s := &Server{Conn: conn.New(fs, dir, o, u)}
	s.Opts.MaxWrite = min(s.Opts.MaxWrite, maxPayload, pagesLimit()*os.Getpagesize())
	s.Opts.ExtraCapabilities |= fuse.CAP_OVER_IO_URING
	// The rings come first: after the greeting there is no way back to the device alone.
	if err := s.makeQueues(); err != nil {
		s.endQueues()
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	err := s.Mount(false, func(kernel *fuse.InitIn) error {
		if kernel.Flags64()&fuse.CAP_OVER_IO_URING == 0 {
			return ErrOff // a moment ago it was on
		}
		return nil
	})
	if err != nil {
		s.endQueues()
		return nil, err
	}
	if err := s.register(); err != nil {
		s.Unmount()
		s.endQueues()
		s.Close()
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
	return max(8192, (s.Opts.MaxWrite+page-1)/page*page)
}

// Serve serves until the tree is unmounted and all requests have ended.
func (s *Server) Serve() {
	if err := s.readDevice(); !errors.Is(err, unix.ENODEV) && !errors.Is(err, os.ErrDeadlineExceeded) {
		s.Opts.Logger.Printf("read /dev/fuse: %v", err)
	}
	s.endQueues()
	s.End()
}

// fail ends the connection: a queue that is not served would let its callers wait for ever.
func (s *Server) fail(err error) {
	s.Opts.Logger.Printf("FUSE over io_uring failed: %v", err)
	s.failed.Store(true)
	_ = s.Device().SetReadDeadline(time.Unix(1, 0))
}

// readDevice answers what comes over the device until that ends.
func (s *Server) readDevice() error {
	size := 8192 + s.Opts.MaxWrite
	// Mapped, since most of it is never touched.
	in, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Munmap(in) }()
	for {
		n, err := s.Device().Read(in)
		switch {
		case errors.Is(err, unix.ENOENT), errors.Is(err, unix.EINTR):
			continue // the request went while it was being read
		case err != nil:
			return err
		case n < conn.SizeIn:
			return unix.EPROTO
		}
		if done, _ := s.Unanswered(in[:n]); done {
			continue
		}
		request := append([]byte(nil), in[:n]...)
		unique := (*fuse.InHeader)(unsafe.Pointer(&in[0])).Unique
		s.Begin(unique)
		s.Work.Go(func() {
			s.answerOverDevice(request)
			s.Finished(unique)
		})
	}
}

// answerOverDevice answers a request that the kernel sent before all queues were there.
func (s *Server) answerOverDevice(request []byte) {
	out := make([]byte, 4096+s.payload())
	if n, reply := s.Answer(request, nil, (*fuse.OutHeader)(unsafe.Pointer(&out[0])), out[conn.SizeOut:]); reply {
		_ = s.Write(out[:conn.SizeOut+n])
	}
}
