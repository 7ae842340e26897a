package fusefs_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"imagefs/fusefs"
	"imagefs/fusefs/uring/uringtest"
	"imagefs/store"
	"imagefs/store/docker"
)

var ctx = context.Background()

func TestMain(m *testing.M) { os.Exit(uringtest.Main(m)) }

// entry is a file of a layer: "dir/" a directory, "a=x" a file, "a->b" a
// symbolic link, "a~b" a hard link.
func layerTar(t testing.TB, entries ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		name, content, _ := strings.Cut(e, "=")
		h := &tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(content)), ModTime: time.Unix(1700000000, 0)}
		if from, to, ok := strings.Cut(name, "->"); ok {
			h.Name, h.Linkname, h.Typeflag, h.Mode = from, to, tar.TypeSymlink, 0o777
		} else if from, to, ok := strings.Cut(name, "~"); ok {
			h.Name, h.Linkname, h.Typeflag = from, to, tar.TypeLink
		} else if strings.HasSuffix(name, "/") {
			h.Typeflag, h.Mode = tar.TypeDir, 0o755
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func newStore(t testing.TB) *docker.Store {
	t.Helper()
	return openStore(t, filepath.Join(t.TempDir(), "store"))
}

func openStore(t testing.TB, dir string) *docker.Store {
	t.Helper()
	s, err := docker.Open(dir, docker.Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// load puts an image into a store.
func load(t testing.TB, s store.Ingester, comment string, names []string, layers ...[]byte) digest.Digest {
	t.Helper()
	var ids []digest.Digest
	for _, l := range layers {
		ids = append(ids, digest.FromBytes(l))
	}
	cfg, err := json.Marshal(map[string]any{"architecture": "amd64", "os": "linux", "comment": comment,
		"created": "2024-01-02T03:04:05Z", "rootfs": map[string]any{"type": "layers", "diff_ids": ids}})
	if err != nil {
		t.Fatal(err)
	}
	in, err := s.Ingest(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Abort()
	img := store.NewImage{Config: cfg, Names: names}
	for n, l := range layers {
		nl := store.NewLayer{DiffID: ids[n]}
		if !in.HasLayer(store.ChainID(ids[:n+1])) {
			if nl.Staged, err = in.Unpack(ctx, bytes.NewReader(l)); err != nil {
				t.Fatal(err)
			}
		}
		img.Layers = append(img.Layers, nl)
	}
	if err := in.Commit(ctx, []store.NewImage{img}); err != nil {
		t.Fatal(err)
	}
	return digest.FromBytes(cfg)
}

// mount shows a store for the time of a test, at whose end nothing may be left open.
func mount(t testing.TB, s store.Store, o fusefs.Options) string {
	t.Helper()
	dir := t.TempDir()
	o.Source = "test"
	before := descriptors(t)
	srv, err := fusefs.Mount(ctx, dir, s, o)
	if err != nil {
		t.Fatal(err)
	}
	if o.Transport != "" && srv.Transport() != o.Transport {
		t.Errorf("served over %s, want %s", srv.Transport(), o.Transport)
	}
	t.Cleanup(func() {
		if err := srv.Unmount(false); err != nil {
			t.Errorf("unmount: %v", err)
			_ = srv.Unmount(true)
		}
		srv.Wait()
		// The store keeps descriptors of layers that were looked into; it closes them itself.
		for n := 0; ; n++ {
			var left []string
			for fd, what := range descriptors(t) {
				if before[fd] != what && (strings.Contains(what, "/dev/fuse") || strings.Contains(what, dir)) {
					left = append(left, what)
				}
			}
			if len(left) == 0 {
				break
			}
			if n == 100 {
				t.Errorf("descriptors left open: %q", left)
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
	})
	return dir
}

func descriptors(t testing.TB) map[string]string {
	t.Helper()
	out := map[string]string{}
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if to, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil {
			out[e.Name()] = to
		}
	}
	return out
}

func text(t testing.TB, path ...string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Error(err)
	}
	return string(b)
}

func list(t testing.TB, path ...string) string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(path...))
	if err != nil {
		t.Error(err)
	}
	var out []string
	for _, e := range entries {
		n := e.Name()
		if e.IsDir() {
			n += "/"
		}
		out = append(out, n)
	}
	return strings.Join(out, " ")
}

func wantErr(t testing.TB, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}

func stat(t testing.TB, path ...string) unix.Stat_t {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(filepath.Join(path...), &st); err != nil {
		t.Errorf("stat %s: %v", filepath.Join(path...), err)
	}
	return st
}

// eventually waits for a change to show. The contract says within a second; a
// machine that runs all tests at once is given more, and told.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	start := time.Now()
	for ; !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Since(start) > 30*time.Second {
			t.Errorf("after %s still not: %s", time.Since(start).Round(time.Second), what)
			return
		}
	}
	if took := time.Since(start); took > time.Second {
		t.Logf("%s took %s", what, took)
	}
}
