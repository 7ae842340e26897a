package docker

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"imagefs/store"
)

// daemonFiles are databases that a dockerd keeps locked as long as it lives.
// It locks nothing under image/ or overlay2.
var daemonFiles = []string{
	"volumes/metadata.db",
	"buildkit/cache.db", "buildkit/metadata_v2.db", "buildkit/metadata.db",
	"buildkit/snapshots.db", "buildkit/containerdmeta.db",
	"network/files/local-kv.db",
}

// guard keeps a daemon from starting on the store while it is written: it
// would wait for these locks.
type guard []*os.File

func (g guard) release() {
	for _, f := range g {
		f.Close()
	}
}

// errLive is what takeGuard fails with if a daemon lives on the store.
var errLive = fmt.Errorf("the store is the daemon's to write: %w", store.ErrReadOnly)

// takeGuard fails with errLive if a daemon lives on the store.
func (s *Store) takeGuard() (guard, error) {
	var g guard
	for _, p := range daemonFiles {
		f, err := s.root.OpenFile(p, os.O_RDONLY, 0)
		if err != nil {
			continue // not there, or not ours to look at: then neither is the rest
		}
		if err := flock(f, unix.LOCK_SH|unix.LOCK_NB); errors.Is(err, unix.EWOULDBLOCK) {
			f.Close()
			g.release()
			return nil, fmt.Errorf("a Docker daemon is running on %s: %w", s.path, errLive)
		}
		g = append(g, f)
	}
	return g, nil
}

// Live tells whether a daemon runs on the store.
func (s *Store) Live() bool {
	g, err := s.takeGuard()
	g.release()
	return err != nil
}

func flock(f *os.File, how int) error {
	for {
		if err := unix.Flock(int(f.Fd()), how); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
