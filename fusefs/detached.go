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

// lookAt returns what the kernel knows of what is mounted at dir, without asking the
// server, which is this process: killed while it waits for itself it would never end.
func lookAt(dir string) (st unix.Statx_t, err error) {
	err = unix.Statx(unix.AT_FDCWD, dir, unix.AT_SYMLINK_NOFOLLOW|unix.AT_STATX_DONT_SYNC, unix.STATX_MNT_ID_UNIQUE, &st)
	return st, err
}

// mountID returns the number of the mount at dir, which no other ever has; 0 before Linux 6.8.
func mountID(dir string) uint64 {
	st, err := lookAt(dir)
	if err != nil || st.Mask&unix.STATX_MNT_ID_UNIQUE == 0 {
		return 0
	}
	return st.Mnt_id
}

// clearDead unmounts the mount of that number if it is still at dir, when nobody
// serves it any more: its connection was ended, as umount(8) with --force does
// before it finds the tree in use.
func clearDead(dir string, id uint64) {
	if id != 0 && mountID(dir) == id {
		_ = Unmount(dir, true)
	}
}

// watchMount calls detached each time that the mount table has changed and no
// longer has the mount at dir, and from then on each second, until ctx ends.
func watchMount(ctx context.Context, dir string, detached func()) error {
	root, err := lookAt(dir)
	if err != nil {
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
	defer stop.Close() // beside the end of ctx: polling may fail before that
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
