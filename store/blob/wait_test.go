package blob

import (
	"bytes"
	"context"
	"errors"
	"os"
	"sync"
	"testing"
	"time"

	digest "github.com/opencontainers/go-digest"

	"imagefs/store"
)

// gated is a blob whose reads, but for those of its first bytes, wait at a gate.
type gated struct {
	memory
	once sync.Once
	came chan struct{} // closed when the first read waits
	gate chan struct{} // closed to let them through
}

func newGated(b []byte) *gated {
	return &gated{memory: memory{Reader: bytes.NewReader(b)}, came: make(chan struct{}), gate: make(chan struct{})}
}

func (g *gated) ReadAt(p []byte, off int64) (int, error) {
	if off > 0 || len(p) > 6 {
		g.once.Do(func() { close(g.came) })
		<-g.gate
	}
	return g.memory.ReadAt(p, off)
}

// gatedLayer makes a layer of a tar, packed or not.
func gatedLayer(c *Cache, raw []byte, pack func([]byte) []byte, lower ...store.Layer) (*Layer, *gated) {
	b := pack(raw)
	g := newGated(b)
	return c.Layer(Spec{DiffID: digest.FromBytes(raw), ChainID: digest.FromBytes(raw), Blob: digest.FromBytes(b), Size: int64(len(b)),
		Origin: "gated", Lower: lower, Open: func() (Data, error) { return g, nil }}), g
}

// soon fails the test if something takes long.
func soon[T any](t *testing.T, what string, do func() T) T {
	t.Helper()
	done := make(chan T, 1)
	go func() { done <- do() }()
	select {
	case v := <-done:
		return v
	case <-time.After(10 * time.Second):
		t.Fatalf("%s hangs", what)
		panic("unreachable")
	}
}

// While a layer is decompressed nobody waits who does not want to.
func TestNobodyHasToWait(t *testing.T) {
	c := NewCache(Options{})
	defer c.Close()
	raw := tarOf(t, 1<<20)
	l, g := gatedLayer(c, raw, gzipLevel(6))
	first := make(chan error, 1)
	go func() { _, err := l.Index(ctx); first <- err }()
	<-g.came
	if n := soon(t, "Size", l.Size); n != -1 {
		t.Errorf("the size is %d while nobody can know it", n)
	}
	soon(t, "Stack", func() int { c.Stack([]*Layer{l}); return 0 })
	gone, stop := context.WithCancel(ctx)
	stop()
	for what, do := range map[string]func() error{
		"Index":   func() error { _, err := l.Index(gone); return err },
		"Open":    func() error { _, err := l.Open(gone, 0); return err },
		"TarSize": func() error { _, err := l.TarSize(gone); return err },
		"Verify":  func() error { return l.Verify(gone) },
	} {
		if err := soon(t, what, do); !errors.Is(err, context.Canceled) {
			t.Errorf("%s by somebody who has gone away: %v", what, err)
		}
	}
	close(g.gate)
	if err := <-first; err != nil || l.Size() <= 0 {
		t.Errorf("the first one: %v, size %d", err, l.Size())
	}
}

// The size of a layer that is not compressed is worth waiting for.
func TestSizeOfUncompressed(t *testing.T) {
	c := NewCache(Options{})
	defer c.Close()
	l, g := gatedLayer(c, tarOf(t, 1<<20), plain)
	go func() { _, _ = l.Index(ctx) }()
	<-g.came
	size := make(chan int64, 1)
	go func() { size <- l.Size() }()
	select {
	case n := <-size:
		t.Errorf("%d while the headers are being read", n)
	case <-time.After(50 * time.Millisecond):
	}
	close(g.gate)
	if n := <-size; n <= 0 {
		t.Errorf("the size is %d", n)
	}
}

// A layer above one that is compressed takes directories from it: its size is not
// worth decompressing that.
func TestSizeAboveCompressed(t *testing.T) {
	c := NewCache(Options{})
	defer c.Close()
	below, g := gatedLayer(c, tarOf(t, 1<<20), gzipLevel(6))
	l, top := gatedLayer(c, tarOf(t, 1<<19), plain, below)
	close(top.gate)
	if n := soon(t, "Size", l.Size); n != -1 {
		t.Errorf("the size is %d", n)
	}
	select {
	case <-g.came:
		t.Error("the layer below was decompressed")
	default:
	}
	// The same while somebody waits for the layer below.
	done := make(chan error, 1)
	go func() { _, err := l.Index(ctx); done <- err }()
	<-g.came
	if n := soon(t, "Size", l.Size); n != -1 {
		t.Errorf("the size is %d", n)
	}
	close(g.gate)
	if err := <-done; err != nil || l.Size() <= 0 || below.Size() <= 0 {
		t.Errorf("in the end: %v, sizes %d and %d", err, l.Size(), below.Size())
	}
}

// slowBlob is a blob of a slow disk.
type slowBlob struct{ memory }

func (s *slowBlob) ReadAt(p []byte, off int64) (int, error) {
	time.Sleep(2 * time.Millisecond)
	return s.memory.ReadAt(p, off)
}

// Close ends what is under way.
func TestCloseWhileIndexing(t *testing.T) {
	c := NewCache(Options{})
	defer c.Close()
	raw := tarOf(t, 20<<20)
	b := zstdStream(raw)
	came := make(chan struct{})
	l := c.Layer(Spec{DiffID: digest.FromBytes(raw), Size: int64(len(b)), Open: func() (Data, error) {
		close(came)
		return &slowBlob{memory{Reader: bytes.NewReader(b)}}, nil
	}})
	done := make(chan error, 1)
	go func() { _, err := l.Index(ctx); done <- err }()
	<-came
	soon(t, "Close", func() int { l.Close(); return 0 })
	if err := soon(t, "Index", func() error { return <-done }); !errors.Is(err, os.ErrClosed) {
		t.Errorf("under way: %v", err)
	}
	if _, err := l.Index(ctx); !errors.Is(err, os.ErrClosed) || l.Err() != nil || l.Size() != -1 {
		t.Errorf("after Close: %v, Err %v, size %d", err, l.Err(), l.Size())
	}
}

// A layer may be asked for while its cache is being closed.
func TestCloseWhileStarting(t *testing.T) {
	raw := tarOf(t, 1000)
	for range 200 {
		c := NewCache(Options{})
		layers := stack(c, [][]byte{raw, raw}, plain)
		c.Stack(layers)
		var work sync.WaitGroup
		for _, l := range layers {
			work.Go(func() {
				if _, err := l.Index(ctx); err != nil {
					t.Error(err)
				}
			})
		}
		c.Close()
		work.Wait()
	}
}
