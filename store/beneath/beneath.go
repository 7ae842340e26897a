// Package beneath reads and writes files below one directory and never outside
// it: no symbolic link is followed, no ".." obeyed (openat2(2) with
// RESOLVE_BENEATH and RESOLVE_NO_SYMLINKS), whatever a stranger put there.
package beneath

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"

	"golang.org/x/sys/unix"
)

// Errors of reading; test with errors.Is.
var (
	// ErrTooLarge: a file over its limit, or a directory of more than a million names.
	ErrTooLarge = errors.New("too large")
	// ErrNotRegular: something else where there should be a regular file.
	ErrNotRegular = errors.New("not a regular file")
	// ErrNotSynced: a file was replaced, but may not be after a crash.
	ErrNotSynced = errors.New("written, but it may not survive a crash")
)

// maxNames bounds what List returns.
const maxNames = 1 << 20

const resolve = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS

// Root is an open directory. Paths are relative, "/"-separated; "." is the
// directory itself. Errors are *fs.PathError. Safe for concurrent use.
type Root struct {
	f    *os.File
	name string
}

// Open opens the directory at name, which may itself be reached through links.
func Open(name string) (*Root, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return &Root{f, name}, nil
}

// Close closes the directory.
func (r *Root) Close() error { return r.f.Close() }

// Name returns the name that the root was opened with.
func (r *Root) Name() string { return r.name }

// Fd returns the root's descriptor, which stays the Root's.
func (r *Root) Fd() int { return int(r.f.Fd()) }

func (r *Root) wrap(op, p string, err error) error {
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: op, Path: path.Join(r.name, p), Err: err}
}

// OpenAt opens a path below a directory, through no symbolic link and not by one
// either: with O_PATH and without O_DIRECTORY it opens the link itself. Errors are errnos.
func OpenAt(dir int, p string, flags int) (int, error) {
	return openat2(dir, p, flags|unix.O_NOFOLLOW, 0)
}

func (r *Root) openat2(p string, flags int, mode uint32) (int, error) {
	return openat2(r.Fd(), p, flags, mode)
}

func openat2(dir int, p string, flags int, mode uint32) (int, error) {
	for {
		fd, err := unix.Openat2(dir, p, &unix.OpenHow{Flags: uint64(flags | unix.O_CLOEXEC), Mode: uint64(mode), Resolve: resolve})
		if !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.EAGAIN) {
			return fd, err
		}
	}
}

// OpenFile is os.OpenFile beneath the root for directories (with O_DIRECTORY)
// and regular files. Nothing else is opened: ErrNotRegular.
func (r *Root) OpenFile(p string, flags int, mode uint32) (*os.File, error) {
	if flags&unix.O_CREAT != 0 {
		Step()
	}
	fd, err := r.open(p, flags, mode)
	if err != nil {
		return nil, r.wrap("open", p, err)
	}
	return File(fd, path.Join(r.name, p)), nil
}

func (r *Root) open(p string, flags int, mode uint32) (fd int, err error) {
	const create = unix.O_CREAT | unix.O_EXCL
	if flags&unix.O_DIRECTORY != 0 || flags&create == create {
		return r.openat2(p, flags|unix.O_NOFOLLOW, mode)
	}
	for range 8 { // somebody may make or remove it at the same time
		if fd, _, err = OpenRegular(r.Fd(), p, flags&^create); flags&unix.O_CREAT == 0 || !errors.Is(err, unix.ENOENT) {
			return fd, err
		}
		if fd, err = r.openat2(p, flags|create|unix.O_NOFOLLOW, mode); !errors.Is(err, unix.EEXIST) {
			return fd, err
		}
	}
	return fd, err
}

// Dir opens a directory for listing and as the base of other calls.
func (r *Root) Dir(p string) (*os.File, error) {
	return r.OpenFile(p, unix.O_RDONLY|unix.O_DIRECTORY, 0)
}

// Sub opens a directory as a Root of its own.
func (r *Root) Sub(p string) (*Root, error) {
	f, err := r.Dir(p)
	if err != nil {
		return nil, err
	}
	return &Root{f, path.Join(r.name, p)}, nil
}

// Read returns a regular file's content, at most limit bytes; ErrTooLarge beyond.
func (r *Root) Read(p string, limit int64) ([]byte, error) {
	f, err := r.OpenFile(p, os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if st.Size() > limit {
		return nil, r.wrap("read", p, fmt.Errorf("%w: %d bytes, limit %d", ErrTooLarge, st.Size(), limit))
	}
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		return nil, r.wrap("read", p, ErrTooLarge)
	}
	return b, err
}

// List returns the names in a directory, sorted; ErrTooLarge for more than a million.
func (r *Root) List(p string) ([]string, error) {
	f, err := r.Dir(p)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	names, err := f.Readdirnames(maxNames + 1)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	if len(names) > maxNames {
		return nil, r.wrap("list", p, ErrTooLarge)
	}
	slices.Sort(names)
	return names, err
}

// parent opens the directory that the last component of p is in.
func (r *Root) parent(p string) (fd int, base string, err error) {
	dir, base := path.Split(path.Clean(p))
	if base == "." || base == ".." || base == "" {
		return -1, "", unix.EINVAL
	}
	if dir == "" {
		dir = "."
	}
	fd, err = r.openat2(path.Clean(dir), unix.O_PATH|unix.O_DIRECTORY, 0)
	return fd, base, err
}

// at runs do on the directory of p.
func (r *Root) at(op, p string, do func(dir int, base string) error) error {
	fd, base, err := r.parent(p)
	if err != nil {
		return r.wrap(op, p, err)
	}
	defer unix.Close(fd)
	return r.wrap(op, p, do(fd, base))
}

// Stat is lstat(2).
func (r *Root) Stat(p string) (unix.Stat_t, error) {
	var st unix.Stat_t
	if p == "." {
		return st, r.wrap("stat", p, unix.Fstat(r.Fd(), &st))
	}
	err := r.at("stat", p, func(d int, b string) error { return unix.Fstatat(d, b, &st, unix.AT_SYMLINK_NOFOLLOW) })
	return st, err
}

// Exists tells whether something is at p.
func (r *Root) Exists(p string) bool {
	_, err := r.Stat(p)
	return err == nil
}

// IsDir tells whether p is a directory.
func (r *Root) IsDir(p string) bool {
	st, err := r.Stat(p)
	return err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR
}

// Readlink returns a symbolic link's target.
func (r *Root) Readlink(p string) (string, error) {
	buf := make([]byte, 4096)
	n := 0
	err := r.at("readlink", p, func(d int, b string) (err error) {
		n, err = unix.Readlinkat(d, b, buf)
		return err
	})
	return string(buf[:max(n, 0)]), err
}

// Mkdir makes a directory with exactly this mode; one that is there already stays as it is.
func (r *Root) Mkdir(p string, mode uint32) error {
	return r.at("mkdir", p, func(d int, b string) error {
		Step()
		err := unix.Mkdirat(d, b, mode)
		if errors.Is(err, unix.EEXIST) {
			return nil
		}
		if err != nil {
			return err
		}
		return unix.Fchmodat(d, b, mode, 0)
	})
}

// Symlink makes a symbolic link.
func (r *Root) Symlink(target, p string) error {
	return r.at("symlink", p, func(d int, b string) error {
		Step()
		return unix.Symlinkat(target, d, b)
	})
}

// Rename is rename(2).
func (r *Root) Rename(from, to string) error {
	fd, base, err := r.parent(from)
	if err != nil {
		return r.wrap("rename", from, err)
	}
	defer unix.Close(fd)
	return r.at("rename to", to, func(d int, b string) error {
		Step()
		return unix.Renameat(fd, base, d, b)
	})
}

// Remove removes a file or an empty directory; one that is not there is no error.
func (r *Root) Remove(p string) error {
	return r.at("remove", p, func(d int, b string) error {
		Step()
		err := unix.Unlinkat(d, b, 0)
		if errors.Is(err, unix.EISDIR) || errors.Is(err, unix.EPERM) {
			err = unix.Unlinkat(d, b, unix.AT_REMOVEDIR)
		}
		if errors.Is(err, unix.ENOENT) {
			return nil
		}
		return err
	})
}

// Write replaces a file in one step that survives a crash: temporary name,
// fsync, rename, fsync of the directory. With an error the old file is still
// there, unless it is ErrNotSynced: then the new one is.
func (r *Root) Write(p string, data []byte, mode uint32) error {
	return r.WriteVia(path.Dir(p), p, data, mode)
}

// WriteVia is Write with the temporary file in another directory, of the same
// file system, where whoever clears up after a crash looks for it.
func (r *Root) WriteVia(dir, p string, data []byte, mode uint32) error {
	tmp := path.Join(dir, ".tmp-"+Random(8))
	f, err := r.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	Step()
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(fs.FileMode(mode&0o777)))
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = r.Rename(tmp, p)
	}
	if err != nil {
		_ = r.Remove(tmp)
		return r.wrap("write", p, err)
	}
	if err := r.SyncDir(path.Dir(p)); err != nil {
		return fmt.Errorf("%w: %w", ErrNotSynced, err)
	}
	return nil
}

// SyncDir makes the names in a directory durable.
func (r *Root) SyncDir(p string) error {
	f, err := r.Dir(p)
	if err != nil {
		return err
	}
	defer f.Close()
	Step()
	return r.wrap("fsync", p, unix.Fsync(int(f.Fd())))
}

// SyncFS makes everything on the root's file system durable.
func (r *Root) SyncFS() error { return r.wrap("syncfs", ".", unix.Syncfs(r.Fd())) }

// Random returns n random bytes in hex.
func Random(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return hex.EncodeToString(b)
}
