package harness

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Manifest is everything that a reader can see of a tree, one line a path:
// path, type, mode, owner, size, mtime, device, link count, target, xattrs and
// the SHA-256 of the content. Two views of an image are right when their
// manifests are equal.
type Manifest []string

// Lister makes manifests. With Memo it reads the content and the xattrs of an
// inode that is no directory once, for trees that show the same files many
// times: the kernel's caches make an inode the same whatever path leads to it.
// All the trees must show files of one file system (overlayfs gives each of its
// mounts a device number, but the layers' inode numbers).
type Lister struct {
	Memo bool

	seen map[inode]known
}

type inode struct {
	ino, size, mode, nlink uint64
	mtime                  unix.Timespec
}

type known struct{ xattrs, sum string }

// look returns the xattrs of a path, and the digest of what a regular file contains.
func (l *Lister) look(path string, st *unix.Stat_t) (k known, err error) {
	kind := st.Mode & unix.S_IFMT
	key := inode{st.Ino, uint64(st.Size), uint64(st.Mode), uint64(st.Nlink), st.Mtim}
	memo := l.Memo && kind != unix.S_IFDIR
	if memo {
		if k, ok := l.seen[key]; ok {
			return k, nil
		}
	}
	k.sum = "-"
	if kind == unix.S_IFREG {
		if k.sum, err = hash(path); err != nil {
			return k, err
		}
	}
	if k.xattrs, err = xattrs(path); err != nil {
		return k, err
	}
	if memo {
		if l.seen == nil {
			l.seen = map[inode]known{}
		}
		l.seen[key] = k
	}
	return k, nil
}

func hash(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// ReadManifest lists a tree.
func ReadManifest(t testing.TB, root string) Manifest {
	t.Helper()
	return (&Lister{}).Manifest(t, root)
}

// Manifest lists a tree.
func (l *Lister) Manifest(t testing.TB, root string) Manifest {
	t.Helper()
	var m Manifest
	err := l.walk(root, "/", &m)
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(m)
	return m
}

// walk does not use filepath.WalkDir, which cleans names and hides the errors of a listing that stops midway.
func (l *Lister) walk(root, rel string, m *Manifest) error {
	line, isDir, err := l.line(filepath.Join(root, rel), rel)
	if err != nil {
		return fmt.Errorf("%s: %w", root, err)
	}
	*m = append(*m, line)
	if !isDir {
		return nil
	}
	entries, err := os.ReadDir(filepath.Join(root, rel))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := l.walk(root, strings.TrimSuffix(rel, "/")+"/"+e.Name(), m); err != nil {
			return err
		}
		// What a listing says an entry is must be what it is.
		info, err := e.Info()
		if err != nil {
			return err
		}
		if e.Type() != info.Mode().Type() {
			return fmt.Errorf("%s/%s is listed as %v and is %v", rel, e.Name(), e.Type(), info.Mode().Type())
		}
	}
	return nil
}

var kinds = map[uint32]byte{unix.S_IFREG: 'f', unix.S_IFDIR: 'd', unix.S_IFLNK: 'l', unix.S_IFCHR: 'c', unix.S_IFBLK: 'b', unix.S_IFIFO: 'p', unix.S_IFSOCK: 's'}

func (l *Lister) line(path, rel string) (line string, isDir bool, err error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return "", false, fmt.Errorf("lstat %s: %w", rel, err)
	}
	kind, size, nlink, target := kinds[st.Mode&unix.S_IFMT], fmt.Sprint(st.Size), fmt.Sprint(st.Nlink), "-"
	switch kind {
	case 'd':
		size, nlink = "-", "-"
	case 'l':
		if target, err = os.Readlink(path); err != nil {
			return "", false, err
		}
	}
	k, err := l.look(path, &st)
	if err != nil {
		return "", false, err
	}
	return fmt.Sprintf("%q %c %o %d %d %s %d.%09d %d,%d %s %q %s %s", rel, kind, st.Mode&0o7777, st.Uid, st.Gid, size,
		st.Mtim.Sec, st.Mtim.Nsec, unix.Major(uint64(st.Rdev)), unix.Minor(uint64(st.Rdev)), nlink, target, k.xattrs, k.sum), kind == 'd', nil
}

// xattrs leaves out those by which overlay file systems keep their books.
func xattrs(path string) (string, error) {
	buf := make([]byte, 64<<10)
	n, err := unix.Llistxattr(path, buf)
	if errors.Is(err, unix.ENOTSUP) {
		return "[]", nil
	}
	if err != nil {
		return "", fmt.Errorf("listxattr %s: %w", path, err)
	}
	var out []string
	for _, name := range strings.Split(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00") {
		if name == "" || strings.HasPrefix(name, "trusted.overlay.") || strings.HasPrefix(name, "user.fuseoverlayfs.") {
			continue
		}
		value := make([]byte, 64<<10)
		v, err := unix.Lgetxattr(path, name, value)
		if err != nil {
			return "", fmt.Errorf("getxattr %s %s: %w", path, name, err)
		}
		out = append(out, name+"="+hex.EncodeToString(value[:v]))
	}
	slices.Sort(out)
	return "[" + strings.Join(out, ",") + "]", nil
}

// Same fails the test unless the trees are the same, and shows the first differences.
func Same(t testing.TB, what string, want, got Manifest) {
	t.Helper()
	const most = 10
	shown := 0
	show := func(sign, line string) {
		if shown++; shown <= most {
			t.Errorf("%s: %s %s", what, sign, line)
		}
	}
	i, j := 0, 0
	for i < len(want) || j < len(got) {
		switch {
		case j == len(got) || i < len(want) && want[i] < got[j]:
			show("missing", want[i])
			i++
		case i == len(want) || got[j] < want[i]:
			show("not expected", got[j])
			j++
		default:
			i, j = i+1, j+1
		}
	}
	if shown > most {
		t.Errorf("%s: and %d more differences", what, shown-most)
	}
}
