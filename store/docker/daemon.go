package docker

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"imagefs/store"
	"imagefs/store/docker/api"
)

// change carries out a change: on disk, with the lock held, or if a daemon lives
// on the store through its API. Which of the two is decided anew each time.
func (s *Store) change(ctx context.Context, disk func() error, live func(*api.Client) error) error {
	unlock, err := s.lock(ctx)
	if errors.Is(err, errLive) {
		c, err := s.daemon(ctx)
		if err != nil {
			return err
		}
		return live(c)
	}
	if err != nil {
		return err
	}
	defer unlock()
	return disk()
}

// daemon finds the daemon that lives on the store. store.ErrReadOnly if none
// that can be asked is shown to be it.
func (s *Store) daemon(ctx context.Context) (*api.Client, error) {
	hosts := s.opts.Hosts
	if hosts == nil {
		hosts = api.Usual()
	}
	var why []string
	for _, h := range hosts {
		c, err := api.New(h)
		if err == nil {
			err = s.isOurs(ctx, c)
		}
		if err == nil {
			return c, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		why = append(why, err.Error())
	}
	if len(why) == 0 {
		why = append(why, "no address to ask it at is known")
	}
	return nil, fmt.Errorf("a Docker daemon is running on %s and cannot be asked (%s); use docker, or name the daemon's address with --docker-host or IMAGEFS_DOCKER_HOST: %w",
		s.path, strings.Join(why, "; "), store.ErrReadOnly)
}

// isOurs fails unless the daemon at an address lives on this very store.
func (s *Store) isOurs(ctx context.Context, c *api.Client) error {
	d, err := c.Info(ctx)
	if err != nil {
		return err
	}
	other := func(format string, args ...any) error {
		return fmt.Errorf("the daemon at %s is another: %s", c.Host(), fmt.Sprintf(format, args...))
	}
	if !filepath.IsAbs(d.DockerRootDir) || len(d.DockerRootDir) >= unix.PathMax {
		return other("it does not say where its data root is")
	}
	root := filepath.Clean(d.DockerRootDir)
	view := "/"
	switch peer := c.Peer(); {
	case !c.Local():
		// Nothing tells which process answers. One of another machine has the same paths.
		if host, err := os.Hostname(); err != nil || d.Name != host {
			return other("it runs on the host %.64q", d.Name)
		}
	case peer <= 0:
		return fmt.Errorf("the daemon at %s runs outside of this PID namespace, so that its data root cannot be compared", c.Host())
	default:
		// The path means what it means to the daemon, which may be in a container.
		view = fmt.Sprintf("/proc/%d/root", peer)
	}
	its, err := statIn(view, root)
	if err != nil {
		return fmt.Errorf("the data root %s of the daemon at %s cannot be looked at: %w", root, c.Host(), err)
	}
	ours, err := s.root.Stat(".")
	if err != nil {
		return err
	}
	if its.Dev != ours.Dev || its.Ino != ours.Ino {
		return other("its data root is %.200q, which is another directory to it", root)
	}
	// Written by Docker 23 and later.
	if id, err := s.root.Read("engine-id", maxSmall); err == nil {
		if strings.TrimSpace(string(id)) != d.ID {
			return other("its ID is %.80q", d.ID)
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if d.Driver != s.at.name {
		return fmt.Errorf("the daemon at %s keeps its images elsewhere: its storage driver is %.40q and not %s", c.Host(), d.Driver, s.at.name)
	}
	return nil
}

// statIn looks at a directory as a process sees it whose root is view.
func statIn(view, path string) (st unix.Stat_t, err error) {
	v, err := unix.Open(view, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return st, err
	}
	defer unix.Close(v)
	d, err := unix.Openat2(v, path, &unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT})
	if err != nil {
		return st, err
	}
	defer unix.Close(d)
	return st, unix.Fstat(d, &st)
}
