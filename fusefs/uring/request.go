package uring

import (
	"bytes"
	"time"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// The operations that are known here (linux/fuse.h).
const (
	opLookup      = 1
	opForget      = 2
	opGetattr     = 3
	opReadlink    = 5
	opOpen        = 14
	opFuseRead    = 15
	opWrite       = 16
	opGetxattr    = 22
	opListxattr   = 23
	opInit        = 26
	opReaddir     = 28
	opInterrupt   = 36
	opBatchForget = 42
	opReaddirplus = 44
)

const (
	// slowRequest is after how long a quick request that slept was not quick: it
	// waited for a disk. Those that may, too, then go to goroutines for slowFor, so that they
	// wait beside each other.
	slowRequest = 2 * time.Millisecond
	slowFor     = 200 * time.Millisecond
)

// scratch is where a queue's thread puts a request's headers together.
type scratch struct {
	in    fuse.InHeader
	op    [opSize]byte
	entry fuse.EntryOut
	attr  fuse.AttrOut
}

// take answers the request that has come in an entry, or has it answered.
func (q *queue) take(i int) error {
	e := q.entries[i]
	q.commitIDs[i] = e.commitID()
	h := e.in()
	if h.NodeId == fuse.FUSE_ROOT_ID || !q.s.quick(h) {
		return q.hand(i)
	}
	waits := h.Opcode == opFuseRead || h.Opcode == opOpen
	var start time.Time
	var slept int64
	if waits {
		if start = time.Now(); start.Before(q.slowUntil) {
			return q.hand(i)
		}
		slept = sleeps()
	}
	if q.s.opts.Debug || !q.inPlace(e) {
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
	q.s.active.add(unique)
	q.s.work.Go(func() {
		q.s.answer(e)
		q.s.active.remove(unique)
		q.finish(i)
	})
	return q.grow(e.home)
}

// answer answers any request, through go-fuse.
func (s *Server) answer(e *entry) {
	in := *e.in()
	if in.Opcode == opPoll && s.pollFile != nil {
		s.poll(e)
		return
	}
	op := max(min(int(in.Length)-sizeInHeader-e.payload(), opSize), 0)
	head := make([]byte, sizeInHeader+op)
	copy(head, e.h[:sizeInHeader])
	copy(head[sizeInHeader:], e.h[offOp:])
	payload := e.p[:e.payload()]
	if in.Opcode != opWrite {
		payload = bytes.Clone(payload) // the answer goes where it lies
	}
	parts := [2][]byte{head, payload}
	n, st := s.proto.HandleRequest(parts[:], [][]byte{e.h[:sizeOutHeader], e.p})
	if st != fuse.OK || n < sizeOutHeader {
		e.answer(in.Unique, fuse.EIO, 0)
		return
	}
	e.answer(in.Unique, fuse.Status(-e.out().Status), n-sizeOutHeader)
}

// inPlace answers the operations of the hot path without allocation; false if it is another.
func (q *queue) inPlace(e *entry) (done bool) {
	s, fs := &q.scratch, q.s.fs
	s.in = *e.in()
	// Only after the answer is written is anything of the request overwritten.
	defer func() {
		if what := recover(); what != nil {
			st := q.s.opts.PanicHandler(what)
			if st == fuse.OK {
				st = fuse.EIO
			}
			e.answer(s.in.Unique, st, 0)
			done = true
		}
	}()
	op := max(min(int(s.in.Length)-sizeInHeader-e.payload(), opSize), 0)
	clear(s.op[copy(s.op[:], e.h[offOp:offOp+op]):])
	var st fuse.Status
	n := 0
	switch s.in.Opcode {
	case opLookup:
		s.entry = fuse.EntryOut{}
		if st = fs.Lookup(nil, &s.in, nameOf(e.p[:e.payload()]), &s.entry); st == fuse.OK {
			n = copy(e.p, bytesOf(&s.entry))
		}
	case opGetattr:
		s.attr = fuse.AttrOut{}
		if st = fs.GetAttr(nil, (*fuse.GetAttrIn)(unsafe.Pointer(s)), &s.attr); st == fuse.OK {
			n = copy(e.p, bytesOf(&s.attr))
		}
	case opReadlink:
		var target []byte
		target, st = fs.Readlink(nil, &s.in)
		n = copy(e.p, target)
	case opReaddir, opReaddirplus:
		in := (*fuse.ReadIn)(unsafe.Pointer(s))
		list := fuse.NewDirEntryList(e.p[:min(int(in.Size), len(e.p))], in.Offset)
		if in.Opcode == opReaddir {
			st = fs.ReadDir(nil, in, list)
		} else {
			st = fs.ReadDirPlus(nil, in, list)
		}
		n = len(list.Bytes())
	case opFuseRead:
		in := (*fuse.ReadIn)(unsafe.Pointer(s))
		buf := e.p[:min(int(in.Size), len(e.p))]
		var r fuse.ReadResult
		if r, st = fs.Read(nil, in, buf); r != nil {
			var b []byte
			if b, st = r.Bytes(buf); st == fuse.OK && len(b) > 0 && &b[0] != &buf[0] {
				b = buf[:copy(buf, b)]
			}
			n = len(b)
			r.Done()
		}
	case opGetxattr, opListxattr:
		n, st = q.xattr(e)
	default:
		return false
	}
	if st != fuse.OK {
		n = 0
	}
	e.answer(s.in.Unique, st, n)
	return true
}

// xattr answers GETXATTR and LISTXATTR: with bytes, or with how many there are if none are asked for.
func (q *queue) xattr(e *entry) (int, fuse.Status) {
	s := &q.scratch
	in := (*fuse.GetXAttrIn)(unsafe.Pointer(s))
	name := nameOf(e.p[:e.payload()])
	dest := e.p[:min(int(in.Size), len(e.p))]
	var n uint32
	var st fuse.Status
	if s.in.Opcode == opListxattr {
		n, st = q.s.fs.ListXAttr(nil, &s.in, dest)
	} else {
		n, st = q.s.fs.GetXAttr(nil, &s.in, name, dest)
	}
	if in.Size > 0 {
		return int(n), st
	}
	if st == fuse.ERANGE {
		st = fuse.OK // that is how a file system tells
	}
	size := fuse.GetXAttrOut{Size: n}
	return copy(e.p, bytesOf(&size)), st
}

// nameOf returns the name that a payload is.
func nameOf(b []byte) string {
	if n := bytes.IndexByte(b, 0); n >= 0 {
		b = b[:n]
	}
	return string(b)
}
