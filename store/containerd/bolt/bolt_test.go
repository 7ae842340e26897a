package bolt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"imagefs/store"
)

// build makes a database with bbolt and returns its bytes.
func build(t testing.TB, pageSize int, steps ...func(tx *bbolt.Tx) error) []byte {
	t.Helper()
	name := filepath.Join(t.TempDir(), "db")
	db, err := bbolt.Open(name, 0o600, &bbolt.Options{PageSize: pageSize, NoSync: true, NoFreelistSync: pageSize%3 == 0})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range steps {
		if err := db.Update(s); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// list is everything in a database, as bbolt reads it.
func list(t testing.TB, db []byte) []string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "db")
	if err := os.WriteFile(name, db, 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := bbolt.Open(name, 0o600, &bbolt.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	var out []string
	err = d.View(func(tx *bbolt.Tx) error {
		var each func(path string, b *bbolt.Bucket) error
		each = func(path string, b *bbolt.Bucket) error {
			return b.ForEach(func(k, v []byte) error {
				p := path + "/" + fmt.Sprintf("%q", k)
				if v == nil {
					out = append(out, p+"/")
					return each(p, b.Bucket(k))
				}
				out = append(out, fmt.Sprintf("%s=%q", p, v))
				return nil
			})
		}
		return tx.ForEach(func(k []byte, b *bbolt.Bucket) error {
			p := "/" + fmt.Sprintf("%q", k)
			out = append(out, p+"/")
			return each(p, b)
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// ours is everything in a database as this package reads it, by walks and by
// looking each key up; more than most lines are not looked for.
func ours(db io.ReaderAt, most int) ([]string, error) {
	var out []string
	_, err := View(context.Background(), db, func(root *Bucket) error {
		out = nil
		var each func(path string, b *Bucket) error
		each = func(path string, b *Bucket) error {
			return b.Each(func(k string, v []byte, sub *Bucket) error {
				if len(out) == most || most > 0 && len(path) > 1000 {
					return errMost
				}
				p := path + "/" + fmt.Sprintf("%q", k)
				if sub != nil {
					out = append(out, p+"/")
					if again, err := b.Bucket(k); err != nil || again == nil {
						return fmt.Errorf("bucket %s is not found again: %w", p, errors.Join(err, store.ErrCorrupt))
					}
					return each(p, sub)
				}
				out = append(out, fmt.Sprintf("%s=%q", p, v))
				if again, err := b.Get(k); err != nil || !bytes.Equal(again, v) {
					return fmt.Errorf("%s is %q when it is looked up: %w", p, again, errors.Join(err, store.ErrCorrupt))
				}
				if _, err := b.Get(k + "\x00"); err != nil {
					return err
				}
				return nil
			})
		}
		return each("", root)
	})
	return out, err
}

var errMost = errors.New("enough")

// random puts keys into nested buckets and deletes some.
func random(r *rand.Rand, size int) func(tx *bbolt.Tx) error {
	return func(tx *bbolt.Tx) error {
		for range size {
			b, err := tx.CreateBucketIfNotExists([]byte{'a' + byte(r.IntN(4))})
			if err != nil {
				return err
			}
			for r.IntN(3) == 0 {
				if b, err = b.CreateBucketIfNotExists([]byte(strings.Repeat("b", 1+r.IntN(300)))); err != nil {
					return err
				}
			}
			for range r.IntN(40) {
				k := []byte(fmt.Sprintf("k%0*d", 1+r.IntN(200), r.IntN(500)))
				if r.IntN(4) == 0 {
					err = b.Delete(k)
				} else {
					err = b.Put(k, bytes.Repeat([]byte("v"), r.IntN(1+r.IntN(9000))))
				}
				if err != nil {
					return err
				}
			}
		}
		return nil
	}
}

func TestAgainstBbolt(t *testing.T) {
	for seed := range uint64(12) {
		r := rand.New(rand.NewPCG(seed, 0))
		var steps []func(tx *bbolt.Tx) error
		for range seed {
			steps = append(steps, random(r, 1+r.IntN(30)))
		}
		db := build(t, []int{1024, 4096, 16384, 65536}[seed%4], steps...)
		want := list(t, db)
		got, err := ours(bytes.NewReader(db), -1)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if !slices.Equal(got, want) {
			t.Errorf("seed %d: %d lines, want %d", seed, len(got), len(want))
		}
		// The first meta page may be the one that was not written whole.
		for _, off := range []int{16, 16 + 56} {
			torn := bytes.Clone(db)
			torn[off] ^= 1
			if _, err := ours(bytes.NewReader(torn), 1000); err != nil && !errors.Is(err, store.ErrCorrupt) && !errors.Is(err, errMost) {
				t.Errorf("seed %d: without the first meta page: %v", seed, err)
			}
			if _, err := Read(bytes.NewReader(torn)); err != nil {
				t.Errorf("seed %d: without the first meta page: %v", seed, err)
			}
		}
	}
}

// big is a database whose bucket "a" is a tree of several levels.
func big(t testing.TB) []byte {
	return build(t, 1024, func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucket([]byte("a"))
		for n := range 2000 {
			err = errors.Join(err, b.Put([]byte(fmt.Sprintf("key-%06d", n)), []byte("value")))
		}
		return err
	})
}

// pages calls fn with each branch page of a database.
func pages(db []byte, fn func(id uint64, b []byte)) {
	for id := uint64(2); int(id+1)*1024 <= len(db); id++ {
		b := db[id*1024 : (id+1)*1024]
		if le.Uint64(b) == id && le.Uint16(b[8:]) == flagBranch {
			fn(id, b)
		}
	}
}

func TestHostile(t *testing.T) {
	whole := big(t)
	if got, err := ours(bytes.NewReader(whole), -1); err != nil || len(got) != 2001 {
		t.Fatalf("%d lines, %v", len(got), err)
	}
	for name, change := range map[string]func(db []byte) []byte{
		"empty":      func([]byte) []byte { return nil },
		"cut short":  func(db []byte) []byte { return db[:len(db)/2] },
		"only metas": func(db []byte) []byte { return db[:2048] },
		"cycle": func(db []byte) []byte {
			pages(db, func(id uint64, b []byte) {
				for i := range int(le.Uint16(b[10:])) {
					le.PutUint64(b[headerSize+i*elementSize+8:], id)
				}
			})
			return db
		},
		"one child for all": func(db []byte) []byte {
			pages(db, func(id uint64, b []byte) {
				for i := range int(le.Uint16(b[10:])) {
					copy(b[headerSize+i*elementSize+8:][:8], b[headerSize+8:])
				}
			})
			return db
		},
		"child out of the file": func(db []byte) []byte {
			pages(db, func(id uint64, b []byte) { le.PutUint64(b[headerSize+8:], 1<<63) })
			return db
		},
		"huge overflow": func(db []byte) []byte {
			pages(db, func(id uint64, b []byte) { le.PutUint32(b[12:], 1<<32-1) })
			return db
		},
		"huge count": func(db []byte) []byte {
			pages(db, func(id uint64, b []byte) { le.PutUint16(b[10:], 1<<16-1) })
			return db
		},
		"element outside": func(db []byte) []byte {
			pages(db, func(id uint64, b []byte) { le.PutUint32(b[headerSize:], 1<<31) })
			return db
		},
		"swapped": func(db []byte) []byte {
			pages(db, func(id uint64, b []byte) {
				x := bytes.Clone(b[headerSize+8 : headerSize+16])
				copy(b[headerSize+8:headerSize+16], b[headerSize+elementSize+8:])
				copy(b[headerSize+elementSize+8:], x)
			})
			return db
		},
	} {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			_, err := ours(bytes.NewReader(change(bytes.Clone(whole))), -1)
			if !errors.Is(err, store.ErrCorrupt) && !errors.Is(err, store.ErrTooLarge) {
				t.Errorf("%v, want an error of a corrupt database", err)
			}
			if took := time.Since(start); took > 30*time.Second {
				t.Errorf("it took %s to say so", took)
			}
		})
	}
}

// A lookup in a cycle ends too.
func TestLookupInCycle(t *testing.T) {
	db := big(t)
	pages(db, func(id uint64, b []byte) {
		for i := range int(le.Uint16(b[10:])) {
			le.PutUint64(b[headerSize+i*elementSize+8:], id)
		}
	})
	_, err := View(context.Background(), bytes.NewReader(db), func(root *Bucket) error {
		b, err := root.Bucket("a")
		if err != nil || b == nil {
			t.Fatalf("bucket: %v %v", b, err)
		}
		_, err = b.Get("key-000100")
		return err
	})
	if !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("%v, want %v", err, store.ErrCorrupt)
	}
}

// What a writer commits while it is being read is seen whole or not at all,
// though bbolt holds its lock all the time.
func TestLive(t *testing.T) {
	name := filepath.Join(t.TempDir(), "db")
	db, err := bbolt.Open(name, 0o600, &bbolt.Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	// Every state has 200 equal values.
	write := func(n int) error {
		return db.Update(func(tx *bbolt.Tx) error {
			b, err := tx.CreateBucketIfNotExists([]byte("b"))
			for k := range 200 {
				err = errors.Join(err, b.Put([]byte(fmt.Sprintf("k%03d", k)), []byte(fmt.Sprintf("%0100d", n))))
			}
			return err
		})
	}
	if err := write(0); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	stop, stopped := make(chan struct{}), make(chan error)
	go func() {
		for n := 1; ; n++ {
			select {
			case <-stop:
				stopped <- nil
				return
			case <-time.After(time.Millisecond):
			}
			if err := write(n); err != nil {
				stopped <- err
				return
			}
		}
	}()
	seen := map[string]bool{}
	for range 300 {
		var got []string
		before, err := Read(f)
		if err != nil {
			t.Fatal(err)
		}
		at, err := View(context.Background(), f, func(root *Bucket) error {
			got = nil
			b, err := root.Bucket("b")
			if err != nil {
				return err
			}
			return b.Each(func(_ string, v []byte, _ *Bucket) error {
				got = append(got, string(v))
				return nil
			})
		})
		if errors.Is(err, store.ErrBusy) {
			continue // on a machine that never leaves a gap
		}
		if err != nil {
			t.Fatal(err)
		}
		if at.txid < before.txid {
			t.Errorf("state %d after state %d", at.txid, before.txid)
		}
		if len(got) != 200 || len(slices.Compact(got)) != 1 {
			t.Fatalf("%d values of several states", len(got))
		}
		seen[got[0]] = true
	}
	close(stop)
	if err := <-stopped; err != nil {
		t.Fatal(err)
	}
	if len(seen) < 2 {
		t.Errorf("%d states were seen", len(seen))
	}
}

// changing is a database that is another one after each look.
type changing struct {
	states [2][]byte
	n      int
}

func (c *changing) ReadAt(p []byte, off int64) (int, error) {
	return bytes.NewReader(c.states[c.n%2]).ReadAt(p, off)
}

// Nobody waits for a state of a database longer than their context lasts, nor
// after the last attempt.
func TestViewEnds(t *testing.T) {
	put := func(tx *bbolt.Tx) error { _, err := tx.CreateBucketIfNotExists([]byte("b")); return err }
	db := &changing{states: [2][]byte{build(t, 4096, put), build(t, 4096, put, put)}}
	for at, want := range map[int]error{1: context.Canceled, 3: context.Canceled, attempts: store.ErrBusy} {
		ctx, stop := context.WithCancel(context.Background())
		calls := 0
		_, err := View(ctx, db, func(*Bucket) error {
			if db.n++; calls+1 == at {
				stop()
			}
			calls++
			return nil
		})
		stop()
		if !errors.Is(err, want) || calls != at {
			t.Errorf("a context that ends in look %d: %d looks, %v", at, calls, err)
		}
	}
}
