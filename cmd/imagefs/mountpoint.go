package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"imagefs/fusefs"
	"imagefs/store"
)

// maxDead bounds how many dead mounts are cleared from one directory.
const maxDead = 32

// prepareMountpoint returns the resolved path of a directory that can be
// mounted on. Mounts of imagefs there whose server was killed are cleared away.
func prepareMountpoint(dir string) (string, error) {
	path, err := resolve(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return "", advised{fmt.Errorf("no directory %s", dir), "make it first (mkdir)"}
	}
	if err != nil {
		return "", err
	}
	for n := 0; isDead(path); n++ {
		m, err := mountAt(path)
		if err != nil {
			return "", err
		}
		if m == nil || m.FSType != fusefs.FSType || n == maxDead {
			return "", advised{fmt.Errorf("%s: %w", path, unix.ENOTCONN), "it is a mount of another program that died; unmount it first (fusermount3 -u)"}
		}
		if err := unmount(path, true); err != nil {
			return "", fmt.Errorf("clear the dead mount: %w", err)
		}
	}
	st, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	if !st.IsDir() {
		return "", fmt.Errorf("%s is not a directory", dir)
	}
	m, err := mountAt(path)
	if err != nil {
		return "", err
	}
	if m != nil && m.FSType == fusefs.FSType {
		return "", advised{fmt.Errorf("%s is mounted already, from the store %s", path, m.Source), "unmount it first (imagefs umount)"}
	}
	return path, nil
}

// refuseOverlap fails if a mountpoint is, contains or lies in a store: reading
// either would then wait for itself. Paths are resolved, and directories are
// compared by device and inode too, so that a bind mount does not hide it.
func refuseOverlap(dir, root string) error {
	if root == "" {
		return nil
	}
	root, err := filepath.EvalSymlinks(root)
	if err != nil {
		return err
	}
	var how string
	switch {
	case dir == root || sameFile(dir, root):
		how = "is"
	case within(root, dir):
		how = "contains"
	case within(dir, root):
		how = "lies in"
	default:
		return nil
	}
	return advised{fmt.Errorf("the mountpoint %s %s the store %s: %w", dir, how, root, store.ErrInvalid), "choose another directory"}
}

// within tells whether path lies below dir, by name or, for one of the
// directories on the way up, by being the same.
func within(path, dir string) bool {
	if strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/") {
		return true
	}
	for p := path; p != "/"; {
		p = filepath.Dir(p)
		if sameFile(p, dir) {
			return true
		}
	}
	return false
}
