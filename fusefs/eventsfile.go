package fusefs

import (
	"errors"
	"io"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

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
	f.history.Add(events.Diff(f.told, v, f.ctl.Adding())...)
	f.told = v
}

// eventsStat returns the size and the time of ctl/events.
func (f *fsys) eventsStat() (size uint64, mtime time.Time) {
	n, last := f.history.Stat()
	return uint64(n), last
}

// readEvents serves READ of ctl/events.
func readEvents(r *events.Reader, cancel <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	n, err := r.Read(cancel, buf[:min(len(buf), int(in.Size))], int64(in.Offset), in.Flags&unix.O_NONBLOCK == 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fuse.Status(errno(err))
	}
	return fuse.ReadResultData(buf[:n]), fuse.OK
}

// seeksEnd tells a reader that asks where its file ends. The kernel names an
// open file in GETATTR of a regular file for lseek(2) to the end, not for stat(2).
func (f *fsys) seeksEnd(fh uint64) {
	if h := f.handles.get(fh); h != nil && h.events != nil {
		h.events.End()
	}
}
