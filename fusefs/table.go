package fusefs

import (
	"sync"
	"sync/atomic"
	"syscall"
)

const (
	chunkBits = 10
	chunkSize = 1 << chunkBits
)

// table gives out slots, each once. get takes no lock.
type table[T any] struct {
	mu     sync.Mutex // guards adding
	n      uint64     // slots given out
	chunks atomic.Pointer[[]*[chunkSize]atomic.Pointer[T]]
}

// get returns what is in a slot, nil if the slot was not given out or is cleared.
func (t *table[T]) get(slot uint64) *T {
	p := t.chunks.Load()
	if p == nil || slot>>chunkBits >= uint64(len(*p)) {
		return nil
	}
	return (*p)[slot>>chunkBits][slot&(chunkSize-1)].Load()
}

// add gives a slot to what make returns for it.
func (t *table[T]) add(limit uint64, make func(slot uint64) *T) (uint64, *T, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.n >= limit {
		return 0, nil, syscall.ENFILE
	}
	var chunks []*[chunkSize]atomic.Pointer[T]
	if p := t.chunks.Load(); p != nil {
		chunks = *p
	}
	slot := t.n
	if slot>>chunkBits == uint64(len(chunks)) {
		// Readers of the old slice do not look beyond its length, so the array can be shared.
		chunks = append(chunks, new([chunkSize]atomic.Pointer[T]))
		t.chunks.Store(&chunks)
	}
	t.n++
	v := make(slot)
	chunks[slot>>chunkBits][slot&(chunkSize-1)].Store(v)
	return slot, v, nil
}

// reused is a table whose slots can be given out again. What has a slot has a
// generation beside it, so that the two together are never used twice.
type reused[T any] struct {
	table[T]
	limit uint64     // of slots
	mu    sync.Mutex // guards what follows
	free  []uint64   // slots that were given back, the first of them first
	count uint64     // slots that were given out again
}

// add gives a slot to what make returns for it and a generation, which is not 0
// if the slot had been given to something else before.
func (t *reused[T]) add(make func(slot, generation uint64) *T) (uint64, *T, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.free) == 0 {
		return t.table.add(t.limit, func(slot uint64) *T { return make(slot, 0) })
	}
	slot := t.free[0]
	t.free = t.free[1:]
	t.count++
	v := make(slot, t.count)
	t.set(slot, v)
	return slot, v, nil
}

// release clears a slot that nobody has a number of any more.
func (t *reused[T]) release(slot uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.clear(slot)
	t.free = append(t.free, slot)
}

// size is the number of slots given out.
func (t *table[T]) size() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.n
}

// clear lets go of what is in a slot, which keeps being taken.
func (t *table[T]) clear(slot uint64) { t.set(slot, nil) }

// set puts another item into a slot that was given out.
func (t *table[T]) set(slot uint64, v *T) {
	if p := t.chunks.Load(); p != nil && slot>>chunkBits < uint64(len(*p)) {
		(*p)[slot>>chunkBits][slot&(chunkSize-1)].Store(v)
	}
}

// interned is a table whose items are found again by a key.
type interned[T any] struct {
	table[T]
	keys sync.Map   // string → slot
	mu   sync.Mutex // guards making an item for a new key
}

// find returns the slot that a key stands for.
func (t *interned[T]) find(key string) (uint64, bool) {
	s, ok := t.keys.Load(key)
	if !ok {
		return 0, false
	}
	return s.(uint64), true
}

// intern returns the slot of the item with this key, made if there is none.
func (t *interned[T]) intern(key string, limit uint64, make func(slot uint64) *T) (uint64, *T, error) {
	if s, ok := t.find(key); ok {
		return s, t.get(s), nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if s, ok := t.find(key); ok {
		return s, t.get(s), nil
	}
	slot, v, err := t.add(limit, make)
	if err != nil {
		return 0, nil, err
	}
	t.keys.Store(key, slot)
	return slot, v, nil
}

// move lets a key stand for the item in a slot, which is another one now.
func (t *interned[T]) move(slot uint64, key string, v *T) {
	t.set(slot, v)
	t.keys.Store(key, slot)
}

// forget lets the key stand for a new item from now on. The old one keeps its slot.
func (t *interned[T]) forget(key string) { t.keys.Delete(key) }
