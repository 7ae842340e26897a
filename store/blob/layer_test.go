package blob

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync/atomic"
	"testing"

	digest "github.com/opencontainers/go-digest"

	"imagefs/overlay"
	"imagefs/store"
	"imagefs/store/storetest/stacks"
)

var ctx = context.Background()

// memory is a blob in memory.
type memory struct {
	*bytes.Reader
	gone bool
}

func (m *memory) Close() error { return nil }

func (m *memory) ReadAt(p []byte, off int64) (int, error) {
	if m.gone {
		return 0, store.ErrGone
	}
	return m.Reader.ReadAt(p, off)
}

// stack makes layers of tars, each packed by pack.
func stack(c *Cache, tars [][]byte, pack func([]byte) []byte) []*Layer {
	var out []*Layer
	var lower []store.Layer
	var chain digest.Digest
	for _, raw := range tars {
		diff, b := digest.FromBytes(raw), pack(raw)
		chain = store.NextChainID(chain, diff)
		l := c.Layer(Spec{DiffID: diff, ChainID: chain, Blob: digest.FromBytes(b), Size: int64(len(b)), Origin: "memory",
			Lower: lower[:len(lower):len(lower)], Open: func() (Data, error) { return &memory{Reader: bytes.NewReader(b)}, nil }})
		out, lower = append(out, l), append(lower, l)
	}
	return out
}

func plain(b []byte) []byte { return b }

func readTar(t *testing.T, l store.Layer) []byte {
	t.Helper()
	f, err := l.Tar(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.NewSectionReader(f, 0, f.Size()))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestTarIsTheBlob(t *testing.T) {
	c := NewCache(Options{Dir: t.TempDir()})
	defer c.Close()
	for seed := range uint64(10) {
		tars := stacks.New(seed).Tars()
		for i, l := range stack(c, tars, plain) {
			if !bytes.Equal(readTar(t, l), tars[i]) {
				t.Errorf("stack %d: layer %d: the tar is another", seed, i)
			}
			if err := l.Verify(ctx); err != nil || !l.Verified() {
				t.Errorf("stack %d: layer %d: %v", seed, i, err)
			}
			again := stack(c, tars, plain)[i]
			x, err := again.Index(ctx)
			if err != nil || !again.Verified() {
				t.Fatalf("stack %d: layer %d: from the cache: %v, verified %t", seed, i, err, again.Verified())
			}
			first, err := l.Index(ctx)
			if err != nil || !bytes.Equal(first.(*overlay.Index).Meta(), x.(*overlay.Index).Meta()) || first.Inodes() != x.Inodes() {
				t.Errorf("stack %d: layer %d: the index from the cache is another, %v", seed, i, err)
			}
		}
	}
}

func TestBrokenBlob(t *testing.T) {
	tars := stacks.New(1).Tars()[:1]
	broken := 0
	c := NewCache(Options{Dir: t.TempDir(), Broken: func(*Layer, error) { broken++ }})
	defer c.Close()
	l := stack(c, tars, plain)[0]
	l.s.DiffID = digest.FromString("another")
	f, err := l.Tar(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Verify(ctx); !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("Verify: %v", err)
	}
	if _, err := f.ReadAt(make([]byte, 1), 0); !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("read of a layer that is known to be broken: %v", err)
	}
	if _, err := l.Index(ctx); !errors.Is(err, store.ErrCorrupt) || !errors.Is(l.Err(), store.ErrCorrupt) || l.Verified() || broken != 1 {
		t.Errorf("Index: %v, Err: %v, told %d times", err, l.Err(), broken)
	}
}

// mistaken is a blob that what reads it is not prepared for, from a moment on.
type mistaken struct {
	memory
	armed atomic.Bool
	read  chan struct{} // a value once it has panicked
}

func (m *mistaken) ReadAt(p []byte, off int64) (int, error) {
	if !m.armed.Load() {
		return m.memory.ReadAt(p, off)
	}
	select {
	case m.read <- struct{}{}:
	default:
	}
	panic("mistake")
}

// What runs in the background does not take the process with it.
func TestBackgroundPanics(t *testing.T) {
	t.Parallel()
	raw := tarOf(t, 1<<20)
	c := NewCache(Options{Background: true})
	defer c.Close()
	layerOf := func() (*Layer, *mistaken) {
		m := &mistaken{memory: memory{Reader: bytes.NewReader(raw)}, read: make(chan struct{}, 1)}
		return c.Layer(Spec{DiffID: digest.FromBytes(raw), Size: int64(len(raw)), Open: func() (Data, error) { return m, nil }}), m
	}
	good, later := layerOf()
	bad, now := layerOf()
	now.armed.Store(true)
	c.Stack([]*Layer{good, bad})
	if _, err := good.Index(ctx); err != nil {
		t.Fatal(err)
	}
	<-now.read // indexing
	later.armed.Store(true)
	<-later.read // verifying
}
