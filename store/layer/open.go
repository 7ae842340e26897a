package layer

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"imagefs/overlay"
	"imagefs/store"
	"imagefs/store/beneath"
)

// file is a regular file of a diff directory.
type file struct {
	*os.File
	size int64
}

func (f *file) Size() int64 { return f.size }

var _ store.FDer = (*file)(nil)

// MissingError is the error for a file or directory of a layer that is not in its
// diff directory. It wraps store.ErrGone, as where the layer is being removed;
// whoever knows that the layer is still there knows that it is damaged.
type MissingError struct{ Path string }

func (e *MissingError) Error() string { return fmt.Sprintf("%.300q is no longer in the layer", e.Path) }
func (e *MissingError) Unwrap() error { return store.ErrGone }

// Open opens a regular file of a layer in its diff directory. The file must be
// what the index says, a regular file of that size: a MissingError if it is not
// there, store.ErrCorrupt if it is another.
func Open(dir *os.File, l overlay.Layer, i overlay.Ino) (store.File, error) {
	return new(Near).Open(dir, l, i)
}

// openIn is beneath.OpenAt in a directory that another goroutine may close: its
// descriptor is held for the call, and cannot be another file's by then.
// os.ErrClosed if it was closed before.
func openIn(dir *os.File, path string, flags int) (fd int, err error) {
	c, err := dir.SyscallConn()
	if err != nil {
		return -1, err
	}
	if cerr := c.Control(func(d uintptr) { fd, err = beneath.OpenAt(int(d), path, flags) }); cerr != nil {
		return -1, os.ErrClosed // there is no other reason
	}
	return fd, err
}

// openRegularIn is beneath.OpenRegular in such a directory.
func openRegularIn(dir *os.File, path string) (fd int, st unix.Stat_t, err error) {
	c, err := dir.SyscallConn()
	if err != nil {
		return -1, st, err
	}
	if cerr := c.Control(func(d uintptr) { fd, st, err = beneath.OpenRegular(int(d), path, unix.O_RDONLY) }); cerr != nil {
		return -1, st, os.ErrClosed
	}
	return fd, st, err
}

// sized turns what opening a regular file gave into the file, if it has that size.
func sized(path string, size int64, fd int, st *unix.Stat_t, err error) (int, error) {
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		return -1, &MissingError{path}
	case errors.Is(err, os.ErrClosed), errors.Is(err, unix.ESTALE):
		return -1, fmt.Errorf("%.300q: the layer's directory is no longer there: %w", path, store.ErrGone)
	case errors.Is(err, beneath.ErrNotRegular), errors.Is(err, unix.ELOOP), errors.Is(err, unix.EXDEV):
		return -1, corrupt("%.300q is another file than the layer's (%v)", path, err)
	case err != nil:
		return -1, pathError("open", path, err)
	}
	if st.Size != size {
		unix.Close(fd)
		return -1, corrupt("%.300q has %d bytes where the layer has %d", path, st.Size, size)
	}
	return fd, nil
}
