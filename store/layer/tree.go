package layer

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"imagefs/overlay"
	"imagefs/store"
	"imagefs/store/beneath"
)

// Some drivers keep for each layer the whole tree that it and the layers below
// it make, with no record of what is the layer's own.

// ScanSplitTree is ScanSplit for a layer whose whole tree lies in dir: the
// headers in the tar-split tell what of it is the layer's, the tree has the
// attributes. Where something else is in its place the header counts.
func ScanSplitTree(ctx context.Context, split io.Reader, dir *os.File, lower func() (*overlay.Tree, error), lim Limits) (*overlay.Builder, error) {
	t := &treeLook{scanner: newScanner(ctx, Whole, lim), root: int(dir.Fd()), at: "", fd: int(dir.Fd())}
	defer t.close()
	var r Records
	tr := tar.NewReader(&splitTar{r: newSplitReader(split)})
	if err := r.collect(ctx, tr.Next, lim.withDefaults(), func(_ *tar.Header, e *record) error { return t.look(&e.Entry) }); err != nil {
		return nil, err
	}
	return r.Inherit(lower)
}

// treeLook looks up entries in a tree. Those of one directory come together,
// which stays open.
type treeLook struct {
	*scanner
	root, fd int
	at       string // the path of fd
}

func (t *treeLook) close() {
	if t.fd != t.root {
		unix.Close(t.fd)
		t.fd = t.root
	}
}

// chdir opens the directory of an entry; false if the tree has none.
func (t *treeLook) chdir(path string) (bool, error) {
	if path == t.at {
		return true, nil
	}
	t.close()
	t.at = ""
	if path == "" {
		return true, nil
	}
	fd, err := beneath.OpenAt(t.root, path, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		if isOther(err) {
			return false, nil
		}
		return false, pathError("open", path, err)
	}
	t.fd, t.at = fd, path
	return true, nil
}

// isOther tells whether an error means that something else than was looked for is there, or nothing.
func isOther(err error) bool {
	for _, e := range []error{unix.ENOENT, unix.ENOTDIR, unix.ELOOP, unix.EXDEV} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// look gives an entry the attributes that it has in the tree.
func (t *treeLook) look(e *overlay.Entry) error {
	switch e.Kind {
	case overlay.Hardlink, overlay.Whiteout, overlay.Opaque:
		return nil
	}
	dir, base := splitPath(e.Path)
	if ok, err := t.chdir(dir); err != nil || !ok {
		return err
	}
	fd, xpath := t.fd, procPath(t.fd, base)
	if base == "" {
		base, xpath = ".", fdPath(t.fd)+"/."
	}
	var st unix.Stat_t
	if err := unix.Fstatat(fd, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		if isOther(err) {
			return nil
		}
		return pathError("stat", e.Path, err)
	}
	found, _, err := t.read(e.Path, xpath, fd, &st)
	if err != nil {
		return err
	}
	if found.Kind != e.Kind || found.Link != e.Link || found.Rdev != e.Rdev || e.Kind == overlay.File && found.Size != e.Size {
		return nil
	}
	e.Attr, e.Xattrs = found.Attr, found.Xattrs
	return nil
}

// ScanTree collects the records of a layer whose whole tree lies in dir by
// comparing it with the tree of the layer below, parent. A file is the same in
// both if it is one inode, or has the same attributes: size and time among
// them, but nobody reads the content. fix is as ScanFixed has it. Nothing outside
// the two is reached.
func ScanTree(ctx context.Context, dir, parent *os.File, fix func(*overlay.Entry), lim Limits) (*overlay.Builder, error) {
	d := &differ{scanner: newScanner(ctx, Whole, lim), old: newScanner(ctx, Whole, lim)}
	d.fix, d.old.fix = fix, fix
	var now, was unix.Stat_t
	for _, f := range []struct {
		*os.File
		st *unix.Stat_t
	}{{dir, &now}, {parent, &was}} {
		if err := unix.Fstat(int(f.Fd()), f.st); err != nil {
			return nil, fmt.Errorf("stat %s: %w", f.Name(), err)
		}
	}
	d.dev, d.old.dev = uint64(now.Dev), uint64(was.Dev)
	if err := d.both(start(int(dir.Fd()), ""), start(int(parent.Fd()), ""), &now, &was); err != nil {
		return nil, err
	}
	return d.b, nil
}

// differ compares two trees: the scanner's, whose records it collects, and an old one.
type differ struct {
	*scanner
	old *scanner
}

// both compares two directories at one path, just opened, and adds what differs.
func (d *differ) both(now, was *place, st, wasSt *unix.Stat_t) error {
	changed, err := d.names(now, was)
	if err != nil {
		return err
	}
	fd, wasFd, err := d.at(now, was)
	if err != nil {
		return err
	}
	same, err := d.same(now.path, fdPath(fd)+"/.", fdPath(wasFd)+"/.", fd, wasFd, st, wasSt)
	if err != nil || same && !changed && now.path != "" {
		return err
	}
	return d.add(now.path, fdPath(fd)+"/.", fd, st)
}

// at returns the descriptors of two directories at one path.
func (d *differ) at(now, was *place) (fd, wasFd int, err error) {
	if fd, err = now.at(); err == nil {
		wasFd, err = was.at()
	}
	return fd, wasFd, pathError("open", now.path, err)
}

// names compares the names in two directories.
func (d *differ) names(at, was *place) (changed bool, err error) {
	path := at.path
	if err := d.ctx.Err(); err != nil {
		return false, err
	}
	if at.depth > 2048 {
		return false, fmt.Errorf("%.200q is %d directories deep: %w", path, at.depth, store.ErrTooLarge)
	}
	now, err := readNames(at.fd)
	if err != nil {
		return false, pathError("read", path, err)
	}
	old, err := readNames(was.fd)
	if err != nil {
		return false, pathError("read", path, err)
	}
	slices.Sort(now)
	slices.Sort(old)
	if d.count += len(now); d.count > d.lim.Entries {
		return false, fmt.Errorf("layer of more than %d entries: %w", d.lim.Entries, store.ErrTooLarge)
	}
	for _, name := range old {
		if _, ok := slices.BinarySearch(now, name); !ok {
			changed = true
			if err := d.b.Add(overlay.Entry{Path: join(path, name), Kind: overlay.Whiteout}); err != nil {
				return true, classify(err)
			}
		}
	}
	for _, name := range now {
		_, had := slices.BinarySearch(old, name)
		c, err := d.name(at, was, name, had)
		if err != nil {
			return true, err
		}
		changed = changed || c || !had
	}
	return changed, nil
}

// name takes one name of a directory, which the old one may have had.
func (d *differ) name(at, oldAt *place, name string, had bool) (changed bool, err error) {
	p := join(at.path, name)
	fd, was, err := d.at(at, oldAt)
	if err != nil {
		return false, err
	}
	var st, old unix.Stat_t
	if err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return false, pathError("stat", p, err)
	}
	if had {
		if err := unix.Fstatat(was, name, &old, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return false, pathError("stat", p, err)
		}
	}
	isDir := st.Mode&unix.S_IFMT == unix.S_IFDIR
	if isDir && uint64(st.Dev) != d.dev {
		return false, nil // something is mounted here; it is not the layer's
	}
	if !isDir {
		if had {
			same, err := d.same(p, procPath(fd, name), procPath(was, name), fd, was, &st, &old)
			if err != nil || same {
				return false, err
			}
		}
		return true, d.add(p, procPath(fd, name), fd, &st)
	}
	sub, err := at.open(name)
	if err != nil {
		return false, pathError("open", p, err)
	}
	defer sub.close()
	if !had || old.Mode&unix.S_IFMT != unix.S_IFDIR {
		if err := d.add(p, fdPath(sub.fd)+"/.", sub.fd, &st); err != nil {
			return true, err
		}
		return true, d.dir(sub)
	}
	oldSub, err := oldAt.open(name)
	if err != nil {
		return false, pathError("open", p, err)
	}
	defer oldSub.close()
	return false, d.both(sub, oldSub, &st, &old)
}

// same tells whether two inodes at one path are the same to a reader, their
// content aside if they are files of one size and time.
func (d *differ) same(path, xpath, oldPath string, fd, was int, st, old *unix.Stat_t) (bool, error) {
	if st.Dev == old.Dev && st.Ino == old.Ino {
		return true, nil
	}
	isDir := st.Mode&unix.S_IFMT == unix.S_IFDIR
	if st.Mode != old.Mode || st.Uid != old.Uid || st.Gid != old.Gid || st.Rdev != old.Rdev || st.Mtim != old.Mtim || !isDir && st.Size != old.Size {
		return false, nil
	}
	a, _, err := d.read(path, xpath, fd, st)
	if err != nil {
		return false, err
	}
	b, _, err := d.old.read(path, oldPath, was, old)
	if err != nil {
		return false, err
	}
	byName := func(x, y overlay.Xattr) int { return cmp.Compare(x.Name, y.Name) }
	slices.SortFunc(a.Xattrs, byName)
	slices.SortFunc(b.Xattrs, byName)
	return a.Link == b.Link && slices.EqualFunc(a.Xattrs, b.Xattrs, func(x, y overlay.Xattr) bool {
		return x.Name == y.Name && bytes.Equal(x.Value, y.Value)
	}), nil
}
