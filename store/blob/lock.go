package blob

import (
	"context"

	"imagefs/store/turn"
)

// acquire takes the turn. While another has it, the end of ctx gives its error, and
// giveUp, if not nil, errCostly.
func acquire(ctx context.Context, t turn.Turn, giveUp <-chan struct{}) error {
	select {
	case t <- struct{}{}:
		return nil
	default:
	}
	select {
	case t <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-giveUp:
		return errCostly
	}
}
