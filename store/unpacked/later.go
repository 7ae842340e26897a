package unpacked

import (
	"context"
	"sync"
	"time"

	"imagefs/store/guard"
)

// later builds the indexes of layers that are being read without one, one at a
// time, so that the next mount finds them.
type later struct {
	mu    sync.Mutex
	queue []*Layer
	stop  context.CancelFunc // nil: no worker runs
	done  chan struct{}
	ended bool
}

// laterWait is how long a layer's users have the disk for themselves.
const laterWait = 2 * time.Second

func (t *later) add(l *Layer) {
	if l.set.Cache == "" {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ended {
		return
	}
	t.queue = append(t.queue, l)
	if t.stop == nil {
		ctx, stop := context.WithCancel(context.Background())
		t.stop, t.done = stop, make(chan struct{})
		go t.work(ctx, t.done)
	}
}

func (t *later) work(ctx context.Context, done chan struct{}) {
	defer close(done)
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(laterWait):
		}
		t.mu.Lock()
		if len(t.queue) == 0 {
			t.stop()
			t.stop = nil
			t.mu.Unlock()
			return
		}
		l := t.queue[0]
		t.queue = t.queue[1:]
		t.mu.Unlock()
		if err := guard.Run(func() error { l.keep(ctx); return nil }); err != nil {
			l.set.Log.Error("cannot index a layer", "layer", l.key, "err", err)
		}
	}
}

// close ends the work.
func (t *later) close() {
	t.mu.Lock()
	t.ended = true
	stop, done := t.stop, t.done
	t.mu.Unlock()
	if stop != nil {
		stop()
	}
	if done != nil {
		<-done
	}
}

// keep builds the layer's index into the cache, beside what its users see.
func (l *Layer) keep(ctx context.Context) {
	dir, err := l.src.Dir()
	if err != nil {
		return // it was removed
	}
	defer dir.Close()
	raw, err := l.build(ctx, dir)
	if err != nil {
		if ctx.Err() == nil {
			l.set.Log.Warn("cannot index a layer", "layer", l.key, "err", err)
		}
		return
	}
	cache, name := l.cacheFile(dir)
	if cache == nil {
		return
	}
	defer cache.Close()
	if err := cache.Write(name, raw, 0o600); err != nil {
		l.set.Log.Debug("cannot keep an index", "layer", l.key, "err", err)
	}
}
