package docker

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"golang.org/x/sys/unix"

	"imagefs/store"
)

var _ store.Stater = (*Store)(nil)

// stateTime bounds how long a daemon is waited for, of which only its state is wanted.
const stateTime = 2 * time.Second

// State implements store.Stater. A store on which a daemon lives can be changed
// if the daemon can be asked.
func (s *Store) State() store.State {
	st := store.State{Daemon: s.Live()}
	switch {
	case s.opts.ReadOnly:
		if st.Fixed = s.writable(); st.Fixed == nil {
			st.Fixed = fmt.Errorf("store %s was opened read-only: %w", s.path, store.ErrReadOnly)
		}
	case st.Daemon:
		ctx, cancel := context.WithTimeout(context.Background(), stateTime)
		defer cancel()
		if _, st.Fixed = s.daemon(ctx); errors.Is(st.Fixed, context.DeadlineExceeded) {
			st.Fixed = fmt.Errorf("the Docker daemon on %s does not answer: %w", s.path, store.ErrReadOnly)
		}
	case s.writable() != nil:
		st.Fixed = s.writable()
	default:
		if err := unix.Access(s.path, unix.W_OK|unix.X_OK); err != nil && !errors.Is(err, fs.ErrNotExist) {
			st.Fixed = fmt.Errorf("store %s cannot be written: %w", s.path, err)
		}
	}
	return st
}
