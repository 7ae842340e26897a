package fusefs

import (
	"context"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"imagefs/store/docker"
)

// Who has ctl/events open once can read it from any number of threads, each of
// which takes a request: to that there is an end too.
func TestManyWaitForEvents(t *testing.T) {
	s, err := docker.Open(filepath.Join(t.TempDir(), "store"), docker.Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	f, err := newFS(context.Background(), s, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer f.close()
	h, err := f.openEvents(0)
	if err != nil {
		t.Fatal(err)
	}
	fh := f.handles.add(&handle{events: h})
	read := func(cancel <-chan struct{}, flags uint32) fuse.Status {
		_, st := f.Read(cancel, &fuse.ReadIn{Fh: fh, Size: 100, Flags: flags}, make([]byte, 100))
		return st
	}
	cancel := make(chan struct{})
	answers := make(chan fuse.Status, 2*maxFollowers)
	var all sync.WaitGroup
	for range 2 * maxFollowers {
		all.Go(func() { answers <- read(cancel, 0) })
	}
	for n := range maxFollowers {
		if st := <-answers; st != fuse.Status(syscall.ENFILE) {
			t.Fatalf("answer %d is %v", n, st)
		}
	}
	if st := read(nil, unix.O_RDONLY); st != fuse.Status(syscall.ENFILE) {
		t.Errorf("one more: %v", st)
	}
	close(cancel)
	all.Wait()
	for range maxFollowers {
		if st := <-answers; st != fuse.Status(syscall.EINTR) {
			t.Errorf("who waited gets %v", st)
		}
	}
	ended := make(chan struct{})
	close(ended)
	if st := read(ended, 0); st != fuse.Status(syscall.EINTR) {
		t.Errorf("there is room again: %v", st)
	}
}
