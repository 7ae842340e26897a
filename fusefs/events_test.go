package fusefs_test

import (
	"errors"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"imagefs/fusefs"
)

// Who follows takes memory, so that there is an end to it; one who goes makes room.
func TestManyFollowers(t *testing.T) { bothTransports(t, testManyFollowers) }

func testManyFollowers(t *testing.T, o fusefs.Options) {
	dir := mount(t, newStore(t), o)
	open := func() (int, error) {
		// Not with package os, which waits for this process's own answers.
		return unix.Open(filepath.Join(dir, "ctl/events"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	}
	var all []int
	defer func() {
		for _, fd := range all {
			_ = unix.Close(fd)
		}
	}()
	for {
		fd, err := open()
		if err != nil {
			if !errors.Is(err, unix.ENFILE) || len(all) < 200 {
				t.Errorf("the %dth open: %v", len(all)+1, err)
			}
			break
		}
		if all = append(all, fd); len(all) > 2000 {
			t.Fatal("there is no end to it")
		}
	}
	_ = unix.Close(all[0])
	all = all[1:]
	// The kernel tells of the close beside everything else.
	eventually(t, "room for one more", func() bool {
		fd, err := open()
		if err == nil {
			all = append(all, fd)
		}
		return err == nil
	})
}
