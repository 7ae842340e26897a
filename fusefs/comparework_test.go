package fusefs

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	digest "github.com/opencontainers/go-digest"

	"imagefs/overlay"
	"imagefs/store"
	"imagefs/store/docker"
	"imagefs/store/storetest"
)

// gate is a store the files of whose layers are opened when the gate is open.
type gate struct {
	store.Store
	opens  atomic.Int64 // of files
	closed atomic.Pointer[chan struct{}]
	// the same for indexes, and for what is known of images
	indexing, indexes atomic.Int64 // under way, begun
	noIndex, noImage  atomic.Pointer[chan struct{}]
}

func (g *gate) Image(ctx context.Context, id digest.Digest) (store.Image, error) {
	if wait := g.noImage.Load(); wait != nil {
		<-*wait
	}
	img, err := g.Store.Image(ctx, id)
	if err != nil {
		return nil, err
	}
	return gatedImage{img, g}, nil
}

type gatedImage struct {
	store.Image
	g *gate
}

func (i gatedImage) Layers() (out []store.Layer) {
	for _, l := range i.Image.Layers() {
		out = append(out, gatedLayer{l, i.g})
	}
	return out
}

type gatedLayer struct {
	store.Layer
	g *gate
}

func (l gatedLayer) Index(ctx context.Context) (overlay.Layer, error) {
	l.g.indexes.Add(1)
	l.g.indexing.Add(1)
	defer l.g.indexing.Add(-1)
	if wait := l.g.noIndex.Load(); wait != nil {
		select {
		case <-*wait:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return l.Layer.Index(ctx)
}

func (l gatedLayer) Open(ctx context.Context, i overlay.Ino) (store.File, error) {
	l.g.opens.Add(1)
	if wait := l.g.closed.Load(); wait != nil {
		select {
		case <-*wait:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return l.Layer.Open(ctx, i)
}

// pairTest is a file system without a mount, with the images a:1 and b:1.
type pairTest struct {
	*testing.T
	f *fsys
	g *gate
	s *docker.Store
}

func newPairTest(t *testing.T, a, b [][]byte) pairTest {
	t.Helper()
	s, err := docker.Open(filepath.Join(t.TempDir(), "store"), docker.Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	storetest.Fill(t, s, storetest.Image{Names: []string{"a:1"}, Layers: a, Comment: "a"}, storetest.Image{Names: []string{"b:1"}, Layers: b, Comment: "b"})
	g := &gate{Store: s}
	life, stop := context.WithCancel(context.Background())
	f, err := newFS(life, g, Options{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(); f.work.Wait(); f.close() })
	f.retireAfter = time.Millisecond
	return pairTest{t, f, g, s}
}

// lookup looks a path up from a node, as the kernel does.
func (p pairTest) lookup(dir nodeID, names ...string) (fuse.EntryOut, fuse.Status) {
	p.Helper()
	var out fuse.EntryOut
	for _, name := range names {
		out = fuse.EntryOut{}
		if st := p.f.Lookup(nil, &fuse.InHeader{NodeId: uint64(dir)}, name, &out); st != fuse.OK {
			return out, st
		}
		dir = nodeID(out.NodeId)
	}
	return out, fuse.OK
}

// pair looks the pair's directory up.
func (p pairTest) pair(a, b string) nodeID {
	p.Helper()
	link, st := p.lookup(diffNode, a+".."+b)
	if st != fuse.OK {
		p.Fatal(st)
	}
	to, st := p.f.Readlink(nil, &fuse.InHeader{NodeId: link.NodeId})
	if st != fuse.OK {
		p.Fatal(st)
	}
	out, st := p.lookup(diffNode, string(to))
	if st != fuse.OK {
		p.Fatal(st)
	}
	p.f.Forget(link.NodeId, 1)
	return nodeID(out.NodeId)
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: never", what)
		}
	}
}

func equalSize() (a, b [][]byte) {
	base := storetest.Files("base=x")
	return [][]byte{base, storetest.Files("d/", "d/f=1", "d/same=s")}, [][]byte{base, storetest.Files("d/", "d/f=2", "d/same=s")}
}

// All who ask at one time share one comparison, which ends when the last of them is interrupted.
func TestCompareIsShared(t *testing.T) {
	p := newPairTest(t, first(equalSize()), second(equalSize()))
	dir := p.pair("a:1", "b:1")
	shut := make(chan struct{})
	p.g.closed.Store(&shut)
	const readers = 8
	var wg sync.WaitGroup
	cancels := make([]chan struct{}, readers)
	var answers [readers]fuse.Status
	for i := range readers {
		cancels[i] = make(chan struct{})
		wg.Go(func() {
			var out fuse.EntryOut
			answers[i] = p.f.Lookup(cancels[i], &fuse.InHeader{NodeId: uint64(dir)}, "changes", &out)
		})
	}
	record := p.f.pairs.get(dir.slot())
	waiting := func(n int) func() bool {
		return func() bool {
			record.mu.Lock()
			defer record.mu.Unlock()
			return n == 0 && record.flight == nil || record.flight != nil && record.flight.waiting == n
		}
	}
	until(t, "all wait", waiting(readers))
	for i := range readers / 2 {
		close(cancels[i])
	}
	until(t, "half are interrupted", waiting(readers/2))
	for i := readers / 2; i < readers; i++ {
		close(cancels[i])
	}
	wg.Wait()
	for i, st := range answers {
		if st != fuse.Status(syscall.EINTR) {
			t.Errorf("reader %d: %v", i, st)
		}
	}
	until(t, "it has ended", func() bool { return waiting(0)() && len(p.f.pairs.working) == 0 })
	if record.result.Load() != nil {
		t.Error("an interrupted comparison has a result")
	}

	before := p.g.opens.Load()
	for i := range readers {
		wg.Go(func() { _, answers[i] = p.lookup(dir, "changes") })
	}
	until(t, "all wait again", waiting(readers))
	close(shut)
	p.g.closed.Store(nil)
	wg.Wait()
	if slices.ContainsFunc(answers[:], func(st fuse.Status) bool { return st != fuse.OK }) {
		t.Errorf("answers %v", answers)
	}
	// d/f and d/same of both, each once: base is of one layer.
	if n := p.g.opens.Load() - before; n != 4 {
		t.Errorf("%d files opened, want 4", n)
	}
	if _, st := p.lookup(dir, "summary"); st != fuse.OK || p.g.opens.Load()-before != 4 {
		t.Errorf("compared once more: %v, %d files", st, p.g.opens.Load()-before)
	}
}

func first(a, _ [][]byte) [][]byte  { return a }
func second(_, b [][]byte) [][]byte { return b }

// What was let go of for want of room is worked out again, with the same inodes.
func TestCompareKeepsTheLatest(t *testing.T) {
	p := newPairTest(t, first(equalSize()), second(equalSize()))
	p.f.pairs.results.limit = 1
	one, other := p.pair("a:1", "b:1"), p.pair("b:1", "a:1")
	inode := func(dir nodeID) uint64 {
		t.Helper()
		out, st := p.lookup(dir, "changed", "d")
		if st != fuse.OK {
			t.Fatal(st)
		}
		if _, st := p.lookup(nodeID(out.NodeId), "f"); st != fuse.OK {
			t.Fatal(st)
		}
		return out.Ino
	}
	kept := func(dir nodeID) bool { return p.f.pairs.get(dir.slot()).result.Load() != nil }
	was := inode(one)
	if !kept(one) {
		t.Error("the latest is not kept")
	}
	inode(other)
	if kept(one) || !kept(other) {
		t.Error("the latest alone should be kept")
	}
	if is := inode(one); is != was {
		t.Errorf("inode %d, then %d", was, is)
	}
	if n := p.f.pairs.results.order.Len(); n != 1 {
		t.Errorf("%d results", n)
	}
}

// A pair that the kernel forgot is let go of with its views, and can be looked up again.
func TestCompareForgets(t *testing.T) {
	p := newPairTest(t, first(equalSize()), second(equalSize()))
	dir := p.pair("a:1", "b:1")
	root, st := p.lookup(dir, "changed")
	if st != fuse.OK {
		t.Fatal(st)
	}
	if _, st := p.lookup(nodeID(root.NodeId), "d"); st != fuse.OK {
		t.Fatal(st)
	}
	again := p.pair("a:1", "b:1")
	if again != dir {
		t.Errorf("node %#x, then %#x", dir, again)
	}
	record := p.f.pairs.get(dir.slot())
	p.f.Forget(uint64(dir), 1)
	record.mu.Lock()
	if record.leaving || record.idle() {
		t.Error("it is to be let go of while the kernel knows it")
	}
	record.mu.Unlock()
	if _, st := p.lookup(dir, "changes"); st != fuse.OK {
		t.Errorf("the kernel knows it still: %v", st)
	}
	p.f.Forget(uint64(dir), 1)
	until(t, "let go", func() bool {
		return p.f.pairs.get(dir.slot()) == nil && p.f.view(nodeID(root.NodeId)) == nil
	})
	if p.f.pairs.results.bytes != 0 || p.f.pairs.results.order.Len() != 0 {
		t.Error("its result is kept")
	}
	if _, st := p.lookup(dir, "changes"); st != fuse.Status(syscall.ESTALE) {
		t.Errorf("a node that is gone: %v", st)
	}
	if new := p.pair("a:1", "b:1"); new == dir {
		t.Error("a node's number is used twice")
	} else if _, st := p.lookup(new, "changed", "d", "f"); st != fuse.OK {
		t.Errorf("looked up again: %v", st)
	}
}

// The pair of a removed image ends a comparison that is under way, and lets its layers go.
func TestCompareOfARemovedImage(t *testing.T) {
	p := newPairTest(t, first(equalSize()), second(equalSize()))
	dir := p.pair("a:1", "b:1")
	root, st := p.lookup(dir, "deleted")
	if st != fuse.OK {
		t.Fatal(st)
	}
	own := p.f.view(nodeID(root.NodeId)).layers[1].slot
	shut := make(chan struct{})
	defer close(shut)
	p.g.closed.Store(&shut)
	answer := make(chan fuse.Status)
	go func() { _, st := p.lookup(dir, "changes"); answer <- st }()
	until(t, "it is under way", func() bool { return p.g.opens.Load() > 0 })
	if _, err := p.s.Remove(context.Background(), "a:1", false); err != nil {
		t.Fatal(err)
	}
	p.f.refresh()
	if st := <-answer; st != fuse.Status(syscall.ESTALE) {
		t.Errorf("who waits gets %v", st)
	}
	until(t, "let go", func() bool { return p.f.pairs.get(dir.slot()) == nil && p.f.layers.get(own) == nil })
}

// Pairs that are looked up, read, forgotten and dropped at the same time are all let go of.
func TestCompareAtOnce(t *testing.T) {
	p := newPairTest(t, first(equalSize()), second(equalSize()))
	p.f.pairs.results.limit = 1
	snap := p.f.snap.Load()
	a, b := snap.names.Tags["a:1"].Encoded(), snap.names.Tags["b:1"].Encoded()
	var wg sync.WaitGroup
	var read atomic.Int64
	for _, name := range []string{a + ".." + b, b + ".." + a, a + ".." + a, a + "@0.." + b} {
		for range 2 {
			wg.Go(func() {
				for range 200 {
					out, st := p.lookup(diffNode, name)
					if st == fuse.Status(syscall.ESTALE) {
						continue // dropped this moment; the kernel looks it up once more
					}
					if st != fuse.OK {
						t.Errorf("%s: %v", name, st)
						return
					}
					for _, path := range [][]string{{"changes"}, {"changed", "d", "f"}, {"summary"}, {"deleted", "d"}} {
						if _, st := p.lookup(nodeID(out.NodeId), path...); st == fuse.OK {
							read.Add(1)
						} else if st != fuse.Status(syscall.ESTALE) && st != fuse.ENOTDIR && st != fuse.ENOENT {
							t.Errorf("%s %q: %v", name, path, st)
						}
					}
					p.f.Forget(out.NodeId, 1)
				}
			})
		}
	}
	wg.Go(func() {
		for range 20 {
			p.f.drop(snap.names.Tags["a:1"])
			time.Sleep(time.Millisecond)
		}
	})
	wg.Wait()
	if read.Load() == 0 {
		t.Error("nothing could be read")
	}
	until(t, "all pairs are let go of", func() bool {
		for slot := range p.f.pairs.size() {
			if p.f.pairs.get(slot) != nil {
				return false
			}
		}
		return true
	})
	if r := &p.f.pairs.results; r.bytes != 0 || r.order.Len() != 0 {
		t.Errorf("%d results of %d bytes are kept", r.order.Len(), r.bytes)
	}
}

// What is kept of files that differ is a few bytes each, and none of their list.
func TestCompareIsSmall(t *testing.T) {
	const dirs = 20
	layer := func(prefix string) []byte {
		var files []string
		for d := range dirs {
			files = append(files, fmt.Sprintf("both/%s%03d/", prefix, d))
			for n := range 100 {
				files = append(files, fmt.Sprintf("both/%s%03d/a-file-with-a-name-%d=", prefix, d, n), fmt.Sprintf("both/common/%03d-%d=%s", d, n, prefix))
			}
		}
		return storetest.Files(files...)
	}
	p := newPairTest(t, [][]byte{layer("x")}, [][]byte{layer("yy")})
	dir := p.pair("a:1", "b:1")
	changes, st := p.lookup(dir, "changes")
	if st != fuse.OK {
		t.Fatal(st)
	}
	c := p.f.pairs.get(dir.slot()).result.Load()
	if files := 3 * 100 * dirs; c.bytes() > 8*files || c.size < smallChanges {
		t.Errorf("%d bytes are kept of %d files that differ", c.bytes(), files)
	}
	l, err := p.f.pairChanges(p.f.pairs.get(dir.slot()))
	if err != nil || uint64(len(l.text)) != changes.Size {
		t.Errorf("%d bytes of changes, %v, st_size %d", len(l.text), err, changes.Size)
	}
	if same, err := p.f.pairChanges(p.f.pairs.get(dir.slot())); err != nil || same != l {
		t.Errorf("who has it open at the same time gets another, %v", err)
	}
	h, err := p.f.openNode(nodeID(changes.NodeId))
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(io.NewSectionReader(h.content(), 0, h.content().Size())); err != nil || uint64(len(b)) != changes.Size {
		t.Errorf("read %d bytes, %v", len(b), err)
	}
	if out, st := p.lookup(dir, "deleted", "both", "x019", "a-file-with-a-name-99"); st != fuse.OK || out.Size != 0 {
		t.Errorf("the last file: %v", st)
	}
	if out, st := p.lookup(dir, "added", "both", "x019"); st != fuse.OK || out.NodeId != 0 {
		t.Errorf("what was deleted is added: %v", st)
	}
}
