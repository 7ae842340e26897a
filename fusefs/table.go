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

// size is the number of slots given out.
func (t *table[T]) size() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.n
}

// clear lets go of what is in a slot, which is not given out again.
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
