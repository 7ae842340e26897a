package fusefs_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"imagefs/fusefs"
	"imagefs/store/docker"
	"imagefs/store/storetest"
)

// unwatched is a store that cannot be watched, by the time somebody is in the tree.
type unwatched struct {
	*docker.Store
	enter func()
	err   error
}

func (u unwatched) Watch(context.Context) (<-chan struct{}, error) {
	u.enter()
	return nil, u.err
}

// When a mount fails nobody is served from its store any more, not even those who
// stand in the tree already.
func TestMountFails(t *testing.T) { bothTransports(t, testMountFails) }

func testMountFails(t *testing.T, o fusefs.Options) {
	storetest.NeedRoot(t) // an ordinary user's is unmounted lazily, and waited for
	dir := t.TempDir()
	s := newStore(t)
	load(t, s, "a", []string{"a:1"}, layerTar(t, "f=a"))
	inside := -1
	o.Source = "test"
	limit := errors.New("too many watches")
	_, err := fusefs.Mount(ctx, dir, unwatched{s, func() {
		var err error
		if inside, err = unix.Open(dir+"/images", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
			t.Error(err)
		}
	}, limit}, o)
	defer unix.Close(inside)
	if !errors.Is(err, limit) || errors.Is(err, fusefs.ErrServing) {
		t.Errorf("got %v", err)
	}
	var st unix.Stat_t
	if err := unix.Fstatat(inside, "a", &st, unix.AT_SYMLINK_NOFOLLOW); err != unix.ENOTCONN && err != unix.ECONNABORTED && err != unix.ECANCELED {
		t.Errorf("who stands in the tree gets %v", err)
	}
	for _, what := range descriptors(t) {
		if strings.Contains(what, "/dev/fuse") {
			t.Error("the device is still open")
		}
	}
	if got := list(t, dir); got != "" {
		t.Errorf("%s has %q", dir, got)
	}
}
