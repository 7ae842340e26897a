package layer

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"imagefs/overlay"
)

// extractor writes a layer's diff directory in the form of the kernel's
// overlayfs, and collects its records. What exists below dst it has made
// itself; names are used one at a time beneath a directory's descriptor.
type extractor struct {
	b      *overlay.Builder
	dirs   *dirCache
	spill  spill
	unpriv bool
	late   bool // a directory has a default ACL
}

const (
	accessACL = "system.posix_acl_access" // sets the permission bits too
	// A default ACL is set last: before, it would change what is made in its directory.
	defaultACL = "system.posix_acl_default"
)

func newExtractor(o UnpackOptions) *extractor {
	return &extractor{b: overlay.NewBuilder(), dirs: newDirCache(int(o.Dst.Fd())),
		spill: spill{f: o.Spill}, unpriv: o.Unprivileged}
}

func (x *extractor) close() { x.dirs.close() }

// openFile is a regular file under construction.
type openFile struct {
	fd, dir int
	base    string
}

func (f *openFile) close() { unix.Close(f.fd) }

func (f *openFile) blocks() (uint64, error) {
	var st unix.Stat_t
	err := unix.Fstat(f.fd, &st)
	return uint64(st.Blocks), err
}

// createFile makes an empty file; what was at its path is gone.
func (x *extractor) createFile(p string) (*openFile, error) {
	var f openFile
	err := x.create(p, func(dir int, base string) (err error) {
		f.dir, f.base = dir, base
		f.fd, err = unix.Openat(dir, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &f, nil
}

// create makes a new name with mk; where there is one already, it is removed first.
func (x *extractor) create(p string, mk func(dir int, base string) error) error {
	dir, base, err := x.parent(p)
	if err != nil {
		return err
	}
	err = mk(dir, base)
	if errors.Is(err, unix.EEXIST) {
		if err = x.remove(p); err != nil {
			return err
		}
		err = mk(dir, base)
	}
	return pathError("create", p, err)
}

// finishFile sets what is left once the content is there. The order matters:
// chown clears setuid and capabilities, and a write would change the time.
func (x *extractor) finishFile(f *openFile, e *overlay.Entry) error {
	if !x.unpriv {
		if err := unix.Fchown(f.fd, int(e.UID), int(e.GID)); err != nil {
			return pathError("chown", e.Path, err)
		}
	}
	if err := unix.Fchmod(f.fd, x.mode(e.Mode, 0o600)); err != nil {
		return pathError("chmod", e.Path, err)
	}
	var err error
	e.Xattrs, err = x.setXattrs(e.Path, e.Xattrs, func(name string, v []byte) error { return unix.Fsetxattr(f.fd, name, v, 0) })
	if err != nil {
		return err
	}
	if err := x.readMode(f.dir, f.base, e); err != nil {
		return err
	}
	return x.setTime(f.dir, f.base, e.Path, &e.Attr)
}

// readMode takes the mode from disk where an ACL may have changed it.
func (x *extractor) readMode(dir int, base string, e *overlay.Entry) error {
	if x.unpriv || !slices.ContainsFunc(e.Xattrs, func(a overlay.Xattr) bool { return a.Name == accessACL }) {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Fstatat(dir, base, &st, 0); err != nil {
		return pathError("stat", e.Path, err)
	}
	e.Mode = e.Mode&^0o7777 | st.Mode&0o7777
	return nil
}

// mode is the mode on disk; an ordinary user keeps access to what is theirs.
func (x *extractor) mode(m, need uint32) uint32 {
	if x.unpriv {
		return m&0o777 | need
	}
	return m & 0o7777
}

// makeDir makes a directory, or gives the one that is there new attributes. Its time is set by settle.
func (x *extractor) makeDir(e *overlay.Entry) error {
	if e.Path == "" {
		if err := x.clearXattrs(fdPath(x.dirs.root)+"/.", e.Path); err != nil {
			return err
		}
		return x.setDir(unix.AT_FDCWD, fdPath(x.dirs.root), e)
	}
	dir, base, err := x.parent(e.Path)
	if err != nil {
		return err
	}
	err = unix.Mkdirat(dir, base, 0o700)
	if errors.Is(err, unix.EEXIST) {
		if a, _, ok := x.b.Find(e.Path, false); !ok || a.Mode&unix.S_IFMT != unix.S_IFDIR {
			if err = x.remove(e.Path); err == nil {
				err = unix.Mkdirat(dir, base, 0o700)
			}
		} else {
			err = x.clearXattrs(procPath(dir, base), e.Path)
		}
	}
	if err != nil {
		return pathError("mkdir", e.Path, err)
	}
	if err := x.setDir(dir, base, e); err != nil {
		return err
	}
	return x.hideLower(e.Path, dir, base)
}

// setDir gives a directory owner, mode and xattrs. base may be a path below /proc.
func (x *extractor) setDir(dir int, base string, e *overlay.Entry) error {
	if !x.unpriv {
		if err := unix.Fchownat(dir, base, int(e.UID), int(e.GID), 0); err != nil {
			return pathError("chown", e.Path, err)
		}
	}
	if err := unix.Fchmodat(dir, base, x.mode(e.Mode, 0o700), 0); err != nil {
		return pathError("chmod", e.Path, err)
	}
	var err error
	e.Xattrs, err = x.setXattrs(e.Path, e.Xattrs, func(name string, v []byte) error {
		err := unix.Setxattr(procPath(dir, base), name, v, 0)
		if name == defaultACL && err == nil {
			x.late = true
			err = unix.Removexattr(procPath(dir, base), name)
		}
		return err
	})
	if err != nil {
		return err
	}
	return x.readMode(dir, base, e)
}

func fdPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// procPath names an entry of an open directory, for the xattr calls, which take no directory.
func procPath(dir int, base string) string {
	if strings.HasPrefix(base, "/") {
		return base
	}
	return fdPath(dir) + "/" + base
}

func (x *extractor) makeSymlink(e *overlay.Entry) error {
	var d int
	var b string
	err := x.create(e.Path, func(dir int, base string) error {
		d, b = dir, base
		return unix.Symlinkat(e.Link, dir, base)
	})
	if err != nil {
		return err
	}
	if !x.unpriv {
		if err := unix.Fchownat(d, b, int(e.UID), int(e.GID), unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return pathError("chown", e.Path, err)
		}
	}
	e.Xattrs, err = x.setXattrs(e.Path, e.Xattrs, func(name string, v []byte) error { return unix.Lsetxattr(procPath(d, b), name, v, 0) })
	if err != nil {
		return err
	}
	return x.setTime(d, b, e.Path, &e.Attr)
}

// makeSpecial makes a device, fifo or socket; for an ordinary user the index alone has it.
func (x *extractor) makeSpecial(e *overlay.Entry) error {
	if x.unpriv {
		return x.clearIn(e.Path)
	}
	typ := map[overlay.Kind]uint32{overlay.Char: unix.S_IFCHR, overlay.Block: unix.S_IFBLK, overlay.Fifo: unix.S_IFIFO, overlay.Socket: unix.S_IFSOCK}[e.Kind]
	var d int
	var b string
	err := x.create(e.Path, func(dir int, base string) error {
		d, b = dir, base
		return unix.Mknodat(dir, base, typ|0o600, int(e.Rdev))
	})
	if err != nil {
		return err
	}
	if err := unix.Fchownat(d, b, int(e.UID), int(e.GID), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return pathError("chown", e.Path, err)
	}
	if err := unix.Fchmodat(d, b, e.Mode&0o7777, 0); err != nil {
		return pathError("chmod", e.Path, err)
	}
	e.Xattrs, err = x.setXattrs(e.Path, e.Xattrs, func(name string, v []byte) error { return unix.Lsetxattr(procPath(d, b), name, v, 0) })
	if err != nil {
		return err
	}
	return x.setTime(d, b, e.Path, &e.Attr)
}

// clear makes sure that nothing is at a path, without asking for more than that.
func (x *extractor) clear(p string) error {
	if _, _, ok := x.b.Find(p, false); !ok {
		return nil
	}
	err := x.remove(p)
	if errors.Is(err, unix.ENOENT) {
		return nil // a device that the index alone has
	}
	return err
}

// clearIn is clear, and makes sure of the directory.
func (x *extractor) clearIn(p string) error {
	if _, _, err := x.parent(p); err != nil {
		return err
	}
	return x.clear(p)
}

// makeLink gives a file one more name; a link whose target has not come yet waits for link.
func (x *extractor) makeLink(p, target string) error {
	if p == target {
		return nil
	}
	if _, _, ok := x.b.Find(target, false); ok {
		if err := x.link(p, target); err != nil {
			return err
		}
	} else if err := x.clearIn(p); err != nil {
		return err
	}
	return classify(x.b.Add(overlay.Entry{Path: p, Kind: overlay.Hardlink, Link: target}))
}

// link makes a hard link on disk; the builder already has the target.
func (x *extractor) link(p, target string) error {
	a, _, _ := x.b.Find(target, false)
	switch a.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return corrupt("hard link %.200q to the directory %.200q", p, target)
	case unix.S_IFREG, unix.S_IFLNK:
	default:
		if x.unpriv {
			return x.clearIn(p)
		}
	}
	if strings.HasPrefix(target, p+"/") || strings.HasPrefix(p, target+"/") {
		return corrupt("hard link %.200q and its target %.200q cannot both be there", p, target)
	}
	td, tb, err := x.parent(target)
	if err != nil {
		return err
	}
	// The parent of p may push the target's out of the cache.
	if td, err = unix.Dup(td); err != nil {
		return err
	}
	defer unix.Close(td)
	return x.create(p, func(dir int, base string) error { return unix.Linkat(td, tb, dir, base, 0) })
}

// makeWhiteout hides a name of the layers below. What this layer itself adds under that name stays.
func (x *extractor) makeWhiteout(p string) error {
	if a, _, ok := x.b.Find(p, false); ok {
		if a.Mode&unix.S_IFMT != unix.S_IFDIR {
			return nil
		}
		dir, base, err := x.parent(p)
		if err != nil {
			return err
		}
		return x.setOpaque(p, dir, base)
	}
	dir, base, err := x.parent(p)
	if err != nil || x.unpriv {
		return err
	}
	if err := unix.Mknodat(dir, base, unix.S_IFCHR, 0); err != nil && !errors.Is(err, unix.EEXIST) {
		return pathError("make whiteout", p, err)
	}
	return nil
}

// makeOpaque hides what the layers below have in a directory. In the root the
// kernel does not honour it: settle puts whiteouts there.
func (x *extractor) makeOpaque(p string) error {
	if p == "" {
		return nil
	}
	if _, err := x.dir(p); err != nil {
		return err
	}
	dir, base, err := x.parent(p)
	if err != nil {
		return err
	}
	return x.setOpaque(p, dir, base)
}

func (x *extractor) setOpaque(p string, dir int, base string) error {
	if x.unpriv {
		return nil
	}
	return pathError("set opaque", p, unix.Setxattr(procPath(dir, base), "trusted.overlay.opaque", []byte("y"), 0))
}

// setXattrs sets what the file system takes, and returns that: an attribute
// that the kernel would not show is none.
func (x *extractor) setXattrs(p string, xs []overlay.Xattr, set func(string, []byte) error) ([]overlay.Xattr, error) {
	if x.unpriv || len(xs) == 0 {
		return xs, nil
	}
	kept := xs[:0]
	for _, a := range xs {
		err := set(a.Name, a.Value)
		switch {
		case err == nil:
			kept = append(kept, a)
		case errors.Is(err, unix.ENOTSUP), errors.Is(err, unix.EPERM), errors.Is(err, unix.EINVAL):
		default:
			return nil, fmt.Errorf("set xattr %.100q of %.300q: %w", a.Name, p, err)
		}
	}
	return kept, nil
}

// clearXattrs takes away what an earlier entry gave a directory. Overlayfs's own stay.
func (x *extractor) clearXattrs(xpath, p string) error {
	if x.unpriv {
		return nil
	}
	buf := make([]byte, 64<<10)
	n, err := unix.Llistxattr(xpath, buf)
	if err != nil {
		if errors.Is(err, unix.ENOTSUP) {
			return nil
		}
		return pathError("list xattrs of", p, err)
	}
	for name := range strings.SplitSeq(string(buf[:n]), "\x00") {
		if wantXattr(name) {
			if err := unix.Lremovexattr(xpath, name); err != nil && !errors.Is(err, unix.ENODATA) {
				return pathError("remove xattr of", p, err)
			}
		}
	}
	return nil
}

// setTime sets the modification time. A time that the file system may not be
// able to keep is read back, so that the index says what the disk says.
func (x *extractor) setTime(dir int, base, p string, a *overlay.Attr) error {
	ts := []unix.Timespec{{Sec: a.Sec, Nsec: int64(a.Nsec)}, {Sec: a.Sec, Nsec: int64(a.Nsec)}}
	if err := unix.UtimesNanoAt(dir, base, ts, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return pathError("set the time of", p, err)
	}
	if a.Sec <= math.MaxInt32 || x.unpriv {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Fstatat(dir, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return pathError("stat", p, err)
	}
	a.Sec, a.Nsec = st.Mtim.Sec, uint32(st.Mtim.Nsec)
	return nil
}

func writeAll(fd int, b []byte) error {
	for len(b) > 0 {
		n, err := unix.Write(fd, b)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("write: %w", err)
		}
		b = b[n:]
	}
	return nil
}

// writeSparse writes at an offset, and leaves pages of zeros out.
func writeSparse(fd int, b []byte, off int64) error {
	const page = 4096
	for len(b) > 0 {
		n := min(page, len(b))
		if !isZero(b[:n]) {
			for done := 0; done < n; {
				m, err := unix.Pwrite(fd, b[done:n], off+int64(done))
				if err != nil && !errors.Is(err, unix.EINTR) {
					return fmt.Errorf("write: %w", err)
				}
				done += max(m, 0)
			}
		}
		b, off = b[n:], off+int64(n)
	}
	return nil
}

var zeros [4096]byte

// isZero takes at most a page.
func isZero(b []byte) bool { return bytes.Equal(b, zeros[:len(b)]) }

func truncate(fd int, size int64) error {
	if err := unix.Ftruncate(fd, size); err != nil {
		return fmt.Errorf("truncate to %d bytes: %w", size, err)
	}
	return nil
}

// readNames lists an open directory.
func readNames(fd int) ([]string, error) {
	d, err := unix.Dup(fd)
	if err != nil {
		return nil, err
	}
	unix.CloseOnExec(d)
	f := os.NewFile(uintptr(d), "directory")
	defer f.Close()
	if _, err := f.Seek(0, 0); err != nil {
		return nil, err
	}
	return f.Readdirnames(-1)
}
