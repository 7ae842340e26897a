package dev

import (
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"imagefs/fusefs/conn"
)

const (
	// maxReaders is how many readers there are at most: so many requests wait for
	// a disk beside each other.
	maxReaders = 16
	// cancelTick is how often, at the end, what is under way is told of it.
	cancelTick = 10 * time.Millisecond
)

// Server is a mounted file system that is served over the device. Its methods but
// Serve and WaitMount may be called at any time, by anybody.
type Server struct {
	*conn.Conn
	fd      int // of the device, while readers or goroutines use it
	buffers buffers

	base    int32 // readers that stay
	readers sync.WaitGroup
	running atomic.Int32 // readers
	reading atomic.Int32 // readers that wait for a request
}

// New mounts a file system at dir.
func New(fs fuse.RawFileSystem, dir string, o *fuse.MountOptions, u conn.Options) (*Server, error) {
	s := &Server{Conn: conn.New(fs, dir, o, u), base: int32(min(max(runtime.GOMAXPROCS(0), 2), maxReaders))}
	// The kernel wants room for its headers beside the data of a WRITE.
	s.buffers.in, s.buffers.out = 8192+s.Opts.MaxWrite, 8192+s.Opts.MaxWrite
	if err := s.Mount(true, func(*fuse.InitIn) error { return nil }); err != nil {
		return nil, err
	}
	var err error
	if s.fd, err = s.FD(); err != nil {
		s.Unmount()
		s.Close()
		return nil, err
	}
	return s, nil
}

// Serve serves until the tree is unmounted and all requests have ended.
func (s *Server) Serve() {
	for range s.base {
		s.start()
	}
	s.readers.Wait()
	ended := make(chan struct{})
	go func() { s.Work.Wait(); close(ended) }()
	tick := time.NewTicker(cancelTick)
	defer tick.Stop()
	for waits := true; waits; {
		s.Cancel()
		select {
		case <-ended:
			waits = false
		case <-tick.C:
		}
	}
	s.End()
	s.buffers.free()
}

// start starts a reader unless there are enough.
func (s *Server) start() {
	if s.running.Add(1) > maxReaders {
		s.running.Add(-1)
		return
	}
	s.readers.Go(func() {
		defer s.running.Add(-1)
		if err := s.read(); err != nil && err != unix.ENODEV {
			s.Opts.Logger.Printf("read /dev/fuse: %v", err)
		}
	})
}

// read is a reader.
func (s *Server) read() error {
	var call conn.Call
	b, err := s.buffers.get()
	if err != nil {
		return err
	}
	defer func() { s.buffers.put(b) }()
	for {
		if s.reading.Add(1) > s.base {
			s.reading.Add(-1)
			return nil // it was started for a disk that is no longer waited for
		}
		n, err := unix.Read(s.fd, b.in)
		others := s.reading.Add(-1)
		switch {
		case err == unix.ENOENT || err == unix.EINTR || err == unix.EAGAIN:
			continue // the request went while it was being read
		case err != nil:
			return err
		case n < conn.SizeIn:
			return fmt.Errorf("a request of %d bytes: %w", n, unix.EPROTO)
		}
		h := (*fuse.InHeader)(unsafe.Pointer(&b.in[0]))
		quick, waits := s.Quick(h)
		if quick {
			if waits && others == 0 {
				s.start()
			}
			payload := call.Load(b.in[:n])
			if size, st, done := s.InPlace(&call, payload, b.out[conn.SizeOut:]); done {
				*(*fuse.OutHeader)(unsafe.Pointer(&b.out[0])) = fuse.OutHeader{
					Length: uint32(conn.SizeOut + size), Status: -int32(st), Unique: h.Unique}
				s.write(b.out[:conn.SizeOut+size])
				continue
			}
		}
		if s.Unanswered(b.in[:n]) {
			continue
		}
		next, err := s.buffers.get()
		if err != nil {
			s.answer(b, n) // without memory, one after the other
			continue
		}
		mine := b
		b = next
		s.Begin(h.Unique)
		s.Work.Go(func() {
			s.answer(mine, n)
			s.Finished(h.Unique)
			s.buffers.put(mine)
		})
	}
}

// answer answers any request, which lies in a buffer.
func (s *Server) answer(b *buffer, n int) {
	size, reply := s.Answer(b.in[:n], nil, (*fuse.OutHeader)(unsafe.Pointer(&b.out[0])), b.out[conn.SizeOut:])
	if reply {
		s.write(b.out[:conn.SizeOut+size])
	}
}

// write hands over an answer.
func (s *Server) write(answer []byte) {
	for {
		switch _, err := unix.Write(s.fd, answer); err {
		case unix.EINTR:
		case nil, unix.ENOENT, unix.ENODEV:
			return // ENOENT: who waited for it was killed
		default:
			s.Opts.Logger.Printf("answer over /dev/fuse: %v", err)
			return
		}
	}
}

// buffer has room for a request and its answer.
type buffer struct{ in, out []byte }

// buffers are those that nobody uses, the last used first.
type buffers struct {
	in, out int // sizes
	mu      sync.Mutex
	idle    []*buffer
}

// maxIdle is how many are kept.
const maxIdle = 8

func (t *buffers) get() (*buffer, error) {
	t.mu.Lock()
	if n := len(t.idle); n > 0 {
		b := t.idle[n-1]
		t.idle = t.idle[:n-1]
		t.mu.Unlock()
		return b, nil
	}
	t.mu.Unlock()
	m, err := unix.Mmap(-1, 0, t.in+t.out, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE|unix.MAP_NORESERVE)
	if err != nil {
		return nil, err
	}
	// A huge page would make real what is never touched.
	_ = unix.Madvise(m, unix.MADV_NOHUGEPAGE)
	return &buffer{m[:t.in], m[t.in:]}, nil
}

func (t *buffers) put(b *buffer) {
	t.mu.Lock()
	if len(t.idle) < maxIdle {
		t.idle = append(t.idle, b)
		b = nil
	}
	t.mu.Unlock()
	if b != nil {
		b.unmap()
	}
}

func (t *buffers) free() {
	for _, b := range t.idle {
		b.unmap()
	}
	t.idle = nil
}

func (b *buffer) unmap() { _ = unix.Munmap(b.in[:cap(b.in)]) }
