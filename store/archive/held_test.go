package archive

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"imagefs/store"
	"imagefs/store/storetest"
)

// descriptors counts what the process has open at or below a path.
func descriptors(t *testing.T, below string) (n int) {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if to, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil && strings.HasPrefix(to, below) {
			n++
		}
	}
	return n
}

// mappings counts what the process has mapped of files below a path.
func mappings(t *testing.T, below string) int {
	t.Helper()
	b, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(b), below)
}

// becomes waits until a count is at most so much, while the garbage collector runs.
func becomes(t *testing.T, what string, most int, count func() int) {
	t.Helper()
	n := 0
	for range 200 {
		runtime.GC()
		if n = count(); n <= most {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("%s: %d, want %d at most", what, n, most)
}

// use reads a file of each layer and returns the layers.
func use(t *testing.T, s *Store) []store.Layer {
	t.Helper()
	img := only(t, s)
	for _, l := range img.Layers() {
		f := firstFile(t, l)
		if _, err := f.ReadAt(make([]byte, 1), 0); err != nil && err != io.EOF {
			t.Fatal(err)
		}
		f.Close()
	}
	return img.Layers()
}

func TestFormerSnapshotsEnd(t *testing.T) {
	tar := filepath.Join(storetest.Fixtures(t), "da-docker25-hello.tar")
	raw, err := os.ReadFile(tar)
	if err != nil {
		t.Fatal(err)
	}
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	if _, err := z.Write(raw); err != nil || z.Close() != nil {
		t.Fatal(err)
	}
	for name, write := range map[string]func(path string) error{
		"plain":      func(path string) error { return os.WriteFile(path, raw, 0o600) },
		"compressed": func(path string) error { return os.WriteFile(path, packed.Bytes(), 0o600) },
		"directory": func(path string) error {
			if err := os.RemoveAll(path); err != nil {
				return err
			}
			return os.Rename(storetest.Extract(t, tar), path)
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir, cache := t.TempDir(), t.TempDir()
			path := filepath.Join(dir, "app")
			if err := write(path); err != nil {
				t.Fatal(err)
			}
			s, err := openInPlace(t, path, cache)
			if err != nil {
				t.Fatal(err)
			}
			layers := use(t, s)
			fds := descriptors(t, dir)
			for range 8 {
				time.Sleep(20 * time.Millisecond) // longer than what a file system's clock takes for one moment
				if err := write(path); err != nil {
					t.Fatal(err)
				}
				layers = use(t, s)
			}
			becomes(t, "descriptors", fds, func() int { return descriptors(t, dir) })
			if err := s.Close(); err != nil {
				t.Error(err)
			}
			becomes(t, "descriptors after Close", 0, func() int { return descriptors(t, dir) })
			runtime.KeepAlive(layers)
		})
	}
}

// What somebody still has of an archive that was replaced stays readable.
func TestFormerSnapshotStaysWhileUsed(t *testing.T) {
	tar := filepath.Join(storetest.Fixtures(t), "da-docker25-hello.tar")
	path := filepath.Join(t.TempDir(), "app.tar")
	copyTo(t, tar, path)
	s, err := openInPlace(t, path, "")
	if err != nil {
		t.Fatal(err)
	}
	l := only(t, s).Layers()[0]
	f := firstFile(t, l)
	for n := range 3 {
		next := fmt.Sprint(path, n)
		copyTo(t, tar, next)
		if err := os.Rename(next, path); err != nil {
			t.Fatal(err)
		}
		use(t, s)
		for range 3 {
			runtime.GC()
			time.Sleep(5 * time.Millisecond)
		}
		if _, err := f.ReadAt(make([]byte, 1), 0); err != nil && err != io.EOF {
			t.Errorf("a file that is open, of the archive that was replaced %d times: %v", n+1, err)
		}
		firstFile(t, l).Close()
	}
}

// What is mapped for a layer goes with its snapshot, if nobody uses the layer.
func TestFormerMappingsEnd(t *testing.T) {
	path, cache := filepath.Join(t.TempDir(), "app.tar"), t.TempDir()
	write := func() {
		t.Helper()
		time.Sleep(20 * time.Millisecond) // longer than what a file system's clock takes for one moment
		copyTo(t, filepath.Join(storetest.Fixtures(t), "oa-buildkit-attestation-busybox.tar"), path)
	}
	write()
	first, err := openInPlace(t, path, cache)
	if err != nil {
		t.Fatal(err)
	}
	use(t, first)
	// From now on the cache has everything, and it is mapped.
	s, err := openInPlace(t, path, cache)
	if err != nil {
		t.Fatal(err)
	}
	layers := use(t, s)
	mapped := mappings(t, cache)
	if mapped == 0 {
		t.Fatal("nothing is mapped")
	}
	for range 8 {
		write()
		now := use(t, s)
		for _, l := range layers {
			s.Forget(l)
		}
		layers = now
	}
	becomes(t, "mapped files", mapped, func() int { return mappings(t, cache) })
	for _, l := range layers {
		s.Forget(l) // which is there
	}
	use(t, s)
	runtime.KeepAlive(layers)
}
