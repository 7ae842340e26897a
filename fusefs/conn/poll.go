package conn

import (
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// go-fuse has no POLL in its interface, so that is answered here.

// PollIn is a POLL request (struct fuse_poll_in).
type PollIn struct {
	fuse.InHeader
	Fh     uint64 // the open file
	Kh     uint64 // what PollNotify is to name it by
	Flags  uint32 // fuse.FUSE_POLL_SCHEDULE_NOTIFY: somebody waits for a PollNotify
	Events uint32 // that are asked for
}

// PollNotify wakes up those who wait for a file: they poll it again.
func (c *Conn) PollNotify(kh uint64) fuse.Status {
	return c.notify(fuse.NOTIFY_POLL, bytesOf(&kh))
}

// poll answers POLL and returns the length of the answer's payload.
func (c *Conn) poll(head []byte, header *fuse.OutHeader, out []byte) int {
	var in PollIn
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&in)), unsafe.Sizeof(in)), head)
	events := [2]uint32{c.pollFile(&in)}
	n := copy(out, bytesOf(&events))
	*header = fuse.OutHeader{Length: uint32(SizeOut + n), Unique: in.Unique}
	return n
}
