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
// longer has the mount at dir, and from then on each second, until ctx ends.
func watchMount(ctx context.Context, dir string, detached func()) error {
	// Of what the kernel remembers, without asking the server, which is this process:
	// killed while it waits for itself it would never end.
	var root unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, dir, unix.AT_SYMLINK_NOFOLLOW|unix.AT_STATX_DONT_SYNC, 0, &root); err != nil {
		return err
	}
	// Not by package os: the runtime would poll it too, and who polls first takes the news.
	table, err := unix.Open("/proc/self/mountinfo", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(table)
	end, stop, err := os.Pipe()
	if err != nil {
		return err
	}
	defer end.Close()
	defer context.AfterFunc(ctx, func() { stop.Close() })()
	fds := []unix.PollFd{{Fd: int32(table), Events: unix.POLLPRI}, {Fd: int32(end.Fd())}}
	wait := -1
	for ctx.Err() == nil {
		if !mounted(int(root.Dev_major), int(root.Dev_minor)) {
			detached()
			wait = 1000 // milliseconds: who had a file open may only now begin to wait
		}
		// POLLERR and POLLPRI tell that the table has changed, see proc_pid_mountinfo(5).
		if _, err := unix.Poll(fds, wait); err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
	}
	return nil
}

// mounted tells whether a file system is in this process's mount table, wherever.
func mounted(major, minor int) bool {
	all, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
		is := m.Major == major && m.Minor == minor
		return !is, is
	})
	return err != nil || len(all) > 0
}
