package containerd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"imagefs/store"
	"imagefs/store/daemon"
	"imagefs/store/daemon/api"
)

// dockerd is the Docker daemon that has its images in the store, beside what the
// store had when that was last looked at.
type dockerd struct {
	Client *api.Client
	space  string // the daemon's namespace
	c      *catalog
	gone   map[int]bool // records that a plan has removed
}

// dockerd finds the daemon that has its images here, to do something
// ("name images"). store.ErrUnsupported if there is none that can be asked.
func (s *Store) dockerd(ctx context.Context, do string) (*dockerd, error) {
	if s.opts.ReadOnly {
		return nil, fmt.Errorf("store %s was opened read-only: %w", s.path, store.ErrReadOnly)
	}
	d := &dockerd{}
	c, why := daemon.Find(ctx, s.opts.Hosts, func(ctx context.Context, c *api.Client) error {
		info, err := c.Info(ctx)
		if err == nil {
			d.space, err = s.isOurs(c, info)
		} else if s.opts.Hosts == nil && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ECONNREFUSED)) {
			return errAbsent
		}
		return err
	})
	switch {
	case c != nil:
		d.Client = c
		return d, s.refresh(ctx, d)
	case ctx.Err() != nil:
		return nil, ctx.Err()
	}
	// Most stores of containerd's are no Docker's, and most machines that have one have no Docker.
	why = slices.DeleteFunc(why, func(err error) bool { return errors.Is(err, errAbsent) })
	if len(why) == 0 {
		return nil, store.Cannot(s, do)
	}
	return nil, fmt.Errorf("cannot %s in %s: a Docker daemon that has its images there could, and none can be asked (%s); %s, or name the daemon's address with --docker-host or IMAGEFS_DOCKER_HOST: %w",
		do, s.path, daemon.Reasons(why), s.Advice(), store.ErrUnsupported)
}

// errAbsent says that nobody answers at one of the usual addresses.
var errAbsent = errors.New("nobody answers")

// refresh reads the store again.
func (s *Store) refresh(ctx context.Context, d *dockerd) (err error) {
	d.c, err = s.catalog(ctx)
	return err
}

// isOurs fails unless a daemon, by what it says of itself, has its images in this
// very store, and returns the namespace that they are in.
func (s *Store) isOurs(c *api.Client, d api.Daemon) (space string, err error) {
	if !d.Snapshots {
		return "", daemon.Another(c, "it keeps its images below %.200q, with the storage driver %.40q", d.DockerRootDir, d.Driver)
	}
	if !c.Local() {
		// All machines have the same paths, and nothing tells whose containerd is meant.
		return "", fmt.Errorf("the daemon at %s cannot be shown to have its images here: name its socket, unix:///PATH", c.Host())
	}
	view, err := daemon.View(c, d)
	if err != nil {
		return "", err
	}
	at := strings.TrimPrefix(d.Containerd, "unix://")
	if !filepath.IsAbs(at) || d.Namespace == "" {
		return "", daemon.Another(c, "it does not say where its containerd answers")
	}
	pid, err := daemon.Listener(view, at)
	if err != nil {
		return "", fmt.Errorf("the containerd at %.200q of the daemon at %s cannot be looked at: %w", at, c.Host(), err)
	}
	ours, err := s.isOpen(pid)
	if err != nil {
		return "", fmt.Errorf("the containerd at %.200q of the daemon at %s cannot be looked at: %w", at, c.Host(), err)
	}
	if !ours {
		return "", daemon.Another(c, "its containerd at %.200q has another store", at)
	}
	return d.Namespace, nil
}

// isOpen tells whether a process has the store's database open, as a containerd
// has as long as it lives.
func (s *Store) isOpen(pid int) (bool, error) {
	f, at, err := s.openDatabase(metaFile)
	if err != nil {
		return false, err
	}
	f.Close()
	dir := "/proc/" + strconv.Itoa(pid) + "/fd"
	files, err := os.ReadDir(dir)
	if err != nil {
		return false, err
	}
	for _, e := range files {
		p := dir + "/" + e.Name()
		// Only what has the name is looked at: not every file answers.
		if to, err := os.Readlink(p); err != nil || filepath.Base(to) != filepath.Base(metaFile) {
			continue
		}
		var st unix.Stat_t
		if unix.Stat(p, &st) == nil && uint64(st.Dev) == at.dev && st.Ino == at.ino {
			return true, nil
		}
	}
	return false, nil
}

var _ store.Stater = (*Store)(nil)

// stateTime bounds how long a daemon is waited for, of which only its state is wanted.
const stateTime = 2 * time.Second

// State implements store.Stater. The store can be changed if a Docker daemon has
// its images here and can be asked.
func (s *Store) State() (st store.State) {
	ctx, cancel := context.WithTimeout(context.Background(), stateTime)
	defer cancel()
	_, st.Fixed = s.dockerd(ctx, "change images")
	if errors.Is(st.Fixed, context.DeadlineExceeded) {
		st.Fixed = fmt.Errorf("the Docker daemon that may have its images in %s does not answer: %w", s.path, store.ErrReadOnly)
	}
	if f, _, err := s.openDatabase(metaFile); err == nil {
		st.Daemon = locked(f)
		f.Close()
	}
	return st
}
