package dev

import (
	"os"
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
	// A read that fails is tried again after failedRead, so often in a row.
	failedRead  = 10 * time.Millisecond
	maxFailures = 100
)

// Server is a mounted file system that is served over the device. Its methods but
// Serve and WaitMount may be called at any time, by anybody.
type Server struct {
	*conn.Conn
	fd      int // of the device, while readers or goroutines use it
	buffers buffers

	base    int32 // so many readers, and one more, wait for requests
	readers sync.WaitGroup
	running atomic.Int32 // readers
	reading atomic.Int32 // readers that wait for a request
}

// New mounts a file system at dir.
func New(fs fuse.RawFileSystem, dir string, o *fuse.MountOptions, u conn.Options) (*Server, error) {
	s := &Server{Conn: conn.New(fs, dir, o, u), base: int32(min(max(runtime.GOMAXPROCS(0), 2), maxReaders))}
	// The kernel wants room for its headers beside the data of a WRITE.
	page := os.Getpagesize()
	size := (max(page, 8192) + s.Opts.MaxWrite + page - 1) / page * page
	s.buffers.in, s.buffers.out = size, size
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

// start starts a reader; false if there are enough.
func (s *Server) start() bool {
	if s.running.Add(1) > maxReaders {
		s.running.Add(-1)
		return false
	}
	s.readers.Go(func() {
		defer s.running.Add(-1)
		s.read()
	})
	return true
}

// wait tells a reader to wait for a request; false if enough others do, and it
// can go. It counts only those that stay, or all could leave at once, each
// because of the others.
func (s *Server) wait() bool {
	for {
		n := s.reading.Load()
		if n > s.base {
			return false
		}
		if s.reading.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// read is a reader.
func (s *Server) read() {
	var call conn.Call
	var b *buffer
	defer func() { s.buffers.put(b) }()
	for failures := 0; s.wait(); {
		var err error
		if b == nil {
			b, err = s.buffers.get()
		}
		n := 0
		if err == nil {
			n, err = unix.Read(s.fd, b.in)
		}
		others := s.reading.Add(-1)
		if err == nil && n < conn.SizeIn {
			err = unix.EPROTO
		}
		switch err {
		case nil:
			failures = 0
		case unix.ENOENT, unix.EINTR, unix.EAGAIN:
			continue // the request went while it was being read
		case unix.ENODEV, unix.ECONNABORTED:
			return
		default:
			// Short of memory, perhaps, which passes.
			if failures++; failures > maxFailures {
				s.Opts.Logger.Printf("read /dev/fuse: %v", err)
				return
			}
			time.Sleep(failedRead)
			continue
		}
		h := (*fuse.InHeader)(unsafe.Pointer(&b.in[0]))
		// Quick or not, a request may have to wait, and somebody must be there for the next.
		if s.Quick(h) && (others > 0 || s.start()) {
			payload := call.Load(b.in[:n])
			if size, st, done := s.InPlace(&call, payload, b.out[conn.SizeOut:]); done {
				s.reply(b, h.Unique, st, size)
				continue
			}
		}
		switch answered, again := s.Unanswered(b.in[:n]); {
		case again:
			s.reply(b, h.Unique, fuse.EAGAIN, 0) // the kernel then asks again
			continue
		case answered:
			continue
		}
		mine := b
		b = nil
		s.Begin(h.Unique)
		s.Work.Go(func() {
			s.answer(mine, n)
			s.Finished(h.Unique)
			s.buffers.put(mine)
		})
	}
}

// reply hands over an answer, so many bytes of whose payload are in the buffer.
func (s *Server) reply(b *buffer, unique uint64, st fuse.Status, size int) {
	*(*fuse.OutHeader)(unsafe.Pointer(&b.out[0])) = fuse.OutHeader{Length: uint32(conn.SizeOut + size), Status: -int32(st), Unique: unique}
	b.used = max(b.used, size)
	s.write(b, size)
}

// answer answers any request, which lies in a buffer.
func (s *Server) answer(b *buffer, n int) {
	size, reply := s.Answer(b.in[:n], nil, (*fuse.OutHeader)(unsafe.Pointer(&b.out[0])), b.out[conn.SizeOut:])
	if b.used = max(n, size); reply {
		s.write(b, size)
	}
}

// write hands over the answer in a buffer.
func (s *Server) write(b *buffer, size int) {
	for failed := false; ; {
		switch _, err := unix.Write(s.fd, b.out[:conn.SizeOut+size]); {
		case err == unix.EINTR:
		case err == nil, err == unix.ENOENT, err == unix.ENODEV, failed:
			return // ENOENT: who waited for it was killed
		default:
			s.Opts.Logger.Printf("answer over /dev/fuse: %v", err)
			h := (*fuse.OutHeader)(unsafe.Pointer(&b.out[0]))
			h.Status, h.Length, size, failed = -int32(fuse.EIO), uint32(conn.SizeOut), 0, true
		}
	}
}

// buffer has room for a request and its answer.
type buffer struct {
	in, out []byte
	used    int // the most of in or of out that was used lately
}

// buffers are those that nobody uses, the last used first.
type buffers struct {
	in, out int // sizes
	mu      sync.Mutex
	idle    []*buffer
}

const (
	maxIdle = 8 // buffers that are kept
	// maxKept is how much of each of a buffer's halves stays in memory when nobody uses it.
	maxKept = 64 << 10
)

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
	return &buffer{in: m[:t.in], out: m[t.in:]}, nil
}

// put takes a buffer back; nil is none.
func (t *buffers) put(b *buffer) {
	if b != nil && b.used > maxKept {
		_ = unix.Madvise(b.in[maxKept:], unix.MADV_DONTNEED)
		_ = unix.Madvise(b.out[maxKept:], unix.MADV_DONTNEED)
		b.used = 0
	}
	t.mu.Lock()
	if b != nil && len(t.idle) < maxIdle {
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
