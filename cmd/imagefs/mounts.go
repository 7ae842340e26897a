package main

import (
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"imagefs/fusefs"
)

// mountAt returns the mount that is topmost at dir, nil if dir is no mountpoint.
func mountAt(dir string) (*mountinfo.Info, error) {
	all, err := mountinfo.GetMounts(mountinfo.SingleEntryFilter(dir))
	if err != nil {
		return nil, fmt.Errorf("read the mount table: %w", err)
	}
	// SingleEntryFilter stops at the first, which is the lowest of a stack.
	if len(all) == 0 {
		return nil, nil
	}
	all, err = mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) { return m.Mountpoint != dir, false })
	if err != nil || len(all) == 0 {
		return nil, err
	}
	return all[len(all)-1], nil
}

// ourMounts returns all mounts of imagefs, in the order of the mount table.
func ourMounts() ([]*mountinfo.Info, error) {
	all, err := mountinfo.GetMounts(mountinfo.FSTypeFilter(fusefs.FSType))
	if err != nil {
		return nil, fmt.Errorf("read the mount table: %w", err)
	}
	return all, nil
}

// answerTime is how long the server of a mount is given to answer.
const answerTime = 2 * time.Second

// isDead tells whether dir is a mountpoint whose server is gone. One that does
// not answer is not: it may be busy.
func isDead(dir string) bool {
	dead := make(chan bool, 1)
	go func() { dead <- statDead(dir) }() // which may never end
	select {
	case is := <-dead:
		return is
	case <-time.After(answerTime):
		return false
	}
}

// statDead asks with statfs(2), which asks the server each time, where stat(2)
// can be answered from what the kernel remembers.
func statDead(dir string) bool {
	var st unix.Statfs_t
	for tries := 0; ; tries++ {
		err := unix.Statfs(dir, &st)
		if !isDying(err) || tries == 100 {
			return errors.Is(err, unix.ENOTCONN) || isDying(err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// isDying tells whether an error is one of those that are told over io_uring of
// what was under way when the server died.
func isDying(err error) bool {
	return errors.Is(err, unix.ECONNABORTED) || errors.Is(err, unix.ECANCELED)
}

// resolve returns the absolute path of a directory with all links followed, as
// the mount table has it. A dead mountpoint cannot be looked at itself, and that of
// another user not even by root.
func resolve(dir string) (string, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	real, err := filepath.EvalSymlinks(abs)
	if err == nil {
		return real, nil
	}
	if !errors.Is(err, unix.ENOTCONN) && !isDying(err) && !errors.Is(err, unix.EACCES) {
		return "", err
	}
	parent, perr := filepath.EvalSymlinks(filepath.Dir(abs))
	if perr != nil {
		return "", err
	}
	return filepath.Join(parent, filepath.Base(abs)), nil
}

// unmount is fusefs.Unmount with advice where there is some.
func unmount(dir string, lazy bool) error {
	err := fusefs.Unmount(dir, lazy)
	if errors.Is(err, exec.ErrNotFound) {
		return advised{err, "install fuse3"}
	}
	return err
}
