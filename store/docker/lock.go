package docker

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"imagefs/store"
)

// lockWait is how long a writer waits for another process.
const lockWait = 60 * time.Second

// lock makes the caller the only writer, and finishes what a dead one left.
// store.ErrReadOnly if the store cannot be written, errLive, which is one too, if
// a daemon lives on it, store.ErrBusy if another process does not let go.
func (s *Store) lock(ctx context.Context) (unlock func(), err error) {
	if s.opts.ReadOnly {
		if err := s.writable(); err != nil {
			return nil, err
		}
		return nil, fmt.Errorf("store %s was opened read-only: %w", s.path, store.ErrReadOnly)
	}
	// Before anything is written; and again below, when none can start any more.
	g, err := s.takeGuard()
	if err != nil {
		return nil, err
	}
	g.release()
	if err := s.writable(); err != nil {
		return nil, err
	}
	if err := s.writing.Take(ctx); err != nil {
		return nil, err
	}
	release := []func(){s.writing.Give}
	free := func() {
		for i := len(release) - 1; i >= 0; i-- {
			release[i]()
		}
	}
	defer func() {
		if err != nil {
			free()
		}
	}()
	if err := ownSkeleton(s.root); err != nil {
		return nil, readOnly(err)
	}
	f, err := s.root.OpenFile(lockFile, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, readOnly(err)
	}
	release = append(release, func() { f.Close() })
	for end := time.After(lockWait); ; {
		err = flock(f, unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			break
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock store %s: %w", s.path, err)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-end:
			return nil, fmt.Errorf("another process is writing to the store %s: %w", s.path, store.ErrBusy)
		case <-time.After(5 * time.Millisecond):
		}
	}
	if g, err = s.takeGuard(); err != nil {
		return nil, err
	}
	release = append(release, g.release)
	if err := s.redoAll(); err != nil {
		return nil, err
	}
	return free, nil
}

// writable tells why a store cannot be written whoever asks, nil if it can.
func (s *Store) writable() error {
	if s.at.name == overlay2.name {
		return nil
	}
	return fmt.Errorf("the store %s uses Docker's storage driver %s, which imagefs only reads; change its images with docker, or load them into a store of its own: %w",
		s.path, s.at.name, store.ErrUnsupported)
}

func readOnly(err error) error {
	if errors.Is(err, unix.EROFS) {
		return fmt.Errorf("%w: %w", store.ErrReadOnly, err)
	}
	return err
}

// recover finishes what dead processes left, if there is anything and the store may be written.
func (s *Store) recover() error {
	if !s.root.IsDir(ownDir) {
		return nil
	}
	f, err := s.root.OpenFile(lockFile, os.O_RDWR, 0)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.EROFS) {
			return nil
		}
		return err
	}
	defer f.Close()
	if err := flock(f, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil // a living writer has it, and has looked already
	}
	g, err := s.takeGuard()
	if err != nil {
		return nil
	}
	defer g.release()
	if err := s.redoAll(); err != nil {
		return err
	}
	s.clearStages()
	s.clearTemps()
	return nil
}

// clearStages removes what was being unpacked by processes that died. The lock is held.
func (s *Store) clearStages() {
	names, err := s.root.List(stageDir)
	if err != nil {
		return
	}
	for _, n := range names {
		if err := s.clearStage(stageDir + "/" + n); err != nil {
			s.log.Warn("cannot clear what an interrupted load left", "path", stageDir+"/"+n, "err", err)
		}
	}
}

// clearStage removes a stage directory unless its process lives.
func (s *Store) clearStage(p string) error {
	if f, err := s.root.OpenFile(p+"/lock", os.O_RDWR, 0); err == nil {
		defer f.Close()
		if flock(f, unix.LOCK_EX|unix.LOCK_NB) != nil {
			return nil
		}
	}
	return s.root.RemoveAll(p)
}

// clearTemps removes temporary files of writes that were cut off. The lock is held.
func (s *Store) clearTemps() {
	for _, d := range []string{overlay2.image, overlay2.content, journalDir, indexDir} {
		names, _ := s.root.List(d)
		for _, n := range names {
			if strings.HasPrefix(n, ".tmp-") {
				_ = s.root.Remove(d + "/" + n)
			}
		}
	}
	names, _ := s.root.List(overlay2.layers)
	for _, n := range names {
		if strings.HasSuffix(n, "-removing") {
			_ = s.root.RemoveAll(overlay2.layers + "/" + n)
		}
	}
}
