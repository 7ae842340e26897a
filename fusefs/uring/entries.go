package uring

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// anonymous maps memory that costs nothing until it is touched.
func (q *queue) anonymous(size int) ([]byte, error) {
	m, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE|unix.MAP_NORESERVE)
	if err != nil {
		return nil, err
	}
	// A huge page would make real what is never touched.
	_ = unix.Madvise(m, unix.MADV_NOHUGEPAGE)
	q.maps = append(q.maps, m)
	return m, nil
}

// addEntries makes entries for one of the kernel's queues, which does not know of them yet.
func (q *queue) addEntries(h *home) error {
	headers, err := q.anonymous(q.depth * headerSize)
	if err != nil {
		return err
	}
	size := q.s.payload()
	payloads, err := q.anonymous(q.depth * size)
	if err != nil {
		return err
	}
	for i := range q.depth {
		e := &entry{h: headers[i*headerSize:][:headerSize], p: payloads[i*size:][:size], home: h}
		iov := (*[2]unix.Iovec)(unsafe.Pointer(&e.h[headerUsed]))
		iov[0].Base, iov[1].Base = &e.h[0], &e.p[0]
		iov[0].SetLen(headerUsed)
		iov[1].SetLen(size)
		q.entries = append(q.entries, e)
		q.commitIDs = append(q.commitIDs, 0)
	}
	h.entries += q.depth
	return nil
}

// hireEntry prepares to tell the kernel of an entry, which then waits for a request.
func (q *queue) hireEntry(i int) error {
	e := q.entries[i]
	q.live++
	return q.ring.prepare(sqe{opcode: opCmd, fd: int32(q.s.devFD), off: cmdRegister, userData: uint64(i), qid: e.home.qid,
		addr: uint64(uintptr(unsafe.Pointer(&e.h[headerUsed]))), len: 2})
}

// grow gives a queue more entries if few of its own are left for requests that
// do not wait: who waits for an event must not keep others from looking around.
func (q *queue) grow(h *home) error {
	if h.full || h.busy*4 < h.entries*3 || h.entries >= mostEntries {
		return nil
	}
	first := len(q.entries)
	if err := q.addEntries(h); err != nil {
		h.full = true // it goes on with what it has
		return nil
	}
	for i := first; i < len(q.entries); i++ {
		if err := q.hireEntry(i); err != nil {
			return err
		}
	}
	return nil
}
