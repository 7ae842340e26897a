// Package turn is a mutex for work that takes long: who waits for it stops
// waiting when a context ends.
package turn

import "context"

// Turn is one at a time. The zero value is not usable.
type Turn chan struct{}

// New makes a Turn that nobody has.
func New() Turn { return make(Turn, 1) }

// Take waits until nobody else has the turn, and has it then. The error is ctx's;
// a ctx that has ended takes no turn.
func (t Turn) Take(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case t <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Give lets the next one have it. Only who has the turn may give it.
func (t Turn) Give() { <-t }
