package save

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"imagefs/store"
)

// OCIDir writes images as an OCI layout directory, which must not exist yet or
// be empty. It appears whole, and on disk, or not at all: it is written beside
// its place and renamed. o.Progress is told of both compressing and writing.
func OCIDir(ctx context.Context, dir string, items []Item, o OCIOptions) (err error) {
	if err := vacant(dir); err != nil {
		return err
	}
	up, base := filepath.Split(filepath.Clean(dir))
	if up == "" {
		up = "."
	}
	tmp, err := os.MkdirTemp(up, "."+base+".")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.RemoveAll(tmp)
		}
	}()
	if err := os.Chmod(tmp, 0o755); err != nil {
		return err
	}
	l, err := newLayout(ctx, items, o, nil)
	if err != nil {
		return err
	}
	defer l.close()
	if err := l.finish(); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(tmp, blobDir), 0o755); err != nil {
		return err
	}
	var done, total int64
	for _, m := range l.members {
		total += m.size()
	}
	for _, m := range l.members {
		err := l.writeMember(ctx, filepath.Join(tmp, m.name), m, func(n int64) {
			if o.Progress != nil {
				o.Progress(Progress{done + n, total, m.what()})
			}
		})
		if err != nil {
			return err
		}
		done += m.size()
	}
	if err := syncAll(tmp); err != nil {
		return err
	}
	// The file system replaces an empty directory; anything else stays.
	if err := unix.Rename(tmp, dir); err != nil {
		return &fs.PathError{Op: "rename", Path: dir, Err: err}
	}
	return SyncDir(up)
}

func (m *member) what() string {
	if m.part != nil {
		return m.part.what
	}
	return m.name
}

func (l *layout) writeMember(ctx context.Context, name string, m member, tell func(int64)) (err error) {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return m.write(ctx, f, tell)
}

// write writes a member's content.
func (m *member) write(ctx context.Context, w io.Writer, tell func(int64)) error {
	if m.part == nil {
		n, err := w.Write(m.body)
		tell(int64(n))
		return err
	}
	one := &Archive{}
	one.add(section{part: m.part})
	return one.Write(ctx, w, func(p Progress) { tell(p.Done) })
}

// vacant checks that there is nothing at a path but perhaps an empty directory.
func vacant(dir string) error {
	st, err := os.Lstat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if !st.IsDir() {
		return fmt.Errorf("%s is there and no directory: %w", dir, store.ErrExists)
	}
	all, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	if len(all) > 0 {
		return fmt.Errorf("%s is not empty: %w", dir, store.ErrExists)
	}
	return nil
}

// syncAll brings a file system's data to the disk.
func syncAll(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := unix.Syncfs(int(d.Fd())); err != nil {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	return nil
}

// SyncDir brings the names in a directory to the disk.
func SyncDir(dir string) error {
	d, err := os.Open(strings.TrimSuffix(dir, "/") + "/.")
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
