package blob

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"imagefs/store"
	"imagefs/store/beneath"
	"imagefs/store/guard"
)

// Options of NewCache.
type Options struct {
	// Dir keeps what is derived from blobs, for the next process too. It must be
	// the caller's alone. "" keeps everything in memory.
	Dir string
	// Memory bounds the decompressed pages that are kept, in bytes; 0 is 64 MiB.
	Memory int64
	// Disk bounds decompressed data in Dir, in bytes; 0 is 4 GiB, less than 0 is none.
	Disk int64
	// Background verifies layers that are in use when nobody waits for them.
	Background bool
	// Broken, if not nil, is told when a layer turns out to be broken.
	Broken func(*Layer, error)
	Log    *slog.Logger // nil: silent
}

// Cache makes layers and keeps what is derived from them. Safe for concurrent use.
type Cache struct {
	opts  Options
	log   *slog.Logger
	work  worker
	pages *pageCache

	ctx  context.Context // ends with Close
	stop context.CancelFunc

	mu   sync.Mutex     // held while ctx ends, and while something is added to runs
	runs sync.WaitGroup // of Stack
}

// NewCache makes a Cache. Nothing is read or written before a layer is used.
func NewCache(o Options) *Cache {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Memory <= 0 {
		o.Memory = 64 << 20
	}
	if o.Disk == 0 {
		o.Disk = 4 << 30
	}
	c := &Cache{opts: o, log: o.Log, pages: newPageCache(o.Memory)}
	c.ctx, c.stop = context.WithCancel(context.Background())
	return c
}

// Close ends what runs in the background. Layers stay readable.
func (c *Cache) Close() {
	c.mu.Lock()
	c.stop()
	c.mu.Unlock()
	c.work.close()
	c.runs.Wait()
}

// maxAhead bounds the layers that are indexed at the same time.
const maxAhead = 4

// Stack tells that layers, bottom first, are used together: when the index of
// one is made, those of the others are made too, several at a time.
func (c *Cache) Stack(layers []*Layer) {
	var once sync.Once
	ahead := func() {
		once.Do(func() {
			c.mu.Lock()
			defer c.mu.Unlock()
			if c.ctx.Err() != nil {
				return
			}
			var next atomic.Int64
			for range min(runtime.GOMAXPROCS(0), maxAhead, len(layers)) {
				c.runs.Go(func() {
					for c.ctx.Err() == nil {
						i := int(next.Add(1)) - 1
						if i >= len(layers) {
							return
						}
						_ = c.guard("index", layers[i], func() error {
							_, err := layers[i].open(c.ctx)
							return err // whoever asks for it is told
						})
					}
				})
			}
		})
	}
	for _, l := range layers {
		l.ahead.CompareAndSwap(nil, &ahead)
	}
}

// guard runs what nobody waits for.
func (c *Cache) guard(op string, l *Layer, do func() error) error {
	err := guard.Run(do)
	var p *guard.Panic
	if errors.As(err, &p) {
		c.log.Error("panic", "op", op, "layer", l.s.DiffID, "what", p.What, "stack", string(p.Stack))
	}
	return err
}

// cacheVersion is part of every name in the cache directory: what an older or
// newer program wrote is not found.
const cacheVersion = "blob-1"

// fileName names a file of the cache directory after what it depends on.
func fileName(parts ...string) string {
	h := sha256.New()
	fmt.Fprintf(h, "%s\n", cacheVersion)
	for _, p := range parts {
		fmt.Fprintf(h, "%d %s\n", len(p), p)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// dir opens the cache directory; nil if there is none that can be used.
func (c *Cache) dir() *beneath.Root {
	if c.opts.Dir == "" {
		return nil
	}
	r, err := beneath.OpenPrivate(c.opts.Dir)
	if err != nil {
		c.log.Debug("no index cache", "err", err)
		return nil
	}
	return r
}

// openKept opens a file of the cache, and notes that it was used.
func openKept(r *beneath.Root, name string) (*os.File, error) {
	f, err := r.OpenFile(name, os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	err = unix.Fstat(int(f.Fd()), &st)
	if err == nil && (st.Mode&unix.S_IFMT != unix.S_IFREG || int(st.Uid) != os.Geteuid() || st.Mode&0o022 != 0) {
		err = fmt.Errorf("%s is another's: %w", name, store.ErrCorrupt)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	now := unix.Timespec{Nsec: unix.UTIME_NOW}
	_ = unix.UtimesNanoAt(r.Fd(), name, []unix.Timespec{now, now}, 0)
	return f, nil
}

// keep writes a file of the cache; that it cannot is no error of anybody's.
func (c *Cache) keep(name string, data []byte) {
	r := c.dir()
	if r == nil {
		return
	}
	defer r.Close()
	if err := r.Write(name, data, 0o600); err != nil {
		c.log.Debug("cannot keep an index", "err", err)
	}
}

// worker verifies layers, one at a time, when they have been in use for a moment.
type worker struct {
	mu    sync.Mutex
	queue []*Layer
	stop  context.CancelFunc // nil: nothing runs
	done  chan struct{}
	ended bool
}

// workerWait is how long a layer's users have the disk for themselves.
const workerWait = 2 * time.Second

func (w *worker) add(l *Layer) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended {
		return
	}
	w.queue = append(w.queue, l)
	if w.stop == nil {
		ctx, stop := context.WithCancel(context.Background())
		w.stop, w.done = stop, make(chan struct{})
		go w.run(ctx, w.done)
	}
}

func (w *worker) run(ctx context.Context, done chan struct{}) {
	defer close(done)
	wait := time.NewTimer(workerWait)
	defer wait.Stop()
	select {
	case <-ctx.Done():
		return
	case <-wait.C:
	}
	for {
		w.mu.Lock()
		if len(w.queue) == 0 || ctx.Err() != nil {
			w.stop()
			w.stop = nil
			w.mu.Unlock()
			return
		}
		l := w.queue[0]
		w.queue = w.queue[1:]
		w.mu.Unlock()
		if err := l.c.guard("verify", l, func() error { return l.Verify(ctx) }); err != nil && ctx.Err() == nil && l.life.Err() == nil {
			l.c.log.Warn("a layer cannot be verified", "layer", l.s.DiffID, "err", err)
		}
	}
}

func (w *worker) close() {
	w.mu.Lock()
	w.ended = true
	stop, done := w.stop, w.done
	w.mu.Unlock()
	if stop != nil {
		stop()
	}
	if done != nil {
		<-done
	}
}
