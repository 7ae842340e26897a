package conn

import (
	"bytes"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// Sizes of what is before an operation's own part, and before an answer's payload.
const (
	SizeIn  = int(unsafe.Sizeof(fuse.InHeader{}))
	SizeOut = int(unsafe.Sizeof(fuse.OutHeader{}))
)

// MaxOp bounds an operation's own part of a request.
const MaxOp = 128

// Quick tells whether the request is to be answered at once, by InPlace.
func (c *Conn) Quick(h *fuse.InHeader) bool {
	return h.NodeId != fuse.FUSE_ROOT_ID && !c.Opts.Debug && c.quick(h)
}

// Answer answers any request. Its headers may be followed by the payload, or that
// is apart; the answer's payload goes to out, which must not overlap the request
// but for the data of a WRITE. It returns the payload's length; without reply the
// kernel waits for none.
func (c *Conn) Answer(head, payload []byte, header *fuse.OutHeader, out []byte) (n int, reply bool) {
	in := (*fuse.InHeader)(unsafe.Pointer(&head[0]))
	if in.Opcode == OpPoll && c.pollFile != nil {
		return c.poll(head, header, out), true
	}
	*header = fuse.OutHeader{}
	parts := [2][]byte{head, payload}
	n, st := c.proto.HandleRequest(parts[:], [][]byte{bytesOf(header), out})
	if st == fuse.OK && n == 0 {
		return 0, false
	}
	if st != fuse.OK || n < SizeOut {
		*header, n = fuse.OutHeader{Status: -int32(fuse.EIO)}, SizeOut
	}
	header.Unique, header.Length = in.Unique, uint32(n)
	return n - SizeOut, true
}

// Begin notes a request that a goroutine is to answer: it can be interrupted.
func (c *Conn) Begin(unique uint64) { c.active.add(unique) }

// Finished takes note of its end.
func (c *Conn) Finished(unique uint64) { c.active.remove(unique) }

// Unanswered sees to what is no request that somebody waits for; false if it is
// one. again is set for an INTERRUPT that there is no room to keep: answered with
// EAGAIN over the device that its request came by, it comes again.
func (c *Conn) Unanswered(request []byte) (done, again bool) {
	switch h := (*fuse.InHeader)(unsafe.Pointer(&request[0])); h.Opcode {
	case OpInterrupt:
		if len(request) >= int(unsafe.Sizeof(fuse.InterruptIn{})) {
			again = !c.interrupt((*fuse.InterruptIn)(unsafe.Pointer(&request[0])).Unique)
		}
	case OpForget, OpBatchForget:
		c.proto.HandleRequest([][]byte{request}, nil)
	default:
		return false, false
	}
	return true, again
}

// Reader is a file system that has READ without a ReadResult, which would be allocated.
type Reader interface {
	ReadInto(cancel <-chan struct{}, in *fuse.ReadIn, buf []byte) (int, fuse.Status)
}

// Call is a request in parts, and where its answer is put together. One is used
// for one request after the other.
type Call struct {
	in    fuse.InHeader
	op    [MaxOp]byte
	entry fuse.EntryOut
	attr  fuse.AttrOut
	open  fuse.OpenOut
	list  fuse.DirEntryList
	name  [256]byte // longer ones are copied elsewhere
}

// opSizes are those of the operations of InPlace.
var opSizes = [...]uint8{
	OpLookup:      0,
	OpGetattr:     uint8(unsafe.Sizeof(fuse.GetAttrIn{})) - uint8(SizeIn),
	OpReadlink:    0,
	OpOpen:        uint8(unsafe.Sizeof(fuse.OpenIn{})) - uint8(SizeIn),
	OpRead:        uint8(unsafe.Sizeof(fuse.ReadIn{})) - uint8(SizeIn),
	OpRelease:     uint8(unsafe.Sizeof(fuse.ReleaseIn{})) - uint8(SizeIn),
	OpGetxattr:    8,
	OpListxattr:   8,
	OpReaddir:     uint8(unsafe.Sizeof(fuse.ReadIn{})) - uint8(SizeIn),
	OpReaddirplus: uint8(unsafe.Sizeof(fuse.ReadIn{})) - uint8(SizeIn),
}

// Load takes a request whose parts lie behind each other, and returns its payload,
// which stays where it is; what is too short is filled up with zeros.
func (c *Call) Load(request []byte) (payload []byte) {
	h := (*fuse.InHeader)(unsafe.Pointer(&request[0]))
	op := 0
	if int(h.Opcode) < len(opSizes) {
		op = min(int(opSizes[h.Opcode]), len(request)-SizeIn)
	}
	c.LoadParts(h, request[SizeIn:][:op])
	return request[SizeIn+op:]
}

// LoadParts takes a request's headers.
func (c *Call) LoadParts(h *fuse.InHeader, op []byte) {
	c.in = *h
	clear(c.op[copy(c.op[:], op):])
}

// InPlace answers the operations of the hot path without allocation; done is false
// if it is another. The file system must not keep a name beyond the call. The answer's payload goes to out, and may go where the
// request's own payload lies. It returns the payload's length and the status.
func (c *Conn) InPlace(s *Call, payload, out []byte) (n int, st fuse.Status, done bool) {
	fs := c.FS
	defer func() {
		if what := recover(); what != nil {
			if st = c.Opts.PanicHandler(what); st == fuse.OK {
				st = fuse.EIO
			}
			n, done = 0, true
		}
	}()
	switch s.in.Opcode {
	case OpLookup:
		s.entry = fuse.EntryOut{}
		if st = fs.Lookup(nil, &s.in, s.nameOf(payload), &s.entry); st == fuse.OK {
			n = copy(out, bytesOf(&s.entry))
		}
	case OpGetattr:
		s.attr = fuse.AttrOut{}
		if st = fs.GetAttr(nil, (*fuse.GetAttrIn)(unsafe.Pointer(s)), &s.attr); st == fuse.OK {
			n = copy(out, bytesOf(&s.attr))
		}
	case OpReadlink:
		var target []byte
		target, st = fs.Readlink(nil, &s.in)
		n = copy(out, target)
	case OpOpen:
		s.open = fuse.OpenOut{}
		if st = fs.Open(nil, (*fuse.OpenIn)(unsafe.Pointer(s)), &s.open); st == fuse.OK {
			n = copy(out, bytesOf(&s.open))
		}
	case OpRelease:
		fs.Release(nil, (*fuse.ReleaseIn)(unsafe.Pointer(s)))
	case OpReaddir, OpReaddirplus:
		in := (*fuse.ReadIn)(unsafe.Pointer(s))
		s.list = *fuse.NewDirEntryList(out[:min(int(in.Size), len(out))], in.Offset) // a copy: it is reused
		if in.Opcode == OpReaddir {
			st = fs.ReadDir(nil, in, &s.list)
		} else {
			st = fs.ReadDirPlus(nil, in, &s.list)
		}
		n = len(s.list.Bytes())
	case OpRead:
		in := (*fuse.ReadIn)(unsafe.Pointer(s))
		buf := out[:min(int(in.Size), len(out))]
		if c.reader != nil {
			n, st = c.reader.ReadInto(nil, in, buf)
			break
		}
		var r fuse.ReadResult
		if r, st = fs.Read(nil, in, buf); r != nil {
			var b []byte
			if b, st = r.Bytes(buf); st == fuse.OK && len(b) > 0 && &b[0] != &buf[0] {
				b = buf[:copy(buf, b)]
			}
			n = len(b)
			r.Done()
		}
	case OpGetxattr, OpListxattr:
		n, st = c.xattr(s, payload, out)
	default:
		return 0, 0, false
	}
	if st != fuse.OK {
		n = 0
	}
	return n, st, true
}

// xattr answers GETXATTR and LISTXATTR: with bytes, or with how many there are if none are asked for.
func (c *Conn) xattr(s *Call, payload, out []byte) (int, fuse.Status) {
	in := (*fuse.GetXAttrIn)(unsafe.Pointer(s))
	name := s.nameOf(payload)
	dest := out[:min(int(in.Size), len(out))]
	var n uint32
	var st fuse.Status
	if s.in.Opcode == OpListxattr {
		n, st = c.FS.ListXAttr(nil, &s.in, dest)
	} else {
		n, st = c.FS.GetXAttr(nil, &s.in, name, dest)
	}
	if in.Size > 0 {
		return int(n), st
	}
	if st == fuse.ERANGE {
		st = fuse.OK // that is how a file system tells
	}
	size := fuse.GetXAttrOut{Size: n}
	return copy(out, bytesOf(&size)), st
}

// nameOf returns the name that a payload is, until the next call.
func (s *Call) nameOf(b []byte) string {
	if n := bytes.IndexByte(b, 0); n >= 0 {
		b = b[:n]
	}
	if len(b) > len(s.name) {
		return string(b)
	}
	// A copy, because an answer may go where the payload lies.
	return unsafe.String(&s.name[0], copy(s.name[:], b))
}
