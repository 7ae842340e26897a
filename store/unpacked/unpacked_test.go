package unpacked

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	digest "github.com/opencontainers/go-digest"

	"imagefs/overlay"
	"imagefs/store"
	"imagefs/store/layer"
)

var ctx = context.Background()

// source is a layer whose directory has one file, f, and whose tar is 1024 zeros.
type source struct {
	dir    string
	splits atomic.Int64
	// block, if not nil, has the tar-split give nothing before it is closed.
	block chan struct{}
	// gone is set when the store has the layer no more, noSplit when it has no tar-split.
	gone, noSplit bool
}

func newSource(t testing.TB) *source {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "f"), []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	return &source{dir: dir}
}

func (s *source) Dir() (*os.File, error) { return os.Open(s.dir) }

func (s *source) There() bool { return !s.gone }

func (s *source) Scan(ctx context.Context, dir *os.File) (*overlay.Builder, error) {
	return layer.Scan(ctx, dir, layer.Limits{})
}

func (s *source) Lazy(dir *os.File) (*layer.Lazy, error) { return layer.NewLazy(dir, layer.Limits{}) }

func (s *source) Split() (io.ReadCloser, error) {
	if s.noSplit {
		return nil, fmt.Errorf("no tar-split: %w", store.ErrUnsupported)
	}
	s.splits.Add(1)
	line := fmt.Sprintf(`{"type":2,"payload":%q,"position":0}`+"\n", base64.StdEncoding.EncodeToString(make([]byte, 1024)))
	return io.NopCloser(&blocked{block: s.block, Reader: bytes.NewReader([]byte(line))}), nil
}

type blocked struct {
	block chan struct{}
	io.Reader
}

func (b *blocked) Read(p []byte) (int, error) {
	if b.block != nil {
		<-b.block
	}
	return b.Reader.Read(p[:1])
}

// newLayer makes a layer of a Set of its own.
func newLayer(t testing.TB, src Source, set *Set) *Layer {
	t.Helper()
	if set.Log == nil {
		set.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	l := set.New("key", digest.FromString("x"), src)
	t.Cleanup(func() { set.Close(); l.Close() })
	return l
}

// within fails the test if do does not return soon.
func within(t *testing.T, what string, do func() error) error {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- do() }()
	select {
	case err := <-done:
		return err
	case <-time.After(20 * time.Second):
		t.Fatalf("%s: waits", what)
		return nil
	}
}

// The tar-split is read beside everything else, once, and as long as somebody wants it.
func TestTarSplitHoldsNothingUp(t *testing.T) {
	src := newSource(t)
	src.block = make(chan struct{})
	l := newLayer(t, src, &Set{})
	release := sync.OnceFunc(func() { close(src.block) })
	t.Cleanup(release)
	ix, err := l.Index(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var file overlay.Ino
	for i := range overlay.Ino(ix.Inodes()) {
		if ix.Stat(i).Size == 7 {
			file = i
		}
	}
	first, stop := context.WithCancel(ctx)
	sized := make(chan error, 1)
	go func() { _, err := l.TarSize(first); sized <- err }()
	for src.splits.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	if err := within(t, "ReadWhole", func() error { return l.ReadWhole(ctx, file, make([]byte, 7)) }); err != nil {
		t.Error(err)
	}
	if err := within(t, "Open", func() error {
		f, err := l.Open(ctx, file)
		if err == nil {
			f.Close()
		}
		return err
	}); err != nil {
		t.Error(err)
	}
	short, end := context.WithTimeout(ctx, 20*time.Millisecond)
	defer end()
	for what, do := range map[string]func() error{
		"TarSize": func() error { _, err := l.TarSize(short); return err },
		"Tar":     func() error { _, err := l.Tar(short); return err },
	} {
		if err := within(t, what, do); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s in a time that is over: %v", what, err)
		}
	}
	stop()
	release()
	if err := <-sized; !errors.Is(err, context.Canceled) || errors.Is(err, store.ErrCorrupt) {
		t.Errorf("who gave up got %v", err)
	}
	for range 2 {
		f, err := l.Tar(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := l.TarSize(ctx); err != nil || n != 1024 || f.Size() != n {
			t.Errorf("%d bytes, the size is %d: %v", f.Size(), n, err)
		}
		defer f.Close()
	}
	if n := src.splits.Load(); n != 2 {
		t.Errorf("the tar-split was read %d times", n)
	}
}

// What is missing in a layer's directory is damage, and no news of its removal,
// as long as the store has the layer.
func TestMissingIsCorruptOrGone(t *testing.T) {
	for _, lazy := range []bool{false, true} {
		for _, gone := range []bool{false, true} {
			want := store.ErrCorrupt
			if gone {
				want = store.ErrGone
			}
			src := newSource(t)
			if err := os.Mkdir(filepath.Join(src.dir, "sub"), 0o755); err != nil {
				t.Fatal(err)
			}
			l := newLayer(t, src, &Set{Lazy: lazy})
			ix, err := l.Index(ctx)
			if err != nil {
				t.Fatal(err)
			}
			var file, sub overlay.Ino
			lo, hi, err := ix.Children(0)
			for e := lo; e < hi; e++ {
				if name, i, _ := ix.Entry(e); name == "f" {
					file = i
				} else {
					sub = i
				}
			}
			if err != nil || file == 0 || sub == 0 {
				t.Fatal(file, sub, err)
			}
			if err := errors.Join(os.Remove(filepath.Join(src.dir, "f")), os.Remove(filepath.Join(src.dir, "sub"))); err != nil {
				t.Fatal(err)
			}
			src.gone, src.noSplit = gone, true
			is := func(what string, err, want error) {
				t.Helper()
				if !errors.Is(err, want) || errors.Is(err, store.ErrGone) != (want == store.ErrGone) {
					t.Errorf("lazy %t, gone %t, %s: %v", lazy, gone, what, err)
				}
			}
			_, err = l.Open(ctx, file)
			is("open", err, want)
			is("read", l.ReadWhole(ctx, file, make([]byte, 7)), want)
			if lazy {
				_, _, err = ix.Children(sub)
				is("list", err, want)
			}
			if want == store.ErrCorrupt {
				want = store.ErrUnsupported
			}
			_, err = l.Tar(ctx)
			is("tar", err, want)
			_, err = l.TarSize(ctx)
			is("size of the tar", err, want)
		}
	}
}
