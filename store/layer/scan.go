package layer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"imagefs/overlay"
	"imagefs/store"
)

// Form is how a diff directory says what is taken away from the layers below.
type Form uint8

const (
	// Overlayfs is the kernel's form: character devices 0:0 are whiteouts,
	// directories with the xattr trusted.overlay.opaque (user.overlay.opaque
	// for rootless engines) are opaque, and its own xattrs are hidden.
	Overlayfs Form = iota
	// Aufs has the names of the archive: .wh.<name> and .wh..wh..opq. Other
	// names with .wh..wh. are what aufs keeps for itself, and hidden.
	Aufs
	// FuseOverlayfs is what fuse-overlayfs reads: the kernel's form, its own
	// xattrs in the same sense, and the names of the archive.
	FuseOverlayfs
	// Whole is for trees that have nothing below them: no name and no xattr
	// takes anything away.
	Whole
)

// opaqueXattrs are those that make a directory opaque.
var opaqueXattrs = map[Form][]string{
	Overlayfs:     {"trusted.overlay.opaque", "user.overlay.opaque"},
	FuseOverlayfs: {"trusted.overlay.opaque", "user.overlay.opaque", "user.fuseoverlayfs.opaque"},
}

// ownXattrs start the attributes that are a driver's and not the file's. They
// are hidden whatever the form: on a mount they would steer an overlayfs above it.
var ownXattrs = []string{"trusted.overlay.", "user.overlay.", "user.fuseoverlayfs."}

// Scan is ScanForm for the kernel's form.
func Scan(ctx context.Context, dir *os.File, lim Limits) (*overlay.Builder, error) {
	return ScanForm(ctx, dir, Overlayfs, lim)
}

// ScanForm collects the records of a layer from its diff directory, as the
// driver that has this form would read it. Nothing outside dir is reached.
func ScanForm(ctx context.Context, dir *os.File, form Form, lim Limits) (*overlay.Builder, error) {
	return ScanFixed(ctx, dir, form, nil, lim)
}

// ScanFixed is ScanForm for a directory whose files have other attributes than
// the layer's: fix, if not nil, changes each record, but for whiteouts, before
// it is taken. It may change all but the path, and of a file the kind.
func ScanFixed(ctx context.Context, dir *os.File, form Form, fix func(*overlay.Entry), lim Limits) (*overlay.Builder, error) {
	s := newScanner(ctx, form, lim)
	s.fix = fix
	var st unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &st); err != nil {
		return nil, fmt.Errorf("stat %s: %w", dir.Name(), err)
	}
	s.dev = uint64(st.Dev)
	if err := s.add("", fdPath(int(dir.Fd()))+"/.", int(dir.Fd()), &st); err != nil {
		return nil, err
	}
	if err := s.dir(start(int(dir.Fd()), "")); err != nil {
		return nil, err
	}
	return s.b, nil
}

type scanner struct {
	ctx   context.Context
	b     *overlay.Builder
	form  Form
	lim   Limits
	count int
	dev   uint64
	links map[uint64]string // inodes with several names → the first path
	fix   func(*overlay.Entry)
	buf   []byte
}

func newScanner(ctx context.Context, form Form, lim Limits) *scanner {
	return &scanner{ctx: ctx, b: overlay.NewBuilder(), form: form, lim: lim.withDefaults(), links: map[uint64]string{}, buf: make([]byte, 64<<10)}
}

// dir takes what is in a directory that was just opened, and below.
func (s *scanner) dir(d *place) error {
	if err := s.ctx.Err(); err != nil {
		return err
	}
	if d.depth > 2048 {
		return fmt.Errorf("%.200q is %d directories deep: %w", d.path, d.depth, store.ErrTooLarge)
	}
	names, err := readNames(d.fd)
	if err != nil {
		return pathError("read", d.path, err)
	}
	for _, name := range names {
		if s.count++; s.count > s.lim.Entries {
			return fmt.Errorf("layer of more than %d entries: %w", s.lim.Entries, store.ErrTooLarge)
		}
		if done, err := s.whiteout(d.path, name); err != nil {
			return err
		} else if done {
			continue
		}
		p := join(d.path, name)
		fd, err := d.at()
		if err != nil {
			if errors.Is(err, unix.ENOENT) {
				return nil // the layer is being removed
			}
			return pathError("open", d.path, err)
		}
		var st unix.Stat_t
		if err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			if errors.Is(err, unix.ENOENT) {
				continue // the layer is being removed
			}
			return pathError("stat", p, err)
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			if err := s.add(p, procPath(fd, name), fd, &st); err != nil {
				return err
			}
			continue
		}
		if uint64(st.Dev) != s.dev {
			continue // something is mounted here; it is not the layer's
		}
		sub, err := d.open(name)
		if err != nil {
			return pathError("open", p, err)
		}
		err = s.add(p, fdPath(sub.fd)+"/.", sub.fd, &st)
		if err == nil {
			err = s.dir(sub)
		}
		sub.close()
		if err != nil {
			return err
		}
	}
	return nil
}

// whiteout takes a name that the form gives a meaning; done is false for any other.
func (s *scanner) whiteout(dir, name string) (done bool, err error) {
	if s.form != Aufs && s.form != FuseOverlayfs || !strings.HasPrefix(name, overlay.WhiteoutPrefix) {
		return false, nil
	}
	kind, hidden, err := overlay.ParseWhiteout(name)
	switch {
	case err != nil:
		return false, classify(err)
	case kind == overlay.Whiteout:
		return true, classify(s.b.Add(overlay.Entry{Path: join(dir, hidden), Kind: kind}))
	case kind == overlay.Opaque:
		return true, classify(s.b.Add(overlay.Entry{Path: dir, Kind: kind}))
	}
	return s.form == Aufs, nil
}

// add takes one inode. xpath is where the xattr calls find it.
func (s *scanner) add(path, xpath string, dirfd int, st *unix.Stat_t) error {
	shared := st.Mode&unix.S_IFMT != unix.S_IFDIR && st.Nlink > 1
	if shared {
		if first, ok := s.links[st.Ino]; ok {
			return classify(s.b.Add(overlay.Entry{Path: path, Kind: overlay.Hardlink, Link: first}))
		}
	}
	e, opaque, err := s.read(path, xpath, dirfd, st)
	if err != nil {
		return err
	}
	if shared && e.Kind != overlay.Whiteout {
		s.links[st.Ino] = path
	}
	if err := s.b.Add(e); err != nil {
		return classify(err)
	}
	if opaque {
		return classify(s.b.Add(overlay.Entry{Path: path, Kind: overlay.Opaque}))
	}
	return nil
}

// read makes the record of one inode.
func (s *scanner) read(path, xpath string, dirfd int, st *unix.Stat_t) (e overlay.Entry, opaque bool, err error) {
	e = overlay.Entry{Path: path, Attr: overlay.Attr{
		Mode: st.Mode & 0o7777, UID: st.Uid, GID: st.Gid, Sec: st.Mtim.Sec, Nsec: uint32(st.Mtim.Nsec),
	}}
	typ := st.Mode & unix.S_IFMT
	switch typ {
	case unix.S_IFREG:
		e.Kind, e.Size, e.Blocks = overlay.File, uint64(st.Size), uint64(st.Blocks)
	case unix.S_IFDIR:
		e.Kind = overlay.Dir
	case unix.S_IFLNK:
		e.Kind = overlay.Symlink
		n, err := unix.Readlinkat(dirfd, path[strings.LastIndexByte(path, '/')+1:], s.buf)
		if err != nil {
			return e, false, pathError("readlink", path, err)
		}
		e.Link = string(s.buf[:n])
	case unix.S_IFCHR, unix.S_IFBLK:
		e.Kind = overlay.Block
		e.Rdev = rdev(unix.Major(uint64(st.Rdev)), unix.Minor(uint64(st.Rdev)))
		if typ == unix.S_IFCHR {
			e.Kind = overlay.Char
			if e.Rdev == 0 {
				e.Kind = overlay.Whiteout
				return e, false, nil
			}
		}
	case unix.S_IFIFO:
		e.Kind = overlay.Fifo
	case unix.S_IFSOCK:
		e.Kind = overlay.Socket
	default:
		return e, false, corrupt("%.200q has the unknown file type %#o", path, typ)
	}
	opaque, err = s.xattrs(&e, xpath)
	if s.fix != nil {
		s.fix(&e)
	}
	return e, opaque && e.Kind == overlay.Dir, err
}

// xattrs reads an inode's extended attributes.
func (s *scanner) xattrs(e *overlay.Entry, xpath string) (opaque bool, err error) {
	n, err := unix.Llistxattr(xpath, s.buf)
	if err != nil {
		if errors.Is(err, unix.ENOTSUP) {
			return false, nil
		}
		return false, pathError("list xattrs of", e.Path, err)
	}
	if n == 0 {
		return false, nil
	}
	val := make([]byte, 64<<10)
	for name := range bytes.SplitSeq(bytes.TrimSuffix(s.buf[:n], []byte{0}), []byte{0}) {
		k := string(name)
		own := slices.ContainsFunc(ownXattrs, func(p string) bool { return strings.HasPrefix(k, p) })
		if own && !slices.Contains(opaqueXattrs[s.form], k) {
			continue
		}
		m, err := unix.Lgetxattr(xpath, k, val)
		if err != nil {
			if errors.Is(err, unix.ENODATA) {
				continue
			}
			return false, pathError("read xattr "+k+" of", e.Path, err)
		}
		if own {
			opaque = opaque || m == 1 && val[0] == 'y'
			continue
		}
		e.Xattrs = append(e.Xattrs, overlay.Xattr{Name: k, Value: bytes.Clone(val[:m])})
	}
	return opaque, nil
}
