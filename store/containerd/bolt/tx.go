package bolt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"imagefs/store"
)

// State tells states of one database file apart. The zero value is none's.
type State struct{ txid, sum uint64 }

// Read returns the state that a database is in.
func Read(f io.ReaderAt) (State, error) {
	m, err := readMeta(f)
	return State{m.txid, m.sum}, err
}

// Limits of one View.
const (
	maxVisits = 1 << 20  // pages looked at
	maxRead   = 1 << 30  // bytes read
	maxCached = 32 << 20 // bytes of pages that are kept
	attempts  = 12
)

// firstWait is how long View waits before the second attempt; it doubles up to maxWait.
const (
	firstWait = time.Millisecond
	maxWait   = 50 * time.Millisecond
)

// View calls fn with the root bucket of the database's newest state, and
// returns which that was. If the database was written to meanwhile, what fn saw
// may be a mixture, its error included: fn is then called again, and must start
// anew. store.ErrBusy if that does not end, store.ErrCorrupt, store.ErrTooLarge,
// what fn returns, or the error of ctx.
func View(ctx context.Context, f io.ReaderAt, fn func(root *Bucket) error) (State, error) {
	wait := firstWait
	for attempt := range attempts {
		if attempt > 0 {
			if err := sleep(ctx, wait); err != nil {
				return State{}, err
			}
			wait = min(2*wait, maxWait)
			if _, err := readMeta(f); err != nil {
				return State{}, err
			}
		}
		m, err := readMeta(f)
		if err == nil {
			t := &tx{ctx: ctx, f: f, meta: m, pages: map[uint64]page{}}
			err = fn(&Bucket{tx: t, root: m.root})
			now, nerr := readMeta(f)
			if nerr == nil && now == m {
				return State{m.txid, m.sum}, err
			}
		}
		// Without a meta page that is whole it may be being written.
		if err != nil && !errors.Is(err, store.ErrCorrupt) && !errors.Is(err, store.ErrTooLarge) {
			return State{}, err
		}
	}
	return State{}, fmt.Errorf("the database is being written all the time: %w", store.ErrBusy)
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// tx is one look at a database.
type tx struct {
	ctx    context.Context
	f      io.ReaderAt
	meta   meta
	pages  map[uint64]page
	cached int
	visits int
	bytes  int64 // read so far
}

func (t *tx) page(id uint64) (page, error) {
	if t.visits++; t.visits > maxVisits {
		return page{}, fmt.Errorf("bolt database: more than %d pages looked at: %w", maxVisits, store.ErrTooLarge)
	}
	if err := t.ctx.Err(); err != nil {
		return page{}, err
	}
	if p, ok := t.pages[id]; ok {
		return p, nil
	}
	if id < 2 || id >= t.meta.pages || id > (1<<62)/uint64(t.meta.pageSize) {
		return page{}, corrupt("no page %d", id)
	}
	off := int64(id) * t.meta.pageSize
	b := make([]byte, t.meta.pageSize)
	if err := t.read(b, off, id); err != nil {
		return page{}, err
	}
	if more := int64(le.Uint32(b[12:])); more > 0 {
		if more >= maxNode/t.meta.pageSize {
			return page{}, fmt.Errorf("bolt database: page %d has %d more after it: %w", id, more, store.ErrTooLarge)
		}
		whole := make([]byte, (more+1)*t.meta.pageSize)
		copy(whole, b)
		if err := t.read(whole[len(b):], off+t.meta.pageSize, id); err != nil {
			return page{}, err
		}
		b = whole
	}
	p, err := parsePage(b, id)
	if err == nil && t.cached+len(b) <= maxCached {
		t.pages[id] = p
		t.cached += len(b)
	}
	return p, err
}

func (t *tx) read(b []byte, off int64, id uint64) error {
	if t.bytes += int64(len(b)); t.bytes > maxRead {
		return fmt.Errorf("bolt database: more than %d bytes read: %w", maxRead, store.ErrTooLarge)
	}
	n, err := t.f.ReadAt(b, off)
	switch {
	case n == len(b):
		return nil
	case err == io.EOF:
		return corrupt("the file ends before the end of page %d", id)
	}
	return err
}

// Bucket is a bucket of one state of a database. It must not be used after fn
// of View has returned; keys and values may be.
type Bucket struct {
	tx   *tx
	root uint64 // 0: the bucket lies in its parent's page
	top  page   // at the root of the bucket's tree, once it was read
}

// first is the page at the root of the bucket's tree.
func (b *Bucket) first() (page, error) {
	if b.root == 0 || b.top.b != nil {
		return b.top, nil
	}
	var err error
	b.top, err = b.tx.page(b.root)
	return b.top, err
}

// find looks a key up.
func (b *Bucket) find(key []byte) (element, bool, error) {
	p, err := b.first()
	var low, high []byte // what the subtree's keys lie between; nil: no bound
	for range maxDepth {
		if err != nil {
			return element{}, false, err
		}
		if p.count > 0 && (bytes.Compare(p.at(0).key, low) < 0 || high != nil && bytes.Compare(p.at(p.count-1).key, high) >= 0) {
			return element{}, false, corrupt("keys are not in order")
		}
		i := p.find(key)
		if p.leaf {
			if i == p.count || !bytes.Equal(p.at(i).key, key) {
				return element{}, false, nil
			}
			return p.at(i), true, nil
		}
		// A subtree has the keys from its own on to the next one's.
		if i == p.count || !bytes.Equal(p.at(i).key, key) {
			i = max(i-1, 0)
		}
		low = p.at(i).key
		if i+1 < p.count {
			high = p.at(i + 1).key
		}
		p, err = b.tx.page(p.at(i).child)
	}
	return element{}, false, corrupt("a tree of more than %d levels", maxDepth)
}

// Get returns a value, nil if there is none of that key.
func (b *Bucket) Get(key string) ([]byte, error) {
	if b == nil {
		return nil, nil
	}
	e, ok, err := b.find([]byte(key))
	if err != nil || !ok || e.bucket {
		return nil, err
	}
	return e.value, nil
}

// Bucket returns the bucket at the end of a path, nil if there is none. A nil
// Bucket has nothing in it.
func (b *Bucket) Bucket(path ...string) (*Bucket, error) {
	for _, key := range path {
		if b == nil {
			return nil, nil
		}
		e, ok, err := b.find([]byte(key))
		if err != nil || !ok || !e.bucket {
			return nil, err
		}
		if b, err = b.sub(e.value); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// sub opens the bucket that a value is.
func (b *Bucket) sub(v []byte) (*Bucket, error) {
	if len(v) < 16 {
		return nil, corrupt("a bucket of %d bytes", len(v))
	}
	s := &Bucket{tx: b.tx, root: le.Uint64(v)}
	if s.root != 0 {
		return s, nil
	}
	var err error
	s.top, err = parsePage(v[16:], 0)
	return s, err
}

// Each calls fn with each key in order, and with its value, or the bucket that
// is there instead. It ends with the first error.
func (b *Bucket) Each(fn func(key string, value []byte, sub *Bucket) error) error {
	if b == nil {
		return nil
	}
	w := walk{b: b, fn: fn, seen: map[uint64]bool{}}
	if b.root == 0 {
		return w.leaf(b.top)
	}
	return w.page(b.root, 0)
}

// walk goes through a bucket's tree once.
type walk struct {
	b    *Bucket
	fn   func(key string, value []byte, sub *Bucket) error
	seen map[uint64]bool
	last []byte // the key before
	any  bool
}

func (w *walk) page(id uint64, depth int) error {
	if w.seen[id] {
		return corrupt("page %d is in its tree twice", id)
	}
	if depth == maxDepth {
		return corrupt("a tree of more than %d levels", maxDepth)
	}
	w.seen[id] = true
	p, err := w.b.tx.page(id)
	if err != nil {
		return err
	}
	if p.leaf {
		return w.leaf(p)
	}
	for i := range p.count {
		if err := w.page(p.at(i).child, depth+1); err != nil {
			return err
		}
	}
	return nil
}

func (w *walk) leaf(p page) error {
	for i := range p.count {
		e := p.at(i)
		if w.any && bytes.Compare(w.last, e.key) >= 0 {
			return corrupt("keys are not in order")
		}
		w.last, w.any = e.key, true
		var sub *Bucket
		value := e.value
		if e.bucket {
			var err error
			if sub, err = w.b.sub(e.value); err != nil {
				return err
			}
			value = nil
		}
		if err := w.fn(string(e.key), value, sub); err != nil {
			return err
		}
	}
	return nil
}
