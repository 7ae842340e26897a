// Package daemon is what a store has to do with the Docker daemon that lives on it,
// wherever the daemon keeps its images: finding it among those that can be asked,
// and loading images into it.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"imagefs/store/daemon/api"
)

// Find returns a client of the first daemon at hosts, which are as api.New has
// them, that is the one looked for: is returns nil for it. nil hosts stands for
// the usual ones. If none is, why each is not.
func Find(ctx context.Context, hosts []string, is func(context.Context, *api.Client) error) (*api.Client, []error) {
	if hosts == nil {
		hosts = api.Usual()
	}
	var why []error
	for _, h := range hosts {
		c, err := api.New(h)
		if err == nil {
			err = is(ctx, c)
		}
		if err == nil {
			return c, nil
		}
		why = append(why, err)
	}
	return nil, why
}

// Reasons makes one text of why several daemons are not the one.
func Reasons(why []error) string {
	var out []string
	for _, err := range why {
		out = append(out, err.Error())
	}
	return strings.Join(out, "; ")
}

// Another is the error of a daemon that is not the one looked for.
func Another(c *api.Client, format string, args ...any) error {
	return fmt.Errorf("the daemon at %s is another: %s", c.Host(), fmt.Sprintf(format, args...))
}

// View returns the root directory of a daemon that has just answered: what a
// path means to it, which may be in a container, it means below that.
func View(c *api.Client, d api.Daemon) (string, error) {
	switch peer := c.Peer(); {
	case !c.Local():
		// Nothing tells which process answers. One of another machine has the same paths.
		if host, err := os.Hostname(); err != nil || d.Name != host {
			return "", Another(c, "it runs on the host %.64q", d.Name)
		}
		return "/", nil
	case peer <= 0:
		return "", fmt.Errorf("the daemon at %s runs outside of this PID namespace, so that its files cannot be compared", c.Host())
	default:
		return fmt.Sprintf("/proc/%d/root", peer), nil
	}
}

// open opens what is at a path for a process whose root is view, only to look at
// it. The caller closes the descriptor.
func open(view, path string) (int, error) {
	v, err := unix.Open(view, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	defer unix.Close(v)
	return unix.Openat2(v, filepath.Clean(path), &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT})
}

// Listener returns the ID of the process that listens on the socket that is at a
// path for a process whose root is view.
func Listener(view, path string) (pid int, err error) {
	at, err := open(view, path)
	if err != nil {
		return 0, err
	}
	defer unix.Close(at)
	s, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(s)
	// The path itself may be too long for a socket's address.
	if err := unix.Connect(s, &unix.SockaddrUnix{Name: fmt.Sprintf("/proc/self/fd/%d", at)}); err != nil {
		return 0, fmt.Errorf("connect: %w", err)
	}
	cred, err := unix.GetsockoptUcred(s, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return 0, err
	}
	if cred.Pid <= 0 {
		return 0, errors.New("it runs outside of this PID namespace")
	}
	return int(cred.Pid), nil
}

// Stat tells what is at a path for a process whose root is view.
func Stat(view, path string) (st unix.Stat_t, err error) {
	fd, err := open(view, path)
	if err != nil {
		return st, err
	}
	defer unix.Close(fd)
	return st, unix.Fstat(fd, &st)
}
