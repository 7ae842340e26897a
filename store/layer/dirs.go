package layer

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"imagefs/store/beneath"
)

// maxDirs is how many directories are kept open at a time.
const maxDirs = 128

// dirCache keeps the directories that are being written to open, so that a path
// is walked once and not for each entry. Paths are an Entry's; "" is the root,
// which is not owned.
type dirCache struct {
	root int
	fds  map[string]int
	ring []string // in the order of opening; the oldest goes first
}

func newDirCache(root int) *dirCache { return &dirCache{root: root, fds: map[string]int{}} }

func (c *dirCache) get(p string) (int, bool) {
	if p == "" {
		return c.root, true
	}
	fd, ok := c.fds[p]
	return fd, ok
}

func (c *dirCache) put(p string, fd int) {
	if len(c.ring) >= maxDirs {
		c.drop(c.ring[0])
		c.ring = c.ring[1:]
	}
	p = strings.Clone(p)
	c.fds[p] = fd
	c.ring = append(c.ring, p)
}

func (c *dirCache) drop(p string) {
	if fd, ok := c.fds[p]; ok {
		unix.Close(fd)
		delete(c.fds, p)
	}
}

// forget closes a directory that is about to be removed, and all below it.
func (c *dirCache) forget(p string) {
	keep := c.ring[:0]
	for _, k := range c.ring {
		if k == p || strings.HasPrefix(k, p+"/") {
			c.drop(k)
		} else {
			keep = append(keep, k)
		}
	}
	c.ring = keep
}

func (c *dirCache) close() {
	for _, fd := range c.fds {
		unix.Close(fd)
	}
	c.fds, c.ring = map[string]int{}, nil
}

const openDir = unix.O_PATH | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC

// dir opens the directory p, and makes it, with its parents, where it is
// missing or something else. No symbolic link is followed: one in the place of
// a directory is replaced by a directory, as engines have it.
func (x *extractor) dir(p string) (int, error) {
	if fd, ok := x.dirs.get(p); ok {
		return fd, nil
	}
	parent, base := splitPath(p)
	if _, near := x.dirs.get(parent); !near {
		// One walk for all that is there already, however deep.
		if fd, err := beneath.OpenAt(x.dirs.root, p, unix.O_PATH|unix.O_DIRECTORY); err == nil {
			x.dirs.put(p, fd)
			return fd, nil
		}
	}
	up, err := x.dir(parent)
	if err != nil {
		return -1, err
	}
	fd, err := unix.Openat(up, base, openDir, 0)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
		if !errors.Is(err, unix.ENOENT) {
			if err := x.remove(p); err != nil {
				return -1, err
			}
		}
		if err := unix.Mkdirat(up, base, 0o755); err != nil {
			return -1, pathError("mkdir", p, err)
		}
		if fd, err = unix.Openat(up, base, openDir, 0); err != nil {
			return -1, pathError("open", p, err)
		}
		if err := x.impliedDir(p, up, base); err != nil {
			unix.Close(fd)
			return -1, err
		}
	case err != nil:
		return -1, pathError("open", p, err)
	}
	x.dirs.put(p, fd)
	return fd, nil
}

// impliedDir gives a directory that was just made the mode of one that no entry describes.
func (x *extractor) impliedDir(p string, up int, base string) error {
	if err := unix.Fchmodat(up, base, 0o755, 0); err != nil {
		return pathError("chmod", p, err)
	}
	return x.hideLower(p, up, base)
}

// hideLower makes a directory opaque that has a whiteout of its own name beside it.
func (x *extractor) hideLower(p string, up int, base string) error {
	if _, _, ok := x.b.Find(p, true); ok {
		return x.setOpaque(p, up, base)
	}
	return nil
}

// parent opens the directory that a path is in.
func (x *extractor) parent(p string) (fd int, base string, err error) {
	dir, base := splitPath(p)
	fd, err = x.dir(dir)
	return fd, base, err
}

// remove takes away what is at p, a whole tree if it is a directory. Content
// that the tar-split refers to is put into the spill file first.
func (x *extractor) remove(p string) error {
	up, base, err := x.parent(p)
	if err != nil {
		return err
	}
	x.dirs.forget(p)
	var st unix.Stat_t
	if err := unix.Fstatat(up, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return pathError("stat", p, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		if err := x.spillFile(up, base, p, &st); err != nil {
			return err
		}
		return pathError("remove", p, unix.Unlinkat(up, base, 0))
	}
	if x.spill.f != nil {
		dir, _ := splitPath(p)
		if err := x.spillDir(start(up, dir), base); err != nil {
			return err
		}
	}
	return pathError("remove", p, beneath.RemoveAllAt(up, base))
}

// spillDir is spillFile for all files below a directory of up.
func (x *extractor) spillDir(up *place, base string) error {
	d, err := up.open(base)
	if err != nil {
		return pathError("open", join(up.path, base), err)
	}
	defer d.close()
	names, err := readNames(d.fd)
	if err != nil {
		return pathError("read", d.path, err)
	}
	for _, name := range names {
		p := join(d.path, name)
		fd, err := d.at()
		if err != nil {
			return pathError("open", d.path, err)
		}
		var st unix.Stat_t
		if err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return pathError("stat", p, err)
		}
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			err = x.spillDir(d, name)
		} else {
			err = x.spillFile(fd, name, p, &st)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// spillFile saves the content of a file that is about to be removed and that the tar-split names.
func (x *extractor) spillFile(up int, base, p string, st *unix.Stat_t) error {
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil
	}
	_, ref, ok := x.b.Find(p, false)
	if !ok || ref == 0 {
		return nil
	}
	fd, err := unix.Openat(up, base, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return pathError("open", p, err)
	}
	defer unix.Close(fd)
	return x.spill.add(ref, fd, st.Size)
}

func pathError(op, p string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s %.300q: %w", op, p, err)
}
