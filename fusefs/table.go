package fusefs

import (
	"sync"
	"sync/atomic"
	"syscall"
)

// table gives out slots. It only grows; get takes no lock.
type table[T any] struct {
	mu    sync.Mutex // guards adding
	items atomic.Pointer[[]*T]
}

// get returns what is in a slot, nil if the slot was not given out.
func (t *table[T]) get(slot uint64) *T {
	p := t.items.Load()
	if p == nil || slot >= uint64(len(*p)) {
		return nil
	}
	return (*p)[slot]
}

// add gives a slot to v. set, if not nil, tells v its slot before anybody sees it.
func (t *table[T]) add(v *T, limit uint64, set func(slot uint64)) (uint64, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var s []*T
	if p := t.items.Load(); p != nil {
		s = *p
	}
	slot := uint64(len(s))
	if slot >= limit {
		return 0, syscall.ENFILE
	}
	if set != nil {
		set(slot)
	}
	// Readers of the old slice do not look beyond its length, so the array can be shared.
	s = append(s, v)
	t.items.Store(&s)
	return slot, nil
}

// interned is a table whose items are found again by a key.
type interned[T any] struct {
	table[T]
	keys sync.Map // string → slot
	mu   sync.Mutex
}

// intern returns the slot of the item with this key, made if there is none.
func (t *interned[T]) intern(key string, limit uint64, make func(slot uint64) *T) (uint64, *T, error) {
	if s, ok := t.keys.Load(key); ok {
		return s.(uint64), t.get(s.(uint64)), nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if s, ok := t.keys.Load(key); ok {
		return s.(uint64), t.get(s.(uint64)), nil
	}
	var next uint64
	if p := t.items.Load(); p != nil {
		next = uint64(len(*p))
	}
	v := make(next)
	slot, err := t.add(v, limit, nil)
	if err != nil {
		return 0, nil, err
	}
	t.keys.Store(key, slot)
	return slot, v, nil
}

// forget lets the key stand for a new item from now on. The old one keeps its slot.
func (t *interned[T]) forget(key string) { t.keys.Delete(key) }
