package fusefs

import (
	"testing"

	"imagefs/store"
)

// trimmed is a layer that counts how often it was trimmed.
type trimmed struct {
	store.Layer
	times int
}

func (l *trimmed) Trim() { l.times++ }

// Indexes are trimmed once in trimEvery listings, and only those of layers that can be.
func TestTrimEvery(t *testing.T) {
	var f fsys
	l := &trimmed{}
	for _, of := range []store.Layer{l, struct{ store.Layer }{}} {
		if _, _, err := f.layers.add(2, func(slot uint64) *layerSlot { return &layerSlot{slot: slot, l: of} }); err != nil {
			t.Fatal(err)
		}
	}
	for range trimEvery - 1 {
		f.trim.listed(&f)
	}
	if l.times != 0 {
		t.Errorf("trimmed after %d listings", trimEvery-1)
	}
	for range 2*trimEvery + 1 {
		f.trim.listed(&f)
	}
	if l.times != 3 {
		t.Errorf("trimmed %d times in %d listings", l.times, 3*trimEvery)
	}
}
