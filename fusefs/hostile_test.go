package fusefs_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"imagefs/fusefs"
	"imagefs/overlay"
	"imagefs/store"
	"imagefs/store/docker"
)

// A directory that is listed from a position that no listing gave shows nothing of others.
func TestSeekBeyondDirectory(t *testing.T) { bothModes(t, testSeekBeyondDirectory) }

func testSeekBeyondDirectory(t *testing.T, o fusefs.Options) {
	s := newStore(t)
	load(t, s, "", []string{"a:1"}, layerTar(t, "a/", "a/s1=x", "a/s2=x", "a/s3=x", "b/", "b/f=x", "c/", "c/s4=x"), layerTar(t, "b/", "b/g=x"))
	dir := mount(t, s, o)
	for _, path := range []string{"images/a/1/layers/0/diff/b", "images/a/1/rootfs/b", "images/a", "ids"} {
		all := list(t, dir, path)
		for _, off := range []int64{1 << 32, 1<<32 - 1, 1<<32 - 2, 1<<32 + 3, 1 << 31, 1 << 62, 1<<63 - 1, 1<<63 - 4} {
			fd, err := unix.Open(filepath.Join(dir, path), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := unix.Seek(fd, off, io.SeekStart); err != nil {
				unix.Close(fd)
				continue
			}
			buf := make([]byte, 4096)
			n, err := unix.Getdents(fd, buf)
			unix.Close(fd)
			if n > 0 || err != nil && !errors.Is(err, unix.EINVAL) {
				t.Errorf("%s from %#x: %d bytes %q, %v", path, off, n, buf[:max(n, 0)], err)
			}
		}
		if got := list(t, dir, path); got != all {
			t.Errorf("%s lists %q afterwards, want %q", path, got, all)
		}
	}
}

// panicky is a store in which some things panic.
type panicky struct {
	*docker.Store
	what string
}

type panickyImage struct {
	store.Image
	what string
}

type panickyLayer struct {
	store.Layer
	what string
}

func (p *panicky) Image(ctx context.Context, id digest.Digest) (store.Image, error) {
	if p.what == "image" {
		panic("image")
	}
	i, err := p.Store.Image(ctx, id)
	return panickyImage{i, p.what}, err
}

func (p panickyImage) Layers() (out []store.Layer) {
	for _, l := range p.Image.Layers() {
		out = append(out, panickyLayer{l, p.what})
	}
	return out
}

func (p panickyLayer) Open(context.Context, overlay.Ino) (store.File, error) { panic("open") }
func (p panickyLayer) Tar(context.Context) (store.File, error)               { panic("tar") }

type panickyLoader struct{}

func (panickyLoader) Load(context.Context, io.Reader) ([]store.Loaded, error)  { panic("load") }
func (panickyLoader) LoadPath(context.Context, string) ([]store.Loaded, error) { panic("load path") }

// A panic costs a request, not the mount, and is told of.
func TestPanics(t *testing.T) { bothTransports(t, testPanics) }

func testPanics(t *testing.T, o fusefs.Options) {
	s := newStore(t)
	id := load(t, s, "", []string{"a:1"}, layerTar(t, "f=x"))
	for _, what := range []string{"image", "layer"} {
		o.Loader = panickyLoader{}
		dir := mount(t, &panicky{s, what}, o)
		image := filepath.Join(dir, "ids", id.Encoded())
		for _, path := range []string{"id", "rootfs/f", "rootfs/f", "layers/0/layer.tar"} {
			_, err := os.ReadFile(filepath.Join(image, path))
			if what == "layer" && path == "id" {
				if err != nil {
					t.Errorf("id: %v", err)
				}
				continue
			}
			wantErr(t, what+": "+path, err, unix.EIO)
		}
		wantErr(t, "load", command(dir, "load", "bytes"), unix.EIO)
		wantErr(t, "load of a path", command(dir, "load", "/path"), unix.EIO)
		if got := text(t, dir, "ctl/errors"); strings.Count(got, "internal error") < 4 {
			t.Errorf("ctl/errors: %s", got)
		}
		// What waits for a panicked one must not wait for ever.
		done := make(chan error, 4)
		for range cap(done) {
			go func() { _, err := os.ReadFile(filepath.Join(image, "rootfs/f")); done <- err }()
		}
		for range cap(done) {
			if err := <-done; err == nil {
				t.Error("read what cannot be read")
			}
		}
		if list(t, dir, "images") != "a/" {
			t.Error("the mount is dead")
		}
	}
	o.ReadOnly = true
	dir := mount(t, &panicky{s, ""}, o)
	for range 2 {
		_, err := os.ReadFile(filepath.Join(dir, "images/a/1/rootfs/f"))
		wantErr(t, "read", err, unix.EIO)
	}
}

// An index that is cut short under the mount costs requests, not the mount.
func TestIndexIsCut(t *testing.T) { bothModes(t, testIndexIsCut) }

func testIndexIsCut(t *testing.T, o fusefs.Options) {
	s := newStore(t)
	var files []string
	for n := range 400 { // of names that fill an index of many pages
		files = append(files, fmt.Sprintf("d%d/f%s=x", n%60, strings.Repeat(fmt.Sprint(n%10), 240)+fmt.Sprint(n)))
	}
	load(t, s, "cut", []string{"cut:1"}, layerTar(t, files...))
	load(t, s, "good", []string{"good:1"}, layerTar(t, "f=1"))
	dir := mount(t, s, o)
	root := filepath.Join(dir, "images/cut/1/rootfs")
	if _, err := os.Stat(root); err != nil {
		t.Fatal(err)
	}
	cut := 0
	err := filepath.Walk(filepath.Join(s.Root(), "imagefs"), func(p string, st os.FileInfo, err error) error {
		if err == nil && st.Mode().IsRegular() && st.Size() > 50<<10 {
			cut++
			return os.Truncate(p, 0)
		}
		return err
	})
	if err != nil || cut == 0 {
		t.Fatalf("%d indexes cut, %v", cut, err)
	}
	if _, err := os.ReadDir(root + "/d1"); err == nil {
		t.Error("listed a directory whose index is gone")
	}
	if _, err := os.Lstat(root + "/d2/f"); err == nil {
		t.Error("found a file whose index is gone")
	}
	if got := text(t, dir, "images/good/1/rootfs/f"); got != "1" {
		t.Errorf("the other image has %q", got)
	}
}

// An image that goes and comes back between two looks at the store is served from where it is now.
func TestImageComesBack(t *testing.T) { bothModes(t, testImageComesBack) }

func testImageComesBack(t *testing.T, o fusefs.Options) {
	s := newStore(t)
	layer := layerTar(t, "f=1", "g=2")
	id := load(t, s, "", []string{"a:1"}, layer)
	hidden := &hiding{Store: s, ids: []digest.Digest{id}}
	dir := mount(t, hidden, o)
	if got := text(t, dir, "images/a/1/rootfs/f"); got != "1" {
		t.Fatalf("f is %q", got)
	}
	if _, err := s.Remove(ctx, id.String(), true); err != nil {
		t.Fatal(err)
	}
	load(t, s, "", []string{"a:1"}, layer)
	eventually(t, "the image as it is now", func() bool {
		b, err := os.ReadFile(filepath.Join(dir, "images/a/1/rootfs/g"))
		return err == nil && string(b) == "2"
	})
}

// hiding is a store that always has the same images, to who only asks for their IDs and names.
type hiding struct {
	*docker.Store
	ids []digest.Digest
}

func (h *hiding) IDs(context.Context) ([]digest.Digest, error) { return h.ids, nil }
func (h *hiding) Names(context.Context) (store.Names, error) {
	return store.Names{Tags: map[string]digest.Digest{"a:1": h.ids[0]}}, nil
}

// sharedBuffer is a bytes.Buffer for several goroutines.
type sharedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *sharedBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *sharedBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// A file whose bytes the store lost gives an error, small or large, and no panic.
func TestLostFile(t *testing.T) { bothModes(t, testLostFile) }

func testLostFile(t *testing.T, o fusefs.Options) {
	s := newStore(t)
	load(t, s, "", []string{"a:1"}, layerTar(t, "small=x", "large="+strings.Repeat("x", 300<<10)))
	for _, name := range []string{"small", "large"} {
		found, err := filepath.Glob(filepath.Join(s.Root(), "overlay2/*/diff", name))
		if err != nil || len(found) != 1 {
			t.Fatalf("%s lies in %q, %v", name, found, err)
		}
		if err := os.Remove(found[0]); err != nil {
			t.Fatal(err)
		}
	}
	log := &sharedBuffer{}
	o.Log = slog.New(slog.NewTextHandler(log, nil))
	dir := mount(t, s, o)
	for range 2 {
		for _, name := range []string{"small", "large"} {
			_, err := os.ReadFile(filepath.Join(dir, "images/a/1/rootfs", name))
			wantErr(t, name, err, unix.EIO)
		}
	}
	if !o.ReadOnly {
		if got := text(t, dir, "ctl/errors"); strings.Contains(got, "internal error") {
			t.Errorf("ctl/errors: %s", got)
		}
	}
	if strings.Contains(log.String(), "panic") {
		t.Errorf("log: %s", log)
	}
}
