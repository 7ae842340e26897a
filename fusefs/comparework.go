package fusefs

import (
	"container/list"
	"context"
	"fmt"
	"sync"
	"syscall"
	"weak"

	"imagefs/overlay"
	"imagefs/store"
	"imagefs/store/rootfs"
)

// compared is how the two of a pair differ, without the list of changes, which
// can be large: it is made again when somebody reads it, without reading a file.
// Immutable but for text.
type compared struct {
	of      [parts]*overlay.Subset
	answers *rootfs.Answers
	summary []byte
	size    uint64 // of changes in bytes

	small *changeList // changes, if it is not large

	mu   sync.Mutex // guards text
	text weak.Pointer[changeList]
}

const (
	// smallChanges is how large a list of changes is kept, in bytes.
	smallChanges = 64 << 10
	// maxChanges is how large one can be read; its file is in memory as long as it is open.
	maxChanges = 256 << 20
	// maxResults is how many bytes the results of comparisons that are kept have together.
	maxResults = 32 << 20
)

func (c *compared) bytes() int {
	n := c.answers.Bytes() + cap(c.small.text) + cap(c.summary)
	for _, s := range c.of {
		n += s.Bytes()
	}
	return n
}

func (c *compared) tooLarge() error {
	if c.size > maxChanges {
		return fmt.Errorf("%d bytes of changes: %w", c.size, store.ErrTooLarge)
	}
	return nil
}

// compare returns how the two of a pair differ, worked out once for all who ask
// at one time, and kept for a while. It ends early when nobody waits for it.
// ENFILE if too many wait.
func (f *fsys) compare(ctx context.Context, p *pair) (*compared, error) {
	if c := p.result.Load(); c != nil {
		f.pairs.results.used(p)
		return c, nil
	}
	defer f.pairs.waiting.Add(-1)
	if f.pairs.waiting.Add(1) > maxWaiting {
		return nil, syscall.ENFILE
	}
	p.mu.Lock()
	if p.gone.Load() {
		p.mu.Unlock()
		return nil, syscall.ESTALE
	}
	w := p.flight
	if w == nil {
		if c := p.result.Load(); c != nil {
			p.mu.Unlock()
			return c, nil
		}
		w = f.takeOffPair(p)
	}
	return w.await(ctx, &p.mu, func() {
		if p.flight == w {
			p.flight = nil
		}
	})
}

// takeOffPair starts the comparison of a pair, whose mu is held.
func (f *fsys) takeOffPair(p *pair) *flight[*compared] {
	p.flight = takeOff(f, "compare", func(ctx context.Context) (*compared, error) {
		select {
		case f.pairs.working <- struct{}{}:
			defer func() { <-f.pairs.working }()
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		return f.comparePair(ctx, p)
	}, func(w *flight[*compared]) {
		p.mu.Lock()
		defer p.mu.Unlock()
		switch {
		case p.gone.Load():
			w.out, w.err = nil, syscall.ESTALE
		case w.err == nil:
			p.result.Store(w.out)
			f.pairs.results.add(p, w.out.bytes())
		}
		if p.flight == w {
			p.flight = nil
		}
	})
	return p.flight
}

// sides are the two trees of a pair, from views of their images.
func (f *fsys) sides(ctx context.Context, p *pair) (v [2]*view, err error) {
	for i, s := range []side{p.a, p.b} {
		im, err := f.image(s.id)
		if err != nil {
			return v, err
		}
		_, img, err := f.imageOf(ctx, synthID(typeImage, im.slot, 0))
		if err != nil {
			return v, err
		}
		if v[i], err = f.imageView(ctx, im, img, rootKey{n: s.top(img)}); err != nil {
			return v, err
		}
	}
	return v, nil
}

func (v *view) rootfs(ctx context.Context) *rootfs.FS {
	var layers []store.Layer
	for _, l := range v.layers {
		layers = append(layers, l.l)
	}
	return rootfs.Of(ctx, v.tree, layers)
}

// comparePair compares the two of a pair.
func (f *fsys) comparePair(ctx context.Context, p *pair) (*compared, error) {
	v, err := f.sides(ctx, p)
	if err != nil {
		return nil, err
	}
	var of [parts]*overlay.SubsetBuilder
	for i := range of {
		if of[i], err = overlay.NewSubset(v[partSide(i)].tree); err != nil {
			return nil, err
		}
	}
	c := &compared{small: &changeList{}}
	var tally rootfs.Tally
	var failed error
	var line []byte
	x, y := v[0].rootfs(ctx), v[1].rootfs(ctx)
	c.answers, err = rootfs.Record(ctx, x, y, func(d rootfs.Difference) bool {
		tally.Add(d)
		line = d.AppendLine(line[:0])
		if c.size += uint64(len(line)); c.size <= smallChanges {
			c.small.text = append(c.small.text, line...)
		} else {
			c.small.text = nil
		}
		failed = of[partOf(d.Op)].Add(d.Path, d.Op != 'C')
		return failed == nil
	})
	if err == nil {
		err = failed
	}
	if err != nil {
		return nil, err
	}
	sum, err := tally.Summary(ctx, x, y)
	if err != nil {
		return nil, err
	}
	for i, b := range of {
		c.of[i] = b.Subset()
	}
	c.summary = []byte(sum.String())
	return c, nil
}

// pairChanges is the content of a pair's list of changes, once for all who have
// it open; lists.close lets go of it.
func (f *fsys) pairChanges(p *pair) (*changeList, error) {
	c, err := f.compare(f.life, p)
	if err != nil {
		return nil, err
	}
	if c.size <= smallChanges {
		return c.small, f.pairs.lists.open(c.small, len(c.small.text))
	}
	if err := c.tooLarge(); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if l := c.text.Value(); l != nil {
		return l, f.pairs.lists.open(l, len(l.text))
	}
	l := &changeList{}
	if err := f.pairs.lists.open(l, int(c.size)); err != nil {
		return nil, err
	}
	if l.text, err = f.listChanges(p, c); err != nil {
		f.pairs.lists.close(l)
		return nil, err
	}
	c.text = weak.Make(l)
	return l, nil
}

// listChanges makes a list of changes that is large.
func (f *fsys) listChanges(p *pair, c *compared) ([]byte, error) {
	v, err := f.sides(f.life, p)
	if err != nil {
		return nil, err
	}
	b := make([]byte, 0, c.size)
	err = c.answers.Replay(f.life, v[0].rootfs(f.life), v[1].rootfs(f.life), func(d rootfs.Difference) bool {
		b = d.AppendLine(b)
		return true
	})
	return b, err
}

// results keeps what was worked out last, up to maxResults bytes; the latest
// stays however large it is.
type results struct {
	mu    sync.Mutex // guards all
	order list.List  // of *heldResult, the latest used first
	of    map[*pair]*list.Element
	bytes int
	limit int // 0: maxResults
}

type heldResult struct {
	p     *pair
	bytes int
}

// add keeps the result of a pair, and lets go of others.
func (r *results) add(p *pair, bytes int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.of == nil {
		r.of = map[*pair]*list.Element{}
	}
	r.take(p)
	r.of[p] = r.order.PushFront(&heldResult{p, bytes})
	r.bytes += bytes
	limit := r.limit
	if limit == 0 {
		limit = maxResults
	}
	for r.bytes > limit && r.order.Len() > 1 {
		old := r.order.Back().Value.(*heldResult).p
		r.take(old)
		old.result.Store(nil)
	}
}

// used makes a pair the latest.
func (r *results) used(p *pair) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e := r.of[p]; e != nil {
		r.order.MoveToFront(e)
	}
}

// remove lets go of the result of a pair.
func (r *results) remove(p *pair) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.take(p)
	p.result.Store(nil)
}

// take takes a pair off the list; mu is held.
func (r *results) take(p *pair) {
	if e := r.of[p]; e != nil {
		delete(r.of, p)
		r.bytes -= r.order.Remove(e).(*heldResult).bytes
	}
}
