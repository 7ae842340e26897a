package fusefs_test

import (
	"context"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"imagefs/fusefs"
	"imagefs/overlay"
	"imagefs/store"
	"imagefs/store/docker"
)

// slowTagger takes its time to give a name, and gives up when it is told to.
type slowTagger struct {
	*docker.Store
	begun, goOn chan struct{}
}

func (s slowTagger) Tag(ctx context.Context, ref string, id digest.Digest) error {
	close(s.begun)
	select {
	case <-s.goOn:
	case <-ctx.Done():
		return context.Canceled
	}
	return s.Store.Tag(ctx, ref, id)
}

// A signal that its caller goes on after, as at the end of a child, ends no file operation; one to stop does.
func TestSignalsAndFileOperations(t *testing.T) { bothTransports(t, testSignals) }

func testSignals(t *testing.T, o fusefs.Options) {
	for _, c := range []struct {
		sig  unix.Signal
		want error
	}{{unix.SIGUSR1, nil}, {unix.SIGHUP, unix.EINTR}} {
		heard := make(chan os.Signal, 1)
		signal.Notify(heard, c.sig)
		defer signal.Stop(heard)
		s := slowTagger{newStore(t), make(chan struct{}), make(chan struct{})}
		load(t, s.Store, "a", []string{"a:1"}, layerTar(t, "f=a"))
		dir := mount(t, s, o)
		thread, answer := make(chan int), make(chan error)
		go func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			thread <- unix.Gettid()
			answer <- unix.Symlink("a:1", filepath.Join(dir, "images/a/2"))
		}()
		tid := <-thread
		<-s.begun
		if err := unix.Tgkill(os.Getpid(), tid, c.sig); err != nil {
			t.Fatal(err)
		}
		if c.want == nil {
			// What must not happen is given time to happen.
			time.Sleep(200 * time.Millisecond)
			close(s.goOn)
		}
		if err := <-answer; err != c.want {
			t.Errorf("%v: %v, want %v", c.sig, err, c.want)
		}
		if _, err := os.Lstat(filepath.Join(dir, "images/a/2")); (err == nil) != (c.want == nil) {
			t.Errorf("%v: the name: %v", c.sig, err)
		}
	}
}

// slowIndexes is a store whose layers take their time to be indexed.
type slowIndexes struct {
	*docker.Store
	begun, goOn chan struct{}
}

func (s slowIndexes) Image(ctx context.Context, id digest.Digest) (store.Image, error) {
	img, err := s.Store.Image(ctx, id)
	return slowImage{img, s}, err
}

type slowImage struct {
	store.Image
	s slowIndexes
}

func (i slowImage) Layers() (out []store.Layer) {
	for _, l := range i.Image.Layers() {
		out = append(out, slowLayer{l, i.s})
	}
	return out
}

type slowLayer struct {
	store.Layer
	s slowIndexes
}

func (l slowLayer) Index(ctx context.Context) (overlay.Layer, error) {
	select {
	case l.s.begun <- struct{}{}:
	default:
	}
	select {
	case <-l.s.goOn:
		return l.Layer.Index(ctx)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// The first look into an image ends with a process that is killed, and with no
// signal that its caller goes on after.
func TestSignalsAndTheFirstLook(t *testing.T) { bothTransports(t, testSignalsAndLooks) }

func testSignalsAndLooks(t *testing.T, o fusefs.Options) {
	s := slowIndexes{newStore(t), make(chan struct{}, 1), make(chan struct{})}
	load(t, s.Store, "a", []string{"a:1"}, layerTar(t, "f=a"))
	dir := mount(t, s, o)
	path := filepath.Join(dir, "images/a/1/rootfs/f")
	ls := exec.Command("ls", path)
	if err := ls.Start(); err != nil {
		t.Fatal(err)
	}
	<-s.begun
	if err := ls.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = ls.Wait()

	heard := make(chan os.Signal, 1)
	signal.Notify(heard, unix.SIGUSR1)
	defer signal.Stop(heard)
	thread, answer := make(chan int), make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		thread <- unix.Gettid()
		var st unix.Stat_t
		answer <- unix.Lstat(path, &st)
	}()
	tid := <-thread
	<-s.begun
	if err := unix.Tgkill(os.Getpid(), tid, unix.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	time.Sleep(200 * time.Millisecond) // what must not happen is given time to happen
	close(s.goOn)
	if err := <-answer; err != nil {
		t.Errorf("after a signal: %v", err)
	}
}
