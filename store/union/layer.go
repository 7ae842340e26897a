package union

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"weak"

	digest "github.com/opencontainers/go-digest"

	"imagefs/overlay"
	"imagefs/store"
)

// candidate is a layer of a part.
type candidate struct {
	part store.Part
	store.Layer
}

// is tells whether two are the same layer of the same part.
func (c candidate) is(o candidate) bool { return c.part.Name == o.part.Name && c.Key() == o.Key() }

// layer is a layer as one of the parts has it.
type layer struct {
	u     *Union
	stack []digest.Digest // the diff IDs from the bottom to this one
	chain digest.Digest

	mu      sync.Mutex // guards what follows
	from    candidate  // does not change any more once settled
	settled bool       // an index was given out
}

var (
	_ store.Layer     = (*layer)(nil)
	_ store.TarHolder = (*layer)(nil)
	_ store.Trimmer   = (*layer)(nil)
)

// layer returns the layer of a stack: the one that is served already, as long
// as its part has it, else that of the first part that has it whole. own is the
// layer as the image's part has it.
func (u *Union) layer(ctx context.Context, stack []digest.Digest, own candidate, whole bool, a asked) store.Layer {
	chain := own.ChainID()
	u.mu.Lock()
	l := u.layers[chain].Value()
	u.mu.Unlock()
	if l != nil {
		from := l.source()
		if whole && from.is(own) {
			return l
		}
		if now, err := u.find(ctx, from.part, stack, a); err == nil && from.is(now) {
			return l
		}
	}
	fresh := &layer{u: u, stack: stack, chain: chain, from: own}
	for _, p := range u.Parts() {
		if whole && p.Name == own.part.Name {
			break
		}
		if c, err := u.find(ctx, p, stack, a); err == nil {
			fresh.from, whole = c, true
			break
		}
	}
	if !whole {
		return fresh // broken, and in no part otherwise: nothing to be shared
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	// Somebody else may have looked at the same time: then what they found is served.
	if other := u.layers[chain].Value(); other != nil && other != l {
		return other
	}
	if !u.closed {
		w := weak.Make(fresh)
		u.layers[chain] = w
		runtime.AddCleanup(fresh, func(chain digest.Digest) { u.dropped(chain, w) }, chain)
	}
	return fresh
}

// dropped lets go of what is known of a layer that nobody has any more.
func (u *Union) dropped(chain digest.Digest, w weak.Pointer[layer]) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.layers[chain] == w {
		delete(u.layers, chain)
	}
}

func (l *layer) source() candidate {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.from
}

// others returns the layer as the parts have it that do not serve it.
func (l *layer) others(ctx context.Context, yield func(candidate) bool) {
	from := l.source()
	for _, p := range l.u.Parts() {
		if p.Name == from.part.Name {
			continue
		}
		if c, err := l.u.find(ctx, p, l.stack, nil); err == nil && !yield(c) {
			return
		}
	}
}

// DiffID implements store.Layer.
func (l *layer) DiffID() digest.Digest { return l.stack[len(l.stack)-1] }

// ChainID implements store.Layer.
func (l *layer) ChainID() digest.Digest { return l.chain }

// Digest implements store.Layer.
func (l *layer) Digest() digest.Digest { return l.source().Digest() }

// Size implements store.Layer.
func (l *layer) Size() int64 { return l.source().Size() }

// Key implements store.Layer. It can change until the layer has given out an
// index, not afterwards.
func (l *layer) Key() string {
	c := l.source()
	return c.part.Name + "/" + c.Key()
}

// Index implements store.Layer. If the part cannot give one, another serves the layer from now on.
func (l *layer) Index(ctx context.Context) (overlay.Layer, error) {
	tried := map[string]bool{}
	var first error
	for {
		from := l.source()
		ix, err := from.Index(ctx)
		if l.settle(from, err == nil) {
			return ix, err
		}
		if err == nil {
			continue // another serves it meanwhile
		}
		if ctx.Err() != nil {
			return nil, err
		}
		if first == nil {
			first = err
		}
		tried[from.part.Name] = true
		found := false
		l.others(ctx, func(c candidate) bool {
			if found = !tried[c.part.Name]; found {
				l.u.log.Warn("a layer is read from another store", "layer", l.chain, "broken in", from.part.Name, "from", c.part.Name, "err", err)
				l.move(from, c)
			}
			return !found
		})
		if !found {
			return nil, first
		}
	}
}

// settle tells whether what a candidate said of the index is what counts: that
// it has one, which it then serves for good, or anything if it serves already.
func (l *layer) settle(from candidate, good bool) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !from.is(l.from) {
		return false
	}
	l.settled = l.settled || good
	return l.settled
}

// move lets another candidate serve the layer, unless that has changed or is settled.
func (l *layer) move(from, to candidate) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if from.is(l.from) && !l.settled {
		l.from = to
	}
}

// Open implements store.Layer. What the part has lost is read from another that has the file.
func (l *layer) Open(ctx context.Context, i overlay.Ino) (store.File, error) {
	from := l.source()
	f, err := from.Open(ctx, i)
	if err == nil || !isLost(err) {
		return f, err
	}
	ix, e := from.Index(ctx)
	if e != nil || int(i) >= ix.Inodes() {
		return nil, err
	}
	path, size := string(ix.Path(nil, i)), ix.Stat(i).Size
	var found store.File
	l.others(ctx, func(c candidate) bool {
		found = openPath(ctx, c, path, size)
		return found == nil
	})
	if found != nil {
		return found, nil
	}
	return nil, err
}

// isLost tells whether an error is of a part that no longer has what it had.
func isLost(err error) bool { return errors.Is(err, store.ErrGone) || errors.Is(err, store.ErrCorrupt) }

var _ store.WholeReader = (*layer)(nil)

// ReadWhole implements store.WholeReader, as Open does.
func (l *layer) ReadWhole(ctx context.Context, i overlay.Ino, p []byte) error {
	err := store.ReadWhole(ctx, l.source(), i, p)
	if err == nil || !isLost(err) {
		return err
	}
	f, e := l.Open(ctx, i)
	if e != nil {
		return err
	}
	defer f.Close()
	if n, e := f.ReadAt(p, 0); n < len(p) {
		return errors.Join(err, e)
	}
	return nil
}

// openPath opens a regular file of a layer by its path; nil if there is none of that size.
func openPath(ctx context.Context, l store.Layer, path string, size uint64) store.File {
	ix, err := l.Index(ctx)
	if err != nil {
		return nil
	}
	tree, err := overlay.Merge(ix)
	if err != nil {
		return nil
	}
	n, ok, err := tree.Walk(path)
	if err != nil || !ok {
		return nil
	}
	if a := tree.Attr(n); a.Mode&typeMask != typeFile || a.Size != size {
		return nil
	}
	f, err := l.Open(ctx, n.Ino())
	if err != nil {
		return nil
	}
	return f
}

const (
	typeMask = 0o170000
	typeFile = 0o100000
)

// HasTar implements store.TarHolder.
func (l *layer) HasTar() bool {
	_, ok := l.tarSource(context.Background())
	return ok
}

func hasTar(c candidate) bool {
	h, ok := c.Layer.(store.TarHolder)
	return !ok || h.HasTar()
}

// tarSource returns the layer from which the tar is read: its bytes are the
// same in every part that can give them.
func (l *layer) tarSource(ctx context.Context) (candidate, bool) {
	from := l.source()
	if hasTar(from) {
		return from, true
	}
	ok := false
	l.others(ctx, func(c candidate) bool {
		if ok = hasTar(c); ok {
			from = c
		}
		return !ok
	})
	return from, ok
}

// TarSize implements store.Layer.
func (l *layer) TarSize(ctx context.Context) (int64, error) {
	c, _ := l.tarSource(ctx)
	n, err := c.TarSize(ctx)
	if err == nil || ctx.Err() != nil {
		return n, err
	}
	l.others(ctx, func(c candidate) bool {
		m, e := c.TarSize(ctx)
		if e == nil {
			n, err = m, nil
		}
		return e != nil
	})
	return n, err
}

// Tar implements store.Layer.
func (l *layer) Tar(ctx context.Context) (store.File, error) {
	c, _ := l.tarSource(ctx)
	f, err := c.Tar(ctx)
	if err == nil || ctx.Err() != nil {
		return f, err
	}
	l.others(ctx, func(c candidate) bool {
		g, e := c.Tar(ctx)
		if e == nil {
			f, err = g, nil
		}
		return e != nil
	})
	return f, err
}

// Trim implements store.Trimmer.
func (l *layer) Trim() {
	if t, ok := l.source().Layer.(store.Trimmer); ok {
		t.Trim()
	}
}

// Forget implements store.Forgetter.
func (u *Union) Forget(of store.Layer) {
	l, ok := of.(*layer)
	if !ok {
		return
	}
	from := l.source()
	if f, ok := from.part.Store.(store.Forgetter); ok {
		f.Forget(from.Layer)
	}
	now, err := u.find(context.Background(), from.part, l.stack, nil)
	if err == nil && from.is(now) {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.layers[l.chain].Value() == l {
		delete(u.layers, l.chain)
	}
}
