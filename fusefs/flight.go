package fusefs

import (
	"context"
	"sync"
	"time"
)

// flight is work under way, for all who wait for it. It ends early when the last
// of them leaves.
type flight[T any] struct {
	done    chan struct{} // closed when what follows is set
	out     T
	err     error
	waiting int // guarded by the mutex of what the flight is of
	stop    context.CancelFunc
}

// takeOff begins work. land is called with what came of it, which it may change,
// before those who wait get it.
func takeOff[T any](f *fsys, op string, do func(ctx context.Context) (T, error), land func(w *flight[T])) *flight[T] {
	ctx, stop := context.WithCancel(f.life)
	w := &flight[T]{done: make(chan struct{}), stop: stop}
	f.work.Go(func() {
		defer stop()
		w.err = f.guard(op, func() (err error) {
			w.out, err = do(ctx)
			return err
		})
		land(w)
		close(w.done)
	})
	return w
}

// await waits for what comes of a flight until ctx ends. mu is held by the caller,
// and let go of meanwhile and afterwards; with it held, left is called when nobody
// waits any more.
func (w *flight[T]) await(ctx context.Context, mu *sync.Mutex, left func()) (out T, err error) {
	w.waiting++
	mu.Unlock()
	if w.ends(ctx) {
		return w.out, w.err
	}
	mu.Lock()
	defer mu.Unlock()
	if w.waiting--; w.waiting == 0 {
		w.stop()
		left()
	}
	return out, context.Canceled
}

// ends waits for the end of a flight; false if ctx ends before. A signal that is
// none to stop its caller does not end a request: for that it would have to begin again.
func (w *flight[T]) ends(ctx context.Context) bool {
	stopped := ctx.Done()
	for {
		select {
		case <-w.done:
			return true
		case <-stopped:
		}
		if r, ok := ctx.(*requestContext); !ok || !waiting(r.tid) {
			return false
		}
		// There is no second interrupt for a request, so it is looked for.
		select {
		case <-w.done:
			return true
		case <-time.After(callerTick):
		}
	}
}
