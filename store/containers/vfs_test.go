package containers

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"imagefs/overlay"
)

// materialise writes what layers show together, as the vfs driver keeps it.
func materialise(t testing.TB, stack []written, dir string) {
	t.Helper()
	m := materialiser{t: t, stack: stack, tree: merge(t, stack), links: map[overlay.NodeID]string{}}
	m.must(os.MkdirAll(dir, 0o755))
	m.dir(m.tree.Root(), dir)
	m.finish(m.tree.Root(), dir)
}

type materialiser struct {
	t     testing.TB
	stack []written
	tree  *overlay.Tree
	links map[overlay.NodeID]string
}

func (m *materialiser) must(err error) {
	m.t.Helper()
	if err != nil {
		m.t.Fatal(err)
	}
}

func (m *materialiser) dir(n overlay.NodeID, path string) {
	d, err := m.tree.Dir(n)
	m.must(err)
	for {
		name, c, _, ok := d.Next()
		if !ok {
			return
		}
		p := filepath.Join(path, name)
		a := m.tree.Attr(c)
		typ := a.Mode & unix.S_IFMT
		if typ != unix.S_IFDIR {
			if first, ok := m.links[c]; ok {
				m.must(os.Link(first, p))
				continue
			}
			m.links[c] = p
		}
		switch typ {
		case unix.S_IFDIR:
			m.must(os.Mkdir(p, 0o700))
			m.dir(c, p)
		case unix.S_IFREG:
			m.copy(c, p)
		case unix.S_IFLNK:
			m.must(os.Symlink(m.tree.Readlink(c), p))
		default:
			if err := unix.Mknod(p, a.Mode, int(a.Rdev)); err != nil {
				if !errors.Is(err, fs.ErrPermission) {
					m.t.Fatal(err)
				}
				continue
			}
		}
		m.finish(c, p)
	}
}

func (m *materialiser) copy(n overlay.NodeID, p string) {
	src, err := m.stack[n.Layer()].open(n.Ino())
	m.must(err)
	defer src.Close()
	f, err := os.Create(p)
	m.must(err)
	defer f.Close()
	_, err = io.Copy(f, io.NewSectionReader(src, 0, src.Size()))
	m.must(err)
}

// finish gives a file its attributes.
func (m *materialiser) finish(n overlay.NodeID, p string) {
	a := m.tree.Attr(n)
	if os.Geteuid() == 0 {
		m.must(unix.Lchown(p, int(a.UID), int(a.GID)))
		m.tree.Xattrs(n, func(name string, v []byte) bool {
			m.must(unix.Lsetxattr(p, name, v, 0))
			return true
		})
	}
	if a.Mode&unix.S_IFMT != unix.S_IFLNK {
		m.must(unix.Chmod(p, a.Mode&0o7777))
	}
	ts := []unix.Timespec{{Sec: a.Sec, Nsec: int64(a.Nsec)}, {Sec: a.Sec, Nsec: int64(a.Nsec)}}
	m.must(unix.UtimesNanoAt(unix.AT_FDCWD, p, ts, unix.AT_SYMLINK_NOFOLLOW))
}
