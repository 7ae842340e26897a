package fusefs

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"imagefs/overlay"
	"imagefs/store"
)

// indexed is a layer whose Index is a function.
type indexed struct {
	store.Layer
	index func() error
}

func (l indexed) Index(context.Context) (overlay.Layer, error) { return nil, l.index() }

func TestOpenIndexes(t *testing.T) {
	f, _ := newTestFS(t)
	broken := errors.New("broken")
	var calls, now, most atomic.Int32
	fine := func() error {
		calls.Add(1)
		if n := now.Add(1); n > most.Load() {
			most.Store(n)
		}
		defer now.Add(-1)
		time.Sleep(time.Millisecond)
		return nil
	}
	fail := func() error { calls.Add(1); return broken }
	crash := func() error { panic("of an index") }
	for _, c := range []struct {
		name   string
		layers []func() error
		is     error
		says   string
		calls  [2]int32 // at least, at most
	}{
		{"none", nil, nil, "", [2]int32{0, 0}},
		{"one", []func() error{fine}, nil, "", [2]int32{1, 1}},
		{"many", []func() error{fine, fine, fine, fine, fine, fine, fine}, nil, "", [2]int32{7, 7}},
		{"the first fails", append([]func() error{fail}, slices.Repeat([]func() error{fine}, 5000)...), broken, "", [2]int32{1, 4000}},
		{"the last fails", []func() error{fine, fine, fail}, broken, "", [2]int32{3, 3}},
		{"all fail", []func() error{fail, fail}, broken, "", [2]int32{1, 2}},
		{"a panic", []func() error{fine, crash, fine, fine}, nil, "of an index", [2]int32{0, 3}},
	} {
		t.Run(c.name, func(t *testing.T) {
			calls.Store(0)
			most.Store(0)
			var layers []store.Layer
			for _, l := range c.layers {
				layers = append(layers, indexed{index: l})
			}
			err := f.openIndexes(t.Context(), layers)
			if c.says != "" {
				if err == nil || !strings.Contains(err.Error(), c.says) {
					t.Errorf("got %v, want an error that says %q", err, c.says)
				}
			} else if err != c.is {
				t.Errorf("got %v, want %v", err, c.is)
			}
			if n := calls.Load(); n < c.calls[0] || n > c.calls[1] || most.Load() > indexers {
				t.Errorf("%d indexes were asked for, %d at a time; want %d to %d, %d at a time", n, most.Load(), c.calls[0], c.calls[1], indexers)
			}
		})
	}
}
