package docker

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"imagefs/store"
	"imagefs/store/daemon"
	"imagefs/store/daemon/api"
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
	c, why := daemon.Find(ctx, s.opts.Hosts, s.isOurs)
	switch {
	case c != nil:
		return c, nil
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case len(why) == 0:
		why = append(why, errors.New("no address to ask it at is known"))
	}
	return nil, fmt.Errorf("a Docker daemon is running on %s and cannot be asked (%s); use docker, or name the daemon's address with --docker-host or IMAGEFS_DOCKER_HOST: %w",
		s.path, daemon.Reasons(why), store.ErrReadOnly)
}

// isOurs fails unless the daemon at an address lives on this very store.
func (s *Store) isOurs(ctx context.Context, c *api.Client) error {
	d, err := c.Info(ctx)
	if err != nil {
		return err
	}
	view, err := daemon.View(c, d)
	if err != nil {
		return err
	}
	if !filepath.IsAbs(d.DockerRootDir) {
		return daemon.Another(c, "it does not say where its data root is")
	}
	its, err := daemon.Stat(view, d.DockerRootDir)
	if err != nil {
		return fmt.Errorf("the data root %.200q of the daemon at %s cannot be looked at: %w", d.DockerRootDir, c.Host(), err)
	}
	ours, err := s.root.Stat(".")
	if err != nil {
		return err
	}
	if its.Dev != ours.Dev || its.Ino != ours.Ino {
		return daemon.Another(c, "its data root is %.200q, which is another directory to it", d.DockerRootDir)
	}
	// Written by Docker 23 and later.
	if id, err := s.root.Read("engine-id", maxSmall); err == nil {
		if strings.TrimSpace(string(id)) != d.ID {
			return daemon.Another(c, "its ID is %.80q", d.ID)
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if d.Driver != s.at.name {
		return fmt.Errorf("the daemon at %s keeps its images elsewhere: its storage driver is %.40q and not %s", c.Host(), d.Driver, s.at.name)
	}
	return nil
}
