package uring

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"sync"
	"time"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"imagefs/fusefs/conn"
)

const (
	// The requests of a queue that can be under way at once, at first. All queues
	// together have about allEntries, within bounds.
	minDepth   = 16
	maxDepth   = 64
	allEntries = 1024
	// A queue most of whose entries wait for something gets more, up to so many.
	// What is beyond waits in the kernel.
	mostEntries = 1024

	// lastCompletions is how long a queue waits for the end of its entries once
	// the connection is down and nothing is under way.
	lastCompletions = 10 * time.Second
)

// The numbers of struct fuse_uring_cmd_req and of an entry's layout (linux/fuse.h).
const (
	cmdRegister = 1 // FUSE_IO_URING_CMD_REGISTER
	cmdCommit   = 2 // FUSE_IO_URING_CMD_COMMIT_AND_FETCH

	headerSize  = 512 // of an entry, with the iovecs
	headerUsed  = 288 // of it, the kernel's part
	offOp       = 128
	offCommitID = 264
	offPayload  = 272
)

// wakeData is the user data of the READ of the eventfd.
const wakeData = ^uint64(0)

// entry is a piece of memory that one request at a time is in.
type entry struct {
	h, p []byte
	home *home
}

// home is one of the kernel's queues, as its thread sees it.
type home struct {
	qid     uint16
	entries int  // that it has
	busy    int  // of them, in the hands of goroutines
	full    bool // the kernel takes no more
}

func (e *entry) in() *fuse.InHeader   { return (*fuse.InHeader)(unsafe.Pointer(&e.h[0])) }
func (e *entry) out() *fuse.OutHeader { return (*fuse.OutHeader)(unsafe.Pointer(&e.h[0])) }
func (e *entry) commitID() uint64     { return binary.NativeEndian.Uint64(e.h[offCommitID:]) }
func (e *entry) payload() int {
	return min(int(binary.NativeEndian.Uint32(e.h[offPayload:])), len(e.p))
}

// op is the operation's own part of the request.
func (e *entry) op() []byte {
	return e.h[offOp:][:max(min(int(e.in().Length)-conn.SizeIn-e.payload(), conn.MaxOp), 0)]
}

// answer fills in the answer's header; so many bytes of the payload belong to it.
func (e *entry) answer(unique uint64, st fuse.Status, n int) {
	*e.out() = fuse.OutHeader{Length: uint32(conn.SizeOut + n), Status: -int32(st), Unique: unique}
	binary.NativeEndian.PutUint32(e.h[offPayload:], uint32(n))
}

// queue is a ring and its thread, which serves one or more of the kernel's queues.
type queue struct {
	s    *Server
	cpu  int   // the thread's
	ids  []int // of the kernel's queues, the CPU's own first
	ring *ring

	depth     int      // entries that a kernel's queue gets at a time
	maps      [][]byte // what entries lie in
	entries   []*entry
	commitIDs []uint64 // of the requests that entries hold
	wake      int      // eventfd
	woken     []byte   // what is read from it
	call      conn.Call

	live int // entries that the kernel has not ended
	busy int // entries in the hands of goroutines
	// until when requests that may wait for a disk go to goroutines
	slowUntil time.Time

	mu       sync.Mutex // guards what follows
	done     []int      // entries that goroutines have answered
	sleeping bool       // the thread may be waiting for a completion
	closed   bool

	registering chan struct{} // closed when the kernel greeted
	registered  chan error
}

// onlineCPUs is replaced in tests.
var onlineCPUs = func() ([]int, error) { return cpus("online") }

// makeQueues starts a thread with a ring for each CPU that is online.
func (s *Server) makeQueues() error {
	possible, err := cpus("possible")
	if err != nil {
		return err
	}
	online, err := onlineCPUs()
	if err != nil {
		return err
	}
	// The kernel numbers its queues from 0 to the number of possible CPUs.
	var rest []int
	for id := range possible {
		if slices.Contains(online, id) {
			s.queues = append(s.queues, &queue{s: s, cpu: id, ids: []int{id}})
		} else {
			rest = append(rest, id)
		}
	}
	for n, id := range rest {
		q := s.queues[n%len(s.queues)]
		q.ids = append(q.ids, id)
	}
	depth := min(max(allEntries/len(possible), minDepth), maxDepth)
	ready := make(chan error, len(s.queues))
	for _, q := range s.queues {
		q.wake, q.registering, q.registered = -1, make(chan struct{}), make(chan error, 1)
		s.threads.Go(func() { q.run(depth, ready) })
	}
	for range s.queues {
		err = errors.Join(err, <-ready)
	}
	return err
}

// register tells the kernel of all entries; from the last on requests come.
func (s *Server) register() error {
	var err error
	if s.devFD, err = s.FD(); err != nil {
		return err
	}
	for _, q := range s.queues {
		close(q.registering)
	}
	for _, q := range s.queues {
		err = errors.Join(err, <-q.registered)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return nil
}

// endQueues ends the threads once the connection is down, or was never made, and frees their memory.
func (s *Server) endQueues() {
	s.down.Store(time.Now().UnixNano())
	for _, q := range s.queues {
		select {
		case <-q.registering:
		default:
			close(q.registering)
		}
	}
	ended := make(chan struct{})
	go func() { s.threads.Wait(); close(ended) }()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		// Nobody waits any more for what is still being worked on.
		s.Cancel()
		for _, q := range s.queues {
			q.wakeUp()
		}
		select {
		case <-ended:
			s.freeQueues()
			return
		case <-tick.C:
		}
	}
}

// freeQueues frees what the threads leave; the last of them has ended.
func (s *Server) freeQueues() {
	for _, q := range s.queues {
		q.mu.Lock()
		q.closed = true
		if q.wake >= 0 {
			_ = unix.Close(q.wake)
			q.wake = -1
		}
		q.mu.Unlock()
		if q.live > 0 {
			continue // the kernel might still write there
		}
		for _, m := range q.maps {
			_ = unix.Munmap(m)
		}
	}
}

// run is the queue's thread.
func (q *queue) run(depth int, ready chan<- error) {
	// Never unlocked: the thread, with its CPU, ends with the function.
	runtime.LockOSThread()
	var set unix.CPUSet
	set.Set(q.cpu)
	// Where the thread may not choose its CPU it serves the queue all the same, only not as fast.
	_ = unix.SchedSetaffinity(0, &set)
	err := q.setUp(depth)
	ready <- err
	if err != nil {
		return
	}
	defer q.ring.close()
	<-q.registering
	if q.s.down.Load() != 0 {
		return
	}
	err = q.register()
	q.registered <- err
	if err == nil {
		err = q.serve()
	}
	if err != nil {
		q.s.fail(err)
	}
}

// setUp makes the ring and the memory of the entries.
func (q *queue) setUp(depth int) (err error) {
	q.depth = depth
	if q.ring, err = newRing(uint32(depth), uint32(2*depth*len(q.ids)+2)); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			q.ring.close()
		}
	}()
	if q.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC); err != nil {
		return err
	}
	if q.woken, err = q.anonymous(os.Getpagesize()); err != nil {
		return err
	}
	for _, id := range q.ids {
		if err := q.addEntries(&home{qid: uint16(id)}); err != nil {
			return err
		}
	}
	return nil
}

// register hands all entries to the kernel.
func (q *queue) register() error {
	for i := range q.entries {
		if err := q.hireEntry(i); err != nil {
			return err
		}
	}
	if err := q.listen(); err != nil {
		return err
	}
	if err := q.ring.enter(0); err != nil {
		return err
	}
	// The first request may be there already; what failed is there for certain.
	for _, c := range q.ring.peek() {
		if c.res < 0 && c.userData != wakeData {
			return fmt.Errorf("register with the kernel: %w", unix.Errno(-c.res))
		}
	}
	return nil
}

// listen asks for the next wakeUp.
func (q *queue) listen() error {
	return q.ring.prepare(sqe{opcode: opRead, fd: int32(q.wake), userData: wakeData,
		addr: uint64(uintptr(unsafe.Pointer(&q.woken[0]))), len: 8})
}

// serve answers requests until the kernel has ended all entries.
func (q *queue) serve() error {
	for {
		q.mu.Lock()
		for _, i := range q.done {
			q.busy--
			q.entries[i].home.busy--
			if err := q.commit(i); err != nil {
				q.mu.Unlock()
				return err
			}
		}
		q.done = q.done[:0]
		q.sleeping = true
		q.mu.Unlock()
		if q.busy == 0 && (q.live == 0 || q.givenUp()) {
			return nil
		}
		err := q.ring.enter(1)
		q.mu.Lock()
		q.sleeping = false
		q.mu.Unlock()
		if err != nil {
			return err
		}
		for {
			c, ok := q.ring.next()
			if !ok {
				break
			}
			switch {
			case c.userData == wakeData:
				err = q.listen()
			case c.res < 0:
				q.live-- // the connection is down, or the kernel does not take a new entry
				q.entries[c.userData].home.full = true
			default:
				err = q.take(int(c.userData))
			}
			if err != nil {
				return err
			}
		}
	}
}

// givenUp tells whether to end without the kernel: it has not ended the entries
// for long, or it must be made to, by closing everything.
func (q *queue) givenUp() bool {
	down := q.s.down.Load()
	return q.s.failed.Load() || down != 0 && time.Since(time.Unix(0, down)) > lastCompletions
}

// commit prepares to hand an answer over, and to wait for the next request.
func (q *queue) commit(i int) error {
	return q.ring.prepare(sqe{opcode: opCmd, fd: int32(q.s.devFD), off: cmdCommit, userData: uint64(i), qid: q.entries[i].home.qid, commitID: q.commitIDs[i]})
}

// finish is called by the goroutine that has answered the request in an entry.
func (q *queue) finish(i int) {
	q.mu.Lock()
	q.done = append(q.done, i)
	wake := q.sleeping
	q.sleeping = false // whoever comes next need not wake it again
	q.mu.Unlock()
	if wake {
		q.wakeUp()
	}
}

// wakeUp makes the thread look at what is done.
func (q *queue) wakeUp() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed || q.wake < 0 {
		return
	}
	one := [8]byte{}
	binary.NativeEndian.PutUint64(one[:], 1)
	_, _ = unix.Write(q.wake, one[:])
}
