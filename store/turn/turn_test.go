package turn

import (
	"context"
	"errors"
	"sync"
	"testing"
)

func TestTurn(t *testing.T) {
	ctx, stop := context.WithCancel(context.Background())
	turn := New()
	if err := turn.Take(ctx); err != nil {
		t.Fatal(err)
	}
	waited := make(chan error)
	go func() { waited <- turn.Take(ctx) }()
	stop()
	if err := <-waited; !errors.Is(err, context.Canceled) {
		t.Errorf("who waited got %v", err)
	}
	turn.Give()
	if err := turn.Take(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("a context that has ended took the turn: %v", err)
	}
	n := 0
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			if err := turn.Take(context.Background()); err != nil {
				t.Error(err)
				return
			}
			defer turn.Give()
			n++
		})
	}
	if all.Wait(); n != 50 {
		t.Errorf("%d turns", n)
	}
}
