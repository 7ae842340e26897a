package uring

import (
	"fmt"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What of io_uring's interface (linux/io_uring.h) is used here.
const (
	opRead = 22 // IORING_OP_READ
	opCmd  = 46 // IORING_OP_URING_CMD

	setupCQSize      = 1 << 3
	setupSubmitAll   = 1 << 7
	setupSQE128      = 1 << 10
	setupSingle      = 1 << 12
	setupDeferTasks  = 1 << 13
	enterGetEvents   = 1
	offsetRing       = 0
	offsetSQEs       = 0x10000000
	featureSingleMap = 1
)

// sqe is a submission of 128 bytes. The last fields are FUSE's, struct fuse_uring_cmd_req.
type sqe struct {
	opcode   uint8
	flags    uint8
	ioprio   uint16
	fd       int32
	off      uint64 // of a command: its number, in the lower half
	addr     uint64
	len      uint32
	opFlags  uint32
	userData uint64
	_        [8]byte
	cmdFlags uint64
	commitID uint64
	qid      uint16
	_        [6 + 56]byte
}

// cqe is a completion.
type cqe struct {
	userData uint64
	res      int32
	flags    uint32
}

// params is struct io_uring_params.
type params struct {
	sqEntries, cqEntries, flags, sqThreadCPU, sqThreadIdle, features, wqFD uint32
	_                                                                      [3]uint32
	sq                                                                     struct {
		head, tail, ringMask, ringEntries, flags, dropped, array, _ uint32
		_                                                           uint64
	}
	cq struct {
		head, tail, ringMask, ringEntries, overflow, cqes, flags, _ uint32
		_                                                           uint64
	}
}

// ring is an io_uring that one thread alone uses: the one that made it.
type ring struct {
	fd       int
	mem      []byte // both rings
	sqeMem   []byte
	sqes     []sqe
	sqArray  []uint32
	sqTail   *uint32
	tail     uint32
	prepared uint32 // submissions that the kernel has not been told of
	cqes     []cqe
	cqHead   *uint32
	cqTail   *uint32
}

// newRing makes a ring for the calling thread, with room for so many submissions and completions.
func newRing(submissions, completions uint32) (*ring, error) {
	p := params{cqEntries: completions, flags: setupSQE128 | setupSingle | setupDeferTasks | setupSubmitAll | setupCQSize}
	fd, _, e := syscall.Syscall(unix.SYS_IO_URING_SETUP, uintptr(submissions), uintptr(unsafe.Pointer(&p)), 0)
	switch {
	case e == unix.EPERM || e == unix.EACCES:
		return nil, fmt.Errorf("io_uring is forbidden here (sysctl kernel.io_uring_disabled, or seccomp): %w", e)
	case e == unix.ENOSYS:
		return nil, fmt.Errorf("this kernel has no io_uring, or seccomp hides it: %w", e)
	case e == unix.ENOMEM:
		return nil, fmt.Errorf("too little memory for io_uring (ulimit -l, RLIMIT_MEMLOCK): %w", e)
	case e != 0:
		return nil, fmt.Errorf("set up io_uring: %w", e)
	}
	r := &ring{fd: int(fd)}
	if p.features&featureSingleMap == 0 {
		r.close()
		return nil, fmt.Errorf("set up io_uring: the kernel is too old: %w", unix.ENOSYS)
	}
	size := max(uintptr(p.sq.array)+uintptr(p.sqEntries)*unsafe.Sizeof(uint32(0)), uintptr(p.cq.cqes)+uintptr(p.cqEntries)*unsafe.Sizeof(cqe{}))
	var err error
	if r.mem, err = unix.Mmap(r.fd, offsetRing, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE); err != nil {
		r.close()
		return nil, fmt.Errorf("map the ring: %w", err)
	}
	r.sqeMem, err = unix.Mmap(r.fd, offsetSQEs, int(uintptr(p.sqEntries)*unsafe.Sizeof(sqe{})), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		r.close()
		return nil, fmt.Errorf("map the submissions: %w", err)
	}
	word := func(off uint32) *uint32 { return (*uint32)(unsafe.Pointer(&r.mem[off])) }
	r.sqTail, r.cqHead, r.cqTail = word(p.sq.tail), word(p.cq.head), word(p.cq.tail)
	r.tail = *r.sqTail
	r.sqes = unsafe.Slice((*sqe)(unsafe.Pointer(&r.sqeMem[0])), p.sqEntries)
	r.sqArray = unsafe.Slice(word(p.sq.array), p.sqEntries)
	r.cqes = unsafe.Slice((*cqe)(unsafe.Pointer(&r.mem[p.cq.cqes])), p.cqEntries)
	return r, nil
}

// prepare adds a submission, which the next enter hands over.
func (r *ring) prepare(s sqe) error {
	if int(r.prepared) == len(r.sqes) {
		if err := r.enter(0); err != nil {
			return err
		}
	}
	x := r.tail & uint32(len(r.sqes)-1)
	r.sqes[x] = s
	r.sqArray[x] = x
	r.tail++
	r.prepared++
	atomic.StoreUint32(r.sqTail, r.tail)
	return nil
}

// enter hands over what is prepared, and waits for so many completions.
func (r *ring) enter(wait uint32) error {
	for {
		// A blocking system call, which the scheduler knows of.
		n, _, e := syscall.Syscall6(unix.SYS_IO_URING_ENTER, uintptr(r.fd), uintptr(r.prepared), uintptr(wait), enterGetEvents, 0, 0)
		switch e {
		case 0:
			if r.prepared -= uint32(n); r.prepared == 0 {
				return nil
			}
		case unix.EINTR, unix.EAGAIN, unix.EBUSY:
			// Interrupted, or out of memory for the moment.
			if r.prepared == 0 {
				return nil
			}
		default:
			return fmt.Errorf("enter io_uring: %w", e)
		}
	}
}

// next takes a completion; false if there is none.
func (r *ring) next() (cqe, bool) {
	h := *r.cqHead
	if h == atomic.LoadUint32(r.cqTail) {
		return cqe{}, false
	}
	c := r.cqes[h&uint32(len(r.cqes)-1)]
	atomic.StoreUint32(r.cqHead, h+1)
	return c, true
}

// peek returns the completions that next will return.
func (r *ring) peek() (all []cqe) {
	for h := *r.cqHead; h != atomic.LoadUint32(r.cqTail); h++ {
		all = append(all, r.cqes[h&uint32(len(r.cqes)-1)])
	}
	return all
}

func (r *ring) close() {
	for _, m := range [][]byte{r.mem, r.sqeMem} {
		if m != nil {
			_ = unix.Munmap(m)
		}
	}
	_ = unix.Close(r.fd)
}
