package copy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"imagefs/store"
	"imagefs/store/guard"
	"imagefs/store/save"
)

const (
	// workers is how many layers are on their way at a time.
	workers = 2
	// pipeBuffer makes of the small reads of an unpacker few of the pipe.
	pipeBuffer = 256 << 10
)

// transport brings layers into the target.
type transport struct {
	in    store.Ingest
	total int64

	mu   sync.Mutex // guards what follows
	done int64
	tell func(save.Progress)
}

// run brings all of them, or returns the first error when nothing is on its way any more.
func (t *transport) run(ctx context.Context, all []*transfer) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	todo := make(chan *transfer)
	var work sync.WaitGroup
	for range min(workers, len(all)) {
		work.Go(func() {
			for l := range todo {
				if err := guard.Run(func() error { return t.one(ctx, l) }); err != nil {
					cancel(err) // only the first counts
				}
			}
		})
	}
	for _, l := range all {
		select {
		case todo <- l:
		case <-ctx.Done():
		}
	}
	close(todo)
	work.Wait()
	return context.Cause(ctx)
}

// errEnded ends a reading whose layer could not be unpacked.
var errEnded = errors.New("the unpacking has ended")

// one brings one layer.
func (t *transport) one(ctx context.Context, l *transfer) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	r, w := io.Pipe()
	read := make(chan error, 1)
	go func() {
		var last int64
		err := guard.Run(func() error {
			return l.tar.Write(ctx, w, func(p save.Progress) {
				t.report(p.Done-last, p.What)
				last = p.Done
			})
		})
		_ = w.CloseWithError(err)
		read <- err
	}()
	staged, err := t.in.Unpack(ctx, bufio.NewReaderSize(r, pipeBuffer))
	_ = r.CloseWithError(errEnded)
	// What went wrong with the reading says more than what the unpacking made of it.
	if rerr := <-read; rerr != nil && !errors.Is(rerr, errEnded) {
		return rerr
	}
	if err != nil {
		return fmt.Errorf("layer %s: %w", l.layer.DiffID(), err)
	}
	if staged.DiffID() != l.layer.DiffID() {
		return fmt.Errorf("layer %s arrived as %s: %w", l.layer.DiffID(), staged.DiffID(), store.ErrCorrupt)
	}
	l.staged = staged
	return nil
}

func (t *transport) report(n int64, what string) {
	if t.tell == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.done += n
	t.tell(save.Progress{Done: t.done, Total: t.total, What: what})
}
