package fusefs

import (
	"container/list"
	"slices"
	"sync"

	digest "github.com/opencontainers/go-digest"
)

// The kernel keeps the directory of a pair as long as it has memory, and with it
// the numbers of its views, of which there are so many. So the pairs that were looked
// up last are kept, and the kernel is made to forget the others. Once it has, their
// numbers are given out again, to nodes of another generation.

// maxPairs is how many pairs the kernel is let keep.
const maxPairs = 16 << 10

// recentPairs are those that were looked up last.
type recentPairs struct {
	mu    sync.Mutex // guards what follows; no other lock is taken with it held
	order list.List  // of *pair, what was looked up last first
	of    map[*pair]*list.Element
	limit int
	owing map[uint64]*pair // cleared ones that the kernel still knows, by slot
}

// used notes that a pair was looked up, and returns one that is to go for it, if any.
func (t *recentPairs) used(p *pair) *pair {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := t.of[p]; e != nil {
		t.order.MoveToFront(e)
		return nil
	}
	t.of[p] = t.order.PushFront(p)
	if t.order.Len() <= t.limit {
		return nil
	}
	old := t.order.Remove(t.order.Back()).(*pair)
	delete(t.of, old)
	return old
}

// remove takes a pair off the list of those that were looked up.
func (t *recentPairs) remove(p *pair) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := t.of[p]; e != nil {
		delete(t.of, p)
		t.order.Remove(e)
	}
}

// owe keeps a pair that was cleared until the kernel has forgotten it; owed finds it.
func (t *recentPairs) owe(p *pair) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.owing[p.slot] = p
}

func (t *recentPairs) owed(slot uint64) *pair {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.owing[slot]
}

// settled lets go of a pair that the kernel has forgotten.
func (t *recentPairs) settled(p *pair) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.owing, p.slot)
}

// evict makes the kernel forget a pair, which then goes, unless somebody is in it.
func (f *fsys) evict(p *pair) {
	p.mu.Lock()
	p.evicted = true
	f.leave(p)
	p.mu.Unlock()
	f.forgetEntry(diffNode, p.name())
}

// forgot counts what the kernel forgot of a pair, and lets go of it in a while.
func (f *fsys) forgot(id nodeID, n uint64) {
	if id.file() > pairStoreLink {
		return
	}
	p := f.pairs.get(id.slot())
	if p == nil {
		if p = f.pairs.recent.owed(id.slot()); p == nil {
			return
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.known -= min(n, p.known)
	if id.file() == pairDir {
		p.dirs -= min(n, p.dirs)
	}
	if p.cleared {
		f.settlePair(p)
		return
	}
	f.leave(p)
}

// leave lets go of a pair in a while, if it is idle then. p.mu is held.
func (f *fsys) leave(p *pair) {
	if p.leaving || p.gone.Load() || !p.idle() {
		return
	}
	p.leaving = true
	f.later(f.retireAfter, "let go of a comparison", func() {
		p.mu.Lock()
		p.leaving = false
		idle := p.idle()
		if idle {
			idle = !p.gone.Swap(true)
		}
		p.mu.Unlock()
		if idle {
			f.dropPair(p)
		}
	})
}

// dropPairs lets go of the pairs that an image is in which was removed.
func (f *fsys) dropPairs(id digest.Digest) {
	for slot := range f.pairs.size() {
		p := f.pairs.get(slot)
		if p == nil || p.a.id != id && p.b.id != id {
			continue
		}
		p.mu.Lock()
		first := !p.gone.Swap(true)
		p.mu.Unlock()
		if !first {
			continue
		}
		f.dropPair(p)
		f.forgetEntry(diffNode, p.name())
		f.later(nameTime/2, "forget a name", func() { f.forgetEntry(diffNode, p.name()) })
	}
}

// dropPair lets go of a pair that was marked as gone.
func (f *fsys) dropPair(p *pair) {
	f.pairs.forget(p.name())
	f.pairs.recent.remove(p)
	f.pairs.results.remove(p)
	p.mu.Lock()
	if p.flight != nil {
		p.flight.stop()
	}
	roots := slices.DeleteFunc(p.roots[:], func(id nodeID) bool { return id == 0 })
	p.mu.Unlock()
	for _, r := range roots {
		if v := f.view(r); v != nil {
			v.gone.Store(true)
		}
	}
	f.retirePair(p, roots)
}

func (f *fsys) retirePair(p *pair, roots []nodeID) {
	f.later(f.retireAfter, "let go of a comparison", func() {
		f.readers.drop(f, func(id nodeID) bool {
			return id.kind() == kindSynth && id.synthType() == typePair && id.slot() == p.slot
		})
		if !f.letGo(roots) {
			f.retirePair(p, roots) // a file is still open
			return
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		f.pairs.recent.owe(p)
		f.pairs.clear(p.slot)
		p.cleared = true
		f.settlePair(p)
	})
}

// settlePair gives the numbers of the views of a pair that was cleared back, if the
// kernel has forgotten its directory: then it has what is below it, too. p.mu is held.
func (f *fsys) settlePair(p *pair) {
	if p.dirs > 0 {
		return
	}
	f.pairs.recent.settled(p)
	for part, r := range p.roots {
		if r != 0 {
			f.partViews.release(r.view())
			p.roots[part] = 0
		}
	}
}
