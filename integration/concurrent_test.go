package integration

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"imagefs/integration/harness"
)

// Many read while images are tagged, removed and loaded. The server is built
// with the race detector, whose finding would fail its end.
func TestConcurrent(t *testing.T) { overBoth(t, testConcurrent) }

func testConcurrent(t *testing.T, transport string) {
	harness.Need(t, "root", "/dev/fuse")
	s := box(t)
	s.Transport = transport
	archive := assembled(t)
	s.Run(t, "load", "-i", archive)
	m := s.Mount(t)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	each := func(what string, do func(n int) error) {
		wg.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				if err := do(n); err != nil {
					t.Errorf("%s: %v", what, err)
					return
				}
			}
		})
	}
	// app comes and goes: what reads it may find it gone, but nothing else may happen.
	gone := func(err error) bool {
		return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESTALE)
	}
	for n := range 3 {
		each(fmt.Sprintf("reader %d of box", n), func(int) error { return readTree(m.Path("images/box/2/")) })
		each(fmt.Sprintf("reader %d of app", n), func(int) error {
			if err := readTree(m.Path("images/app/v1/")); err != nil && !gone(err) {
				return err
			}
			return nil
		})
	}
	each("tag", func(n int) error {
		return os.WriteFile(m.Path("ctl/tag"), fmt.Appendf(nil, "box:%d box:live\n", n%2+1), 0)
	})
	each("retagged", func(int) error {
		b, err := os.ReadFile(m.Path("images/box/live/rootfs/etc/motd"))
		if err != nil && !gone(err) || err == nil && !strings.HasPrefix(string(b), "hello") {
			return fmt.Errorf("%q %w", b, err)
		}
		return nil
	})
	each("load and remove", func(int) error {
		if err := os.WriteFile(m.Path("ctl/load"), []byte(archive+"\n"), 0); err != nil {
			return err
		}
		for _, ref := range []string{"app:v1", "team/app:latest", "app:v0"} {
			if err := os.WriteFile(m.Path("ctl/rmi"), []byte(ref), 0); err != nil && !errors.Is(err, unix.EBUSY) {
				return fmt.Errorf("rmi %s: %w", ref, err)
			}
		}
		return nil
	})
	wg.Wait()
	s.Run(t, "check")
}

// readTree reads everything of an image's directory.
func readTree(dir string) error {
	return filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if !e.Type().IsRegular() {
			return nil
		}
		f, err := os.Open(p)
		if err != nil {
			return err
		}
		defer f.Close()
		if _, err := io.Copy(io.Discard, f); err != nil {
			return fmt.Errorf("read %s: %w", p, err)
		}
		return nil
	})
}
