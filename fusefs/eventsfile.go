package fusefs

import (
	"errors"
	"io"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"imagefs/fusefs/conn"
	"imagefs/fusefs/events"
)

// ctl/events tells of every change, whoever made it: it is made from the looks
// at the store, not from commands.

// tellChanges writes what is new in a look at the store; f.refreshing is held.
func (f *fsys) tellChanges(now *snapshot) {
	v := events.View{IDs: now.ids, Names: now.names}
	if now.unread {
		v.Names = f.told.Names // that they cannot be read does not mean that they are gone
	}
	changes := events.Diff(f.told, v, f.ctl.Adding())
	for _, e := range changes {
		if e.Ref != "" {
			f.log.Info("store changed", "op", e.Op, "ref", e.Ref, "id", e.ID)
		} else {
			f.log.Info("store changed", "op", e.Op, "id", e.ID)
		}
	}
	f.history.Add(changes...)
	f.told = v
}

// eventsStat returns the size and the time of ctl/events.
func (f *fsys) eventsStat() (size uint64, mtime time.Time) {
	n, last := f.history.Stat()
	return uint64(n), last
}

// eventsHandle is an open ctl/events.
type eventsHandle struct {
	*events.Reader
	// patient is set for one that waits also where O_NONBLOCK was set after its
	// open, by a runtime that wants to poll it: without Options.Poll nobody can.
	patient bool
	waiting *atomic.Int64 // fsys.waiting
}

// maxFollowers bounds how often ctl/events is open at once, and how many reads of
// it wait, several of one open file perhaps: who waits takes a request with its
// memory, and over io_uring an entry, of which there are more.
const maxFollowers = 512

func (f *fsys) openEvents(flags uint32) (*eventsHandle, error) {
	if f.followers.Add(1) > maxFollowers {
		f.followers.Add(-1)
		return nil, syscall.ENFILE
	}
	return &eventsHandle{f.history.Reader(), !f.o.Poll && flags&unix.O_NONBLOCK == 0, &f.waiting}, nil
}

func (f *fsys) closeEvents(h *eventsHandle) {
	h.Close()
	f.followers.Add(-1)
}

// read serves READ.
func (h *eventsHandle) read(cancel <-chan struct{}, in *fuse.ReadIn, buf []byte) (int, fuse.Status) {
	block := h.patient || in.Flags&unix.O_NONBLOCK == 0
	if block {
		defer h.waiting.Add(-1)
		if h.waiting.Add(1) > maxFollowers {
			return 0, fuse.Status(syscall.ENFILE)
		}
	}
	n, err := h.Read(cancel, buf[:min(len(buf), int(in.Size))], int64(in.Offset), block)
	if err != nil && !errors.Is(err, io.EOF) {
		return 0, fuse.Status(errno(err))
	}
	return n, fuse.OK
}

// seeksEnd tells a reader that asks where its file ends. The kernel names an
// open file in GETATTR of a regular file for lseek(2) to the end, not for stat(2).
func (f *fsys) seeksEnd(fh uint64) {
	if h := f.handles.get(fh); h != nil && h.events != nil {
		h.events.End()
	}
}

// Of poll(2), see linux/poll.h.
const (
	pollReadable = unix.POLLIN | 0x40   // POLLRDNORM
	pollWritable = unix.POLLOUT | 0x100 // POLLWRNORM
)

// poll tells whether a read of a file would return at once: of every file but
// ctl/events it does.
func (f *fsys) poll(in *conn.PollIn) (ready uint32) {
	h := f.handles.get(in.Fh)
	if h == nil || h.events == nil {
		return in.Events & (pollReadable | pollWritable)
	}
	var wake func()
	if c := f.conn.Load(); c != nil && in.Flags&fuse.FUSE_POLL_SCHEDULE_NOTIFY != 0 {
		kh := in.Kh
		wake = func() { c.PollNotify(kh) }
	}
	if h.events.Poll(wake) {
		return in.Events & pollReadable
	}
	return 0
}
