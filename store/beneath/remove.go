package beneath

import (
	"errors"
	"io"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// RemoveAll removes a tree, however deep, and follows nothing in it; one that
// is not there is no error.
func (r *Root) RemoveAll(p string) error {
	fd, base, err := r.parent(p)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return r.wrap("remove", p, err)
	}
	defer unix.Close(fd)
	return r.wrap("remove", p, RemoveAllAt(fd, base))
}

// RemoveAllAt is Root.RemoveAll for a name in a directory that is open; a single
// one, and not "..". Errors are errnos.
func RemoveAllAt(dir int, base string) error { return (&remover{top: -1}).remove(dir, base, 0) }

// maxOpen is how many directories RemoveAll has open at a time.
const maxOpen = 64

// remover removes one tree. What lies deeper than maxOpen is moved to the top,
// whose names are read until there are none, so that neither descriptors nor
// memory grow with the depth.
type remover struct {
	top int // the tree's own directory, -1 until it is open
}

func (t *remover) remove(dir int, base string, depth int) error {
	Step()
	err := unix.Unlinkat(dir, base, 0)
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	if !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.EPERM) {
		return err
	}
	if depth == maxOpen {
		return t.lift(dir, base)
	}
	fd, err := openToEmpty(dir, base)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), base)
	defer f.Close()
	if t.top < 0 {
		t.top = fd
	}
	for {
		names, err := f.Readdirnames(1024)
		for _, n := range names {
			if err := t.remove(fd, n, depth+1); err != nil {
				return err
			}
		}
		if len(names) == 0 {
			if err != nil && !errors.Is(err, io.EOF) {
				return err
			}
			break
		}
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return err
		}
	}
	return unix.Unlinkat(dir, base, unix.AT_REMOVEDIR)
}

// lift moves a directory to the top of the tree.
func (t *remover) lift(dir int, base string) error {
	to := ".lifted-" + Random(8)
	err := unix.Renameat(dir, base, t.top, to)
	if errors.Is(err, unix.EACCES) && allow(dir, base) == nil { // its ".." changes
		err = unix.Renameat(dir, base, t.top, to)
	}
	return err
}

// openToEmpty opens a directory so that its entries can be removed.
func openToEmpty(dir int, base string) (int, error) {
	const flags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	fd, err := unix.Openat(dir, base, flags, 0)
	if errors.Is(err, unix.EACCES) && allow(dir, base) == nil {
		fd, err = unix.Openat(dir, base, flags, 0)
	}
	if err != nil {
		return -1, err
	}
	var st unix.Stat_t
	if unix.Fstat(fd, &st) == nil && st.Mode&0o700 != 0o700 {
		_ = unix.Fchmod(fd, 0o700)
	}
	return fd, nil
}

// allow gives an ordinary user all permissions on their own directory, and
// changes nothing else that may have come into its place.
func allow(dir int, base string) error {
	fd, err := unix.Openat(dir, base, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Chmod("/proc/self/fd/"+strconv.Itoa(fd), 0o700)
}
