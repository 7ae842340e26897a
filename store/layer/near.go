package layer

import (
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"imagefs/overlay"
	"imagefs/store"
	"imagefs/store/beneath"
)

// Near opens files of one layer's diff directory. When several in a row lie in the
// same directory it keeps that open: a walk through the path, and the care that it
// takes, then cost more than the file. The zero value is ready; safe for concurrent use.
type Near struct {
	mu   sync.Mutex // guards what follows; who would have to wait does without
	last string     // directory of the last file
	kept string     // directory that is open
	at   *os.File   // it, or nil
}

// mostKept bounds the directories that are kept open, of all layers: a store can
// have more of these than a process may have descriptors.
const mostKept = 256

var keptOpen atomic.Int32

// Open is the function Open.
func (n *Near) Open(dir *os.File, l overlay.Layer, i overlay.Ino) (store.File, error) {
	f, err := n.openFile(dir, string(l.Path(nil, i)), int64(l.Stat(i).Size))
	if err != nil {
		return nil, err // and not a File that holds no file
	}
	return f, nil
}

func (n *Near) openFile(dir *os.File, path string, size int64) (*file, error) {
	fd, err := n.open(dir, path, size)
	if err != nil {
		return nil, err
	}
	return &file{File: beneath.File(fd, path), size: size}, nil
}

// ReadWhole reads a regular file into p, which must be as long as the file, and is
// cheaper than to open and close it.
func (n *Near) ReadWhole(dir *os.File, l overlay.Layer, i overlay.Ino, p []byte) error {
	return n.readFile(dir, string(l.Path(nil, i)), p)
}

func (n *Near) readFile(dir *os.File, path string, p []byte) error {
	fd, err := n.open(dir, path, int64(len(p)))
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

// open opens a regular file of that size.
func (n *Near) open(dir *os.File, path string, size int64) (int, error) {
	if fd, st, err, ok := n.beside(dir, path); ok {
		return sized(path, size, fd, &st, err)
	}
	fd, st, err := openRegularIn(dir, path)
	return sized(path, size, fd, &st, err)
}

// beside opens a file in the directory that is kept open; ok is false if that is another.
func (n *Near) beside(dir *os.File, path string) (fd int, st unix.Stat_t, err error, ok bool) {
	slash := strings.LastIndexByte(path, '/')
	if slash < 0 {
		return -1, st, nil, false
	}
	at := n.parent(dir, path[:slash])
	if at == nil {
		return -1, st, nil, false
	}
	c, err := at.SyscallConn()
	if err != nil {
		return -1, st, nil, false
	}
	// Another goroutine may close it meanwhile; then the long way it is.
	ok = c.Control(func(d uintptr) { fd, st, err = beneath.OpenRegularIn(int(d), path[slash+1:]) }) == nil
	return fd, st, err, ok
}

// parent returns a directory, open, if the last file was in it too; else nil.
func (n *Near) parent(dir *os.File, path string) *os.File {
	if !n.mu.TryLock() {
		return nil
	}
	defer n.mu.Unlock()
	if n.at != nil && path == n.kept {
		return n.at
	}
	if path != n.last {
		n.last = path
		return nil
	}
	n.closeLocked()
	if keptOpen.Add(1) > mostKept {
		keptOpen.Add(-1)
		return nil
	}
	fd, err := openIn(dir, path, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		keptOpen.Add(-1)
		return nil // the long way tells why
	}
	n.kept, n.at = path, os.NewFile(uintptr(fd), path)
	return n.at
}

// Close lets go of the directory. Near can be used again.
func (n *Near) Close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.closeLocked()
}

// Trim is Close for whoever must not wait; it does nothing while the directory is being changed.
func (n *Near) Trim() {
	if n.mu.TryLock() {
		defer n.mu.Unlock()
		n.closeLocked()
	}
}

func (n *Near) closeLocked() {
	if n.at != nil {
		n.at.Close()
		n.at, n.kept = nil, ""
		keptOpen.Add(-1)
	}
}
