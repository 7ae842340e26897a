package fusefs

import (
	"context"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"imagefs/store/storetest"
)

// Paths of an image's directory that take work when they are looked up first.
var firstLooks = [][]string{{"rootfs"}, {"layers", "0", "rootfs"}, {"layers", "1", "diff"}, {"layers", "1", "changes"}}

// newLookTest is a file system with an image of two layers that nobody has looked at.
func newLookTest(t *testing.T) (p pairTest, im nodeID, record *image) {
	t.Helper()
	layers := [][]byte{storetest.Files("a=1"), storetest.Files("b=2")}
	p = newPairTest(t, layers, [][]byte{storetest.Files("c=3")})
	record, err := p.f.image(p.f.snap.Load().names.Tags["a:1"])
	if err != nil {
		t.Fatal(err)
	}
	return p, synthID(typeImage, record.slot, 0), record
}

// waiters counts those who wait for a piece of an image's work.
func waiters(im *image) (n int) {
	im.mu.Lock()
	defer im.mu.Unlock()
	for _, w := range im.flights {
		n += w.waiting
	}
	if im.loading != nil {
		n += im.loading.waiting
	}
	return n
}

// look looks a path up, until cancel.
func (p pairTest) look(cancel <-chan struct{}, dir nodeID, path []string) fuse.Status {
	var out fuse.EntryOut
	for _, name := range path {
		out = fuse.EntryOut{}
		if st := p.f.Lookup(cancel, &fuse.InHeader{NodeId: uint64(dir)}, name, &out); st != fuse.OK {
			return st
		}
		dir = nodeID(out.NodeId)
	}
	return fuse.OK
}

// The first look into an image is interrupted at once, and its work ends with the last who waits.
func TestFirstLookIsInterrupted(t *testing.T) {
	for _, path := range firstLooks {
		p, dir, im := newLookTest(t)
		shut := make(chan struct{})
		p.g.noIndex.Store(&shut)
		one, other := make(chan struct{}), make(chan struct{})
		answers := make(chan fuse.Status)
		for _, cancel := range []chan struct{}{one, other} {
			go func() { answers <- p.look(cancel, dir, path) }()
		}
		until(t, "both wait", func() bool { return waiters(im) >= 2 && p.g.indexing.Load() > 0 })
		close(one)
		if st := <-answers; st != fuse.Status(syscall.EINTR) {
			t.Errorf("%q: %v", path, st)
		}
		if p.g.indexing.Load() == 0 {
			t.Errorf("%q: the work ended while another waits", path)
		}
		close(other)
		if st := <-answers; st != fuse.Status(syscall.EINTR) {
			t.Errorf("%q: the other: %v", path, st)
		}
		until(t, "the work ends", func() bool { return p.g.indexing.Load() == 0 })
		close(shut)
		if st := p.look(nil, dir, path); st != fuse.OK {
			t.Errorf("%q: looked at again: %v", path, st)
		}
	}
}

// All who look at one time share the work.
func TestFirstLookIsShared(t *testing.T) {
	p, dir, im := newLookTest(t)
	shut := make(chan struct{})
	p.g.noIndex.Store(&shut)
	const lookers = 8
	var nodes [lookers]uint64
	var wg sync.WaitGroup
	for i := range lookers {
		wg.Go(func() {
			out, st := p.lookup(dir, "rootfs")
			if st != fuse.OK {
				t.Errorf("looker %d: %v", i, st)
			}
			nodes[i] = out.NodeId
		})
	}
	until(t, "all wait", func() bool { return waiters(im) == lookers })
	close(shut)
	wg.Wait()
	if slices.Min(nodes[:]) != slices.Max(nodes[:]) {
		t.Errorf("nodes %x", nodes)
	}
	// Each of two layers, once to get it ready and once for the view.
	if n := p.g.indexes.Load(); n != 4 {
		t.Errorf("%d indexes were asked for", n)
	}
}

// Names can be changed while somebody waits for the first look into an image.
func TestFirstLookHoldsNobodyUp(t *testing.T) {
	for _, c := range []struct {
		what string
		shut func(g *gate, c *chan struct{})
	}{
		{"its indexes", func(g *gate, c *chan struct{}) { g.noIndex.Store(c) }},
		{"the image", func(g *gate, c *chan struct{}) { g.noImage.Store(c) }},
	} {
		p, dir, im := newLookTest(t)
		shut := make(chan struct{})
		c.shut(p.g, &shut)
		answer := make(chan fuse.Status)
		go func() { answer <- p.look(nil, dir, []string{"rootfs"}) }()
		until(t, "it waits for "+c.what, func() bool { return waiters(im) == 1 })
		done := make(chan struct{})
		go func() { p.f.refresh(); close(done) }()
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			t.Errorf("a look at the store waits for %s", c.what)
		}
		close(shut)
		if st := <-answer; st != fuse.OK {
			t.Errorf("%s: %v", c.what, st)
		}
	}
}

// Who waits for an image that is removed is told so, and nothing of it stays.
func TestFirstLookAtARemovedImage(t *testing.T) {
	p, dir, im := newLookTest(t)
	shut := make(chan struct{})
	p.g.noIndex.Store(&shut)
	answer := make(chan fuse.Status)
	go func() { answer <- p.look(nil, dir, []string{"rootfs"}) }()
	until(t, "it waits", func() bool { return waiters(im) == 1 && p.g.indexing.Load() > 0 })
	if _, err := p.s.Remove(context.Background(), "a:1", false); err != nil {
		t.Fatal(err)
	}
	p.f.refresh()
	if st := <-answer; st != fuse.Status(syscall.ESTALE) {
		t.Errorf("who waits gets %v", st)
	}
	until(t, "let go", func() bool { return p.f.images.get(dir.slot()) == nil })
}

// A view that was made when its makers had left, and after another, is let go of.
func TestViewIsMadeTwice(t *testing.T) {
	p, dir, im := newLookTest(t)
	out, st := p.lookup(dir, "rootfs")
	if st != fuse.OK {
		t.Fatal(st)
	}
	second, err := p.f.newView(t.Context(), *im.known.Load(), 0, 1, false)
	if err != nil {
		t.Fatal(err)
	}
	if root, err := p.f.keepRoot(im, rootKey{n: 1}, second); err != nil || uint64(root) != out.NodeId {
		t.Errorf("the root is %#x, %v, was %#x", root, err, out.NodeId)
	}
	if p.f.view(second) != nil || p.f.view(nodeID(out.NodeId)).layers[0].views != 1 {
		t.Error("the second view is kept")
	}
}
