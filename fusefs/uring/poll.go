package uring

import (
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// go-fuse has no POLL in its interface, so that is answered here.

const opPoll = 40

// PollIn is a POLL request (struct fuse_poll_in).
type PollIn struct {
	fuse.InHeader
	Fh     uint64 // the open file
	Kh     uint64 // what PollNotify is to name it by
	Flags  uint32 // fuse.FUSE_POLL_SCHEDULE_NOTIFY: somebody waits for a PollNotify
	Events uint32 // that are asked for
}

// PollNotify wakes up those who wait for a file: they poll it again.
func (s *Server) PollNotify(kh uint64) fuse.Status {
	return s.notify(fuse.NOTIFY_POLL, bytesOf(&kh))
}

// poll answers POLL.
func (s *Server) poll(e *entry) {
	in := PollIn{InHeader: *e.in()}
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&in.Fh)), unsafe.Sizeof(in)-sizeInHeader), e.h[offOp:])
	out := [2]uint32{s.pollFile(&in)}
	e.answer(in.Unique, fuse.OK, copy(e.p, bytesOf(&out)))
}
