package beneath

import (
	"errors"
	"os"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// OpenRegular opens a regular file below a directory, through no symbolic link,
// and returns what fstat(2) says of it. Nothing else is opened, not even for a
// moment: the mere opening of a device can rewind a tape or start a watchdog,
// that of a fifo lets its writer go on. So the file is looked at through a
// descriptor that is only a place (O_PATH) and then opened by that, which
// cannot be another by then. ErrNotRegular; other errors are errnos.
func OpenRegular(dir int, p string, flags int) (fd int, st unix.Stat_t, err error) {
	at, err := OpenAt(dir, p, unix.O_PATH)
	if err != nil {
		return -1, st, err
	}
	defer unix.Close(at)
	if err := unix.Fstat(at, &st); err != nil {
		return -1, st, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return -1, st, ErrNotRegular
	}
	flags |= unix.O_CLOEXEC | unix.O_NONBLOCK
	for {
		fd, err = unix.Openat(ownFiles(), strconv.Itoa(at), flags, 0)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if !errors.Is(err, unix.EBADF) {
		return fd, st, err
	}
	// There is no /proc.
	return openAs(&st, func() (int, error) { return OpenAt(dir, p, flags) })
}

// OpenRegularIn opens a name in a directory that is open, for reading, in half the
// time of OpenRegular: who puts a fifo in a file's place at the very moment can have
// it opened and closed again. The name is a single one, and not "..".
func OpenRegularIn(dir int, name string) (fd int, st unix.Stat_t, err error) {
	if err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT); err != nil {
		return -1, st, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return -1, st, ErrNotRegular
	}
	return openAs(&st, func() (int, error) {
		for {
			fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK|unix.O_NOFOLLOW|unix.O_NOCTTY, 0)
			if !errors.Is(err, unix.EINTR) {
				return fd, err
			}
		}
	})
}

// openAs opens what was a regular file a moment ago, and must be it still. Whoever
// can put a device in its place at this moment is root, and needs no imagefs to open it.
func openAs(was *unix.Stat_t, open func() (int, error)) (fd int, now unix.Stat_t, err error) {
	if fd, err = open(); err != nil {
		return -1, now, err
	}
	if err = unix.Fstat(fd, &now); err == nil && (now.Dev != was.Dev || now.Ino != was.Ino || now.Mode&unix.S_IFMT != unix.S_IFREG) {
		err = ErrNotRegular
	}
	if err != nil {
		unix.Close(fd)
		return -1, now, err
	}
	return fd, now, nil
}

// File makes a file of a descriptor that OpenRegular returned, or of a directory's.
// The runtime does not poll it: it could be of a file system that this process
// serves itself, which cannot answer while the runtime asks it.
func File(fd int, name string) *os.File {
	_ = unix.SetNonblock(fd, false)
	return os.NewFile(uintptr(fd), name)
}

// ownFiles is the directory of this process's descriptors, -1 if there is no
// /proc. It stays open: a walk through /proc for each file would cost more than the file.
var ownFiles = sync.OnceValue(func() int {
	fd, err := unix.Open("/proc/self/fd", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1
	}
	return fd
})
