package conn

import (
	"sync"
	"time"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// active are the requests that goroutines answer.
type active struct {
	mu  sync.Mutex
	set map[uint64]struct{} // by unique
}

func (a *active) add(unique uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.set == nil {
		a.set = map[uint64]struct{}{}
	}
	a.set[unique] = struct{}{}
}

func (a *active) remove(unique uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.set, unique)
}

func (a *active) has(unique uint64) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	_, ok := a.set[unique]
	return ok
}

func (a *active) all() (out []uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for u := range a.set {
		out = append(out, u)
	}
	return out
}

const (
	// earlyTime is how long an interrupt is kept whose request is not there (yet).
	earlyTime = 2 * time.Second
	// maxEarly is how many.
	maxEarly = 1024
	// earlyTick is how often they are tried again.
	earlyTick = 2 * time.Millisecond
)

// interrupts are those that found no request: it may be on its way, or ended.
type interrupts struct {
	mu      sync.Mutex
	early   map[uint64]time.Time // by unique, since when
	running bool
	work    sync.WaitGroup
}

// interrupt ends the wait of a request; false if it is not known and too many are kept.
func (c *Conn) interrupt(unique uint64) bool {
	if c.tryInterrupt(unique) {
		return true
	}
	i := &c.interrupts
	i.mu.Lock()
	defer i.mu.Unlock()
	if len(i.early) >= maxEarly {
		return false
	}
	if i.early == nil {
		i.early = map[uint64]time.Time{}
	}
	i.early[unique] = time.Now()
	if !i.running {
		i.running = true
		i.work.Go(c.retryInterrupts)
	}
	return true
}

// retryInterrupts tries those that came early until none is left.
func (c *Conn) retryInterrupts() {
	i := &c.interrupts
	for {
		time.Sleep(earlyTick)
		i.mu.Lock()
		for unique, since := range i.early {
			if c.tryInterrupt(unique) || time.Since(since) > earlyTime {
				delete(i.early, unique)
			}
		}
		i.running = len(i.early) > 0
		again := i.running
		i.mu.Unlock()
		if !again {
			return
		}
	}
}

// stop waits until no interrupt is tried any more.
func (i *interrupts) stop() {
	i.mu.Lock()
	clear(i.early)
	i.mu.Unlock()
	i.work.Wait()
}

// tryInterrupt tells a request that is under way; false if there is none of that number.
func (c *Conn) tryInterrupt(unique uint64) bool {
	if !c.active.has(unique) {
		return false
	}
	in := fuse.InterruptIn{Unique: unique}
	in.Length, in.Opcode = uint32(unsafe.Sizeof(in)), OpInterrupt
	var out [SizeOut]byte
	n, _ := c.proto.HandleRequest([][]byte{bytesOf(&in)}, [][]byte{out[:]})
	return n == 0 // it answers only that there is none
}
