package layer

import (
	"golang.org/x/sys/unix"

	"imagefs/store/beneath"
)

// maxOpen is how many directories, one in the other, a walk keeps open.
const maxOpen = 64

// place is a directory that a walk is in. One that lies deeper than maxOpen is
// let go of while the walk is far below it, and opened again when it comes back,
// so that descriptors do not grow with the depth.
type place struct {
	up    *place
	path  string // an Entry's
	depth int    // below the start of the walk
	fd    int    // -1 while it is let go of

	top      int // the deepest directory above that stays open
	topPath  int // the length of its path
	dev, ino uint64
}

// start begins a walk in a directory, which stays the caller's. path is what it is called.
func start(fd int, path string) *place { return &place{path: path, fd: fd} }

// open opens a directory in d, for the caller to close.
func (d *place) open(name string) (*place, error) {
	fd, err := d.at()
	if err != nil {
		return nil, err
	}
	sub := &place{up: d, path: join(d.path, name), depth: d.depth + 1, top: d.top, topPath: d.topPath}
	if d.stays() {
		sub.top, sub.topPath = fd, len(d.path)
	}
	sub.fd, err = unix.Openat(fd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	// Not d, since most directories have none in them.
	if d.up != nil {
		d.up.leave()
	}
	return sub, nil
}

// stays tells whether the directory is kept open.
func (d *place) stays() bool { return d.depth < maxOpen }

// leave lets go of the directory if it lies deep.
func (d *place) leave() {
	if d.stays() || d.fd < 0 {
		return
	}
	var st unix.Stat_t
	if unix.Fstat(d.fd, &st) != nil {
		return
	}
	d.dev, d.ino = uint64(st.Dev), st.Ino
	d.close()
}

// at returns the directory's descriptor, which stays the place's. ENOENT if it
// was let go of and is no longer there.
func (d *place) at() (int, error) {
	if d.fd >= 0 {
		return d.fd, nil
	}
	path := d.path[d.topPath:]
	if d.topPath > 0 {
		path = path[1:] // the slash
	}
	fd, err := beneath.OpenAt(d.top, path, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return -1, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return -1, err
	}
	if uint64(st.Dev) != d.dev || st.Ino != d.ino {
		unix.Close(fd)
		return -1, unix.ENOENT // another has its name now
	}
	d.fd = fd
	return fd, nil
}

// close lets go of what open has opened.
func (d *place) close() {
	if d.up != nil && d.fd >= 0 {
		unix.Close(d.fd)
		d.fd = -1
	}
}
