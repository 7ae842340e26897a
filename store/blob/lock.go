package blob

import "context"

// lock is a mutex that nobody has to wait for longer than they want.
type lock chan struct{}

func newLock() lock { return make(lock, 1) }

// acquire gets the lock. While another has it, the end of ctx gives its error, and
// giveUp, if not nil, errCostly.
func (l lock) acquire(ctx context.Context, giveUp <-chan struct{}) error {
	select {
	case l <- struct{}{}:
		return nil
	default:
	}
	select {
	case l <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-giveUp:
		return errCostly
	}
}

func (l lock) release() { <-l }
