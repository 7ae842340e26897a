package layer

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"imagefs/overlay"
	"imagefs/store"
	"imagefs/store/beneath"
)

const resolveBeneath = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS

// OpenBeneath opens a path below a directory, through no symbolic link and out
// of no mount of /proc.
func OpenBeneath(dir int, path string, flags int) (int, error) {
	for {
		fd, err := unix.Openat2(dir, path, &unix.OpenHow{
			Flags:   uint64(flags | unix.O_CLOEXEC | unix.O_NOFOLLOW),
			Resolve: resolveBeneath,
		})
		if !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.EAGAIN) {
			return fd, err
		}
	}
}

// file is a regular file of a diff directory.
type file struct {
	*os.File
	size int64
}

func (f *file) Size() int64 { return f.size }

var _ store.FDer = (*file)(nil)

// Open opens a regular file of a layer in its diff directory. The file must be
// what the index says, a regular file of that size: store.ErrGone if it is not
// there, store.ErrCorrupt if it is another.
func Open(dir *os.File, l overlay.Layer, i overlay.Ino) (store.File, error) {
	f, err := openFileAt(dir, string(l.Path(nil, i)), int64(l.Stat(i).Size))
	if err != nil {
		return nil, err // and not a File that holds no file
	}
	return f, nil
}

// ReadWhole reads a regular file of a layer below dir into p, which is as long as the file.
func ReadWhole(dir *os.File, l overlay.Layer, i overlay.Ino, p []byte) error {
	return readFileAt(dir, string(l.Path(nil, i)), p)
}

// openIn is OpenBeneath in a directory that another goroutine may close: its
// descriptor is held for the call, and cannot be another file's by then.
// os.ErrClosed if it was closed before.
func openIn(dir *os.File, path string, flags int) (fd int, err error) {
	c, err := dir.SyscallConn()
	if err != nil {
		return -1, err
	}
	if cerr := c.Control(func(d uintptr) { fd, err = OpenBeneath(int(d), path, flags) }); cerr != nil {
		return -1, cerr
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
		return -1, st, cerr
	}
	return fd, st, err
}

func openFileAt(dir *os.File, path string, size int64) (*file, error) {
	fd, err := openSized(dir, path, size)
	if err != nil {
		return nil, err
	}
	return &file{File: beneath.File(fd, path), size: size}, nil
}

// readFileAt reads a whole file, which must have as many bytes as p, and is
// cheaper than to open and close it.
func readFileAt(dir *os.File, path string, p []byte) error {
	fd, err := openSized(dir, path, int64(len(p)))
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for done := 0; done < len(p); {
		n, err := unix.Pread(fd, p[done:], int64(done))
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return pathError("read", path, err)
		case n == 0:
			return io.EOF
		default:
			done += n
		}
	}
	return nil
}

// openSized opens a regular file of that size.
func openSized(dir *os.File, path string, size int64) (int, error) {
	fd, st, err := openRegularIn(dir, path)
	switch {
	case errors.Is(err, os.ErrClosed), errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ESTALE):
		return -1, fmt.Errorf("%.300q is no longer in the layer: %w", path, store.ErrGone)
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
