package fusefs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"imagefs/store/docker"
)

// newTestFS is a file system on a new store, without a mount.
func newTestFS(t *testing.T) (*fsys, *docker.Store) {
	t.Helper()
	s, err := docker.Open(filepath.Join(t.TempDir(), "store"), docker.Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	life, stop := context.WithCancel(context.Background())
	f, err := newFS(life, s, Options{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(); f.close(); s.Close() })
	return f, s
}

// An empty directory goes when its time is over, one with names does not.
func TestEmptyDirectoriesGo(t *testing.T) {
	f, s := newTestFS(t)
	f.emptyFor = 20 * time.Millisecond
	loadLayers(t, s, "full:1", []string{"f"})
	for _, path := range []string{"full", "a/b"} {
		if err := f.keepDir(repo{path: path}); err != nil {
			t.Fatal(err)
		}
	}
	f.refresh()
	there := func(path string) bool { return f.snap.Load().tree.Dir(path) != nil }
	if !there("a") || !there("a/b") {
		t.Error("a directory that is kept is not there")
	}
	for end := time.Now().Add(10 * time.Second); there("a"); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("an empty directory never goes")
		}
	}
	if !there("full") {
		t.Error("a directory with a name has gone")
	}
	// The next one is swept too.
	if err := f.keepDir(repo{path: "c"}); err != nil {
		t.Fatal(err)
	}
	f.refresh()
	for end := time.Now().Add(10 * time.Second); there("c"); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("a later directory never goes")
		}
	}
}

// There is a limit to empty directories, which those with names do not count for.
func TestEmptyDirectoriesAreBounded(t *testing.T) {
	f, s := newTestFS(t)
	loadLayers(t, s, "full:1", []string{"f"})
	if err := f.keepDir(repo{path: "full"}); err != nil {
		t.Fatal(err)
	}
	for n := range maxEmpty - 1 {
		if err := f.keepDir(repo{path: fmt.Sprint("d", n)}); err != nil {
			t.Fatal(err)
		}
	}
	f.refresh()
	if err := f.keepDir(repo{path: "instead-of-full"}); err != nil {
		t.Error(err)
	}
	f.refresh()
	if err := f.keepDir(repo{path: "more"}); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("one too many: %v", err)
	}
	if err := f.keepDir(repo{path: "d1"}); err != nil {
		t.Errorf("one that is there: %v", err)
	}
	f.dropDir(repo{path: "d1"})
	if err := f.keepDir(repo{path: "more"}); err != nil {
		t.Errorf("after one has gone: %v", err)
	}
}

// Targets are paths in the tree, and nowhere else.
func TestImageAt(t *testing.T) {
	f, s := newTestFS(t)
	id := loadLayers(t, s, "a/b:1", []string{"f"})
	f.refresh()
	for path, ok := range map[string]bool{
		"images/a/b/1": true, "images/a/b:1": true, "images/a/b/:1": true, "images//a/./b/1/": true,
		"ids/" + id.Encoded(): true, "ids/" + id.Encoded()[:12]: true, "images/../ids/" + id.Encoded(): true,
		"images/a/b/1/../" + id.Encoded(): true, "images/a/b/1/../../images/a/b/1": true,
		"ids/" + id.Encoded()[:11]: false, "images/a/b": false, "images": false, "": false, "..": false, "images/../..": false,
		"../ids/" + id.Encoded(): false, "images/a/b/1/rootfs": false, "images/a/b/1/config.json": false,
		"README": false, "ctl/tag": false, "ctl/tag/x": false, "images/a/b/1/x/..": false,
	} {
		if got, err := f.imageAt(path); (err == nil) != ok || ok && got != id {
			t.Errorf("%q: %s, %v", path, got, err)
		}
	}
	f.dir = "/mnt/x"
	for path, want := range map[string]string{"/mnt/x/ids/1": "ids/1", "/mnt/xy/ids/1": "-", "/mnt/x": "-", "/": "-"} {
		got, ok := f.below(path)
		if !ok {
			got = "-"
		}
		if got != want {
			t.Errorf("%q is %q below the mountpoint, want %q", path, got, want)
		}
	}
}
