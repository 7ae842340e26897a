package uring

import (
	"bytes"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"imagefs/fusefs/conn"
)

const (
	// slowRequest is after how long a quick request that slept was not quick: it
	// waited for a disk. Those that may, too, then go to goroutines for slowFor, so that they
	// wait beside each other.
	slowRequest = 2 * time.Millisecond
	slowFor     = 200 * time.Millisecond
)

// take answers the request that has come in an entry, or has it answered.
func (q *queue) take(i int) error {
	e := q.entries[i]
	q.commitIDs[i] = e.commitID()
	h := e.in()
	if !q.s.Quick(h) {
		return q.hand(i)
	}
	waits := h.Opcode == conn.OpRead || h.Opcode == conn.OpOpen
	var start time.Time
	var slept int64
	if waits {
		if start = time.Now(); start.Before(q.slowUntil) {
			return q.hand(i)
		}
		slept = sleeps()
	}
	q.call.LoadParts(h, e.op())
	unique := h.Unique
	if n, st, done := q.s.InPlace(&q.call, e.p[:e.payload()], e.p); done {
		e.answer(unique, st, n)
	} else {
		q.s.answer(e)
	}
	if waits {
		// A thread that was only kept from the CPU has not slept.
		if end := time.Now(); end.Sub(start) > slowRequest && sleeps() > slept {
			q.slowUntil = end.Add(slowFor)
		}
	}
	return q.commit(i)
}

// sleeps is how often the calling thread has waited for something.
func sleeps() int64 {
	var u unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_THREAD, &u)
	return u.Nvcsw
}

// hand lets a goroutine answer.
func (q *queue) hand(i int) error {
	q.busy++
	e := q.entries[i]
	e.home.busy++
	unique := e.in().Unique
	q.s.Begin(unique)
	q.s.Work.Go(func() {
		q.s.answer(e)
		q.s.Finished(unique)
		q.finish(i)
	})
	return q.grow(e.home)
}

// answer answers any request.
func (s *Server) answer(e *entry) {
	in := *e.in()
	head := make([]byte, conn.SizeIn, conn.SizeIn+conn.MaxOp)
	copy(head, e.h[:conn.SizeIn])
	head = append(head, e.op()...)
	payload := e.p[:e.payload()]
	if in.Opcode != conn.OpWrite {
		payload = bytes.Clone(payload) // the answer goes where it lies
	}
	var header fuse.OutHeader
	n, reply := s.Answer(head, payload, &header, e.p)
	if !reply {
		header.Status, n = -int32(fuse.EIO), 0 // each entry's request wants one
	}
	e.answer(in.Unique, fuse.Status(-header.Status), n)
}
