package fusefs

import (
	"context"
	"errors"
	"os"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// A mount that was unmounted lazily lives on as long as somebody has a file of
// it open. Who waits for events would keep it for ever, so they are let go.

// watchMount calls detached each time that the mount table has changed and no
// longer has the mount at dir, until ctx ends.
func watchMount(ctx context.Context, dir string, detached func()) error {
	var root unix.Stat_t
	if err := unix.Lstat(dir, &root); err != nil {
		return err
	}
	table, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	defer table.Close()
	end, stop, err := os.Pipe()
	if err != nil {
		return err
	}
	defer end.Close()
	defer context.AfterFunc(ctx, func() { stop.Close() })()
	fds := []unix.PollFd{{Fd: int32(table.Fd()), Events: unix.POLLPRI}, {Fd: int32(end.Fd())}}
	for ctx.Err() == nil {
		if !mounted(root.Dev) {
			detached()
		}
		// POLLERR and POLLPRI tell that the table has changed, see proc_pid_mountinfo(5).
		if _, err := unix.Poll(fds, -1); err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
	}
	return nil
}

// mounted tells whether a file system is in this process's mount table, wherever.
func mounted(dev uint64) bool {
	all, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
		is := m.Major == int(unix.Major(dev)) && m.Minor == int(unix.Minor(dev))
		return !is, is
	})
	return err != nil || len(all) > 0
}
