package fusefs

import (
	"context"
	"errors"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"imagefs/overlay"
	"imagefs/store"
)

// errnos is the one table from errors to errno, in order: the first that
// matches counts, so a sentinel goes before the system's error that it wraps.
var errnos = []struct {
	err   error
	errno syscall.Errno
}{
	{store.ErrCorrupt, syscall.EBADMSG},
	{store.ErrTooLarge, syscall.EFBIG},
	{store.ErrGone, syscall.ESTALE},
	{store.ErrBusy, syscall.EBUSY},
	{store.ErrReadOnly, syscall.EROFS},
	{store.ErrUnsupported, syscall.EOPNOTSUPP},
	{store.ErrInvalid, syscall.EINVAL},
	{store.ErrExists, syscall.EEXIST},
	{store.ErrNotFound, syscall.ENOENT},
	{overlay.ErrCorrupt, syscall.EBADMSG},
	{overlay.ErrTooLarge, syscall.EFBIG},
	{context.Canceled, syscall.EINTR},
	{syscall.ENOENT, syscall.ENOENT},
	{syscall.ENOTDIR, syscall.ENOTDIR},
	{syscall.EISDIR, syscall.EISDIR},
	{syscall.ENOTEMPTY, syscall.ENOTEMPTY},
	{syscall.EXDEV, syscall.EXDEV},
	{syscall.EACCES, syscall.EACCES},
	{syscall.EPERM, syscall.EPERM},
	{syscall.EROFS, syscall.EROFS},
	{syscall.ENOSPC, syscall.ENOSPC},
	{syscall.EDQUOT, syscall.EDQUOT},
	{syscall.ENAMETOOLONG, syscall.ENAMETOOLONG},
	{syscall.EFBIG, syscall.EFBIG},
	{syscall.EINTR, syscall.EINTR},
	{syscall.EAGAIN, syscall.EAGAIN},
	{syscall.ESTALE, syscall.ESTALE},
	{syscall.EINVAL, syscall.EINVAL},
	{syscall.EMFILE, syscall.EMFILE},
	{syscall.ENFILE, syscall.ENFILE},
	{syscall.ENOMEM, syscall.ENOMEM},
}

// errno returns the errno of an error of a control command; EIO for what is in no table.
func errno(err error) syscall.Errno {
	if err == nil {
		return 0
	}
	for _, e := range errnos {
		if errors.Is(err, e.err) {
			return e.errno
		}
	}
	return syscall.EIO
}

// status is errno for those who read the tree: there, what is corrupt is an I/O
// error, as on a disk. What errno does not tell is noted.
func (f *fsys) status(op string, id nodeID, err error) fuse.Status {
	e := errno(err)
	if e == syscall.EBADMSG || e == syscall.EFBIG || e == syscall.EOPNOTSUPP {
		e = syscall.EIO
	}
	if e == syscall.EIO {
		f.ctl.Note(op, f.describe(id), err)
		f.log.Error("request failed", "op", op, "node", f.describe(id), "err", err)
	}
	return fuse.Status(e)
}
