package docker

import (
	"errors"
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"

	"imagefs/store"
)

var _ store.Stater = (*Store)(nil)

// State implements store.Stater.
func (s *Store) State() store.State {
	g, err := s.takeGuard()
	g.release()
	st := store.State{Daemon: err != nil}
	switch {
	case s.writable() != nil:
		st.Fixed = s.writable()
	case s.opts.ReadOnly:
		st.Fixed = fmt.Errorf("store %s was opened read-only: %w", s.path, store.ErrReadOnly)
	case err != nil:
		st.Fixed = err
	default:
		if err := unix.Access(s.path, unix.W_OK|unix.X_OK); err != nil && !errors.Is(err, fs.ErrNotExist) {
			st.Fixed = fmt.Errorf("store %s cannot be written: %w", s.path, err)
		}
	}
	return st
}
