package bolt

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"go.etcd.io/bbolt"

	"imagefs/store"
)

// FuzzRead reads databases that were damaged.
func FuzzRead(f *testing.F) {
	r := rand.New(rand.NewPCG(1, 1))
	for _, size := range []int{1024, 4096} {
		f.Add(build(f, size, random(r, 3)), uint32(5000), uint64(7))
	}
	f.Add(big(f), uint32(2056), uint64(1))
	f.Add([]byte{}, uint32(0), uint64(0))
	f.Fuzz(func(t *testing.T, db []byte, at uint32, with uint64) {
		db = bytes.Clone(db)
		if len(db) > 8 {
			off := int(at) % (len(db) - 8)
			le.PutUint64(db[off:], le.Uint64(db[off:])^with)
		}
		// A meta page's checksum stops nobody who wants a page to be read.
		for _, off := range []int{0, 1024, 4096} {
			if len(db) >= off+headerSize+metaSize && le.Uint32(db[off+headerSize:]) == magic {
				seal(db[off+headerSize:])
			}
		}
		_, err := ours(bytes.NewReader(db), 500)
		if err != nil && !errors.Is(err, store.ErrCorrupt) && !errors.Is(err, store.ErrTooLarge) && !errors.Is(err, errMost) {
			t.Error(err)
		}
	})
}

// seal makes a meta page's checksum fit.
func seal(b []byte) {
	var h uint64 = 14695981039346656037
	for _, c := range b[:metaSize-8] {
		h = (h ^ uint64(c)) * 1099511628211
	}
	le.PutUint64(b[56:], h)
}

// FuzzAgainstBbolt compares what is read of databases that bbolt made.
func FuzzAgainstBbolt(f *testing.F) {
	f.Add(uint64(1), uint8(3))
	f.Add(uint64(2), uint8(9))
	f.Fuzz(func(t *testing.T, seed uint64, steps uint8) {
		r := rand.New(rand.NewPCG(seed, 2))
		var do []func(tx *bbolt.Tx) error
		for range steps % 8 {
			do = append(do, random(r, 1+r.IntN(10)))
		}
		db := build(t, []int{1024, 4096}[seed%2], do...)
		got, err := ours(bytes.NewReader(db), -1)
		if want := list(t, db); err != nil || !slices.Equal(got, want) {
			t.Errorf("%d lines, want %d: %v", len(got), len(want), err)
		}
	})
}
