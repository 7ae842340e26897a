package integration

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"imagefs/integration/harness"
	"imagefs/store"
	"imagefs/store/docker"
)

// dataRoots unpacks the data roots of other machines, which lie below the
// directory that is returned for each.
func dataRoots(t *testing.T) map[string]string {
	t.Helper()
	packed, err := filepath.Glob(filepath.Join(harness.NeedFixtures(t), "store-overlay2-*.tgz"))
	if err != nil || len(packed) == 0 {
		t.Fatal("no stores", err)
	}
	out := map[string]string{}
	for _, p := range packed {
		dir := filepath.Join(t.TempDir(), "evidence", "var")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		harness.Run(t, "tar", "--xattrs", "--xattrs-include=*", "--numeric-owner", "-xzpf", p, "-C", dir)
		out[filepath.Base(p)] = filepath.Dir(dir)
	}
	return out
}

// TestDataRoots reads data roots of Docker's where they lie, with owners as
// they came, which are not root's, and with those of root.
func TestDataRoots(t *testing.T) {
	harness.Need(t, "root")
	ctx := context.Background()
	for name, dir := range dataRoots(t) {
		t.Run(name, func(t *testing.T) {
			s, err := docker.Open(dir, docker.Options{ReadOnly: true})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			found := harness.ReadRoot(t, s.Root())
			ids, err := s.IDs(ctx)
			if err != nil || len(ids) != len(found) || len(ids) != 1 {
				t.Fatalf("images %v, want %+v: %v", ids, found, err)
			}
			names, err := s.Names(ctx)
			if err != nil || len(names.Tags) == 0 {
				t.Errorf("names %+v: %v", names, err)
			}
			for _, img := range found {
				id := digest.Digest(img.ID)
				foreign := layersOf(t, s, id)
				var tars [][]byte
				for _, l := range foreign {
					tars = append(tars, tarOf(t, l))
				}
				// The owners were lost on the way here, so the headers in the
				// tar-split decide: the judge is what the tars extract to.
				own, err := docker.Open(filepath.Join(t.TempDir(), "own"), docker.Options{Create: true})
				if err != nil {
					t.Fatal(err)
				}
				defer own.Close()
				ingest(t, own, tars...)
				extracted := harness.ReadRoot(t, own.Root())[0]
				harness.Same(t, "with foreign owners", kernelManifest(t, harness.KernelMount(t, extracted.Dirs...)), treeManifest(t, foreign))
				// As root's own, the directories decide.
				harness.Run(t, "chown", "-R", "0:0", filepath.Join(s.Root(), "overlay2"))
				for _, lazy := range []bool{false, true} {
					again, err := docker.Open(dir, docker.Options{ReadOnly: true, Lazy: lazy})
					if err != nil {
						t.Fatal(err)
					}
					defer again.Close()
					harness.Same(t, fmt.Sprintf("with root's owners, lazy: %v", lazy), kernelManifest(t, harness.KernelMount(t, img.Dirs...)), treeManifest(t, layersOf(t, again, id)))
				}
			}
			if _, err := s.Remove(ctx, ids[0].String(), true); !errors.Is(err, store.ErrReadOnly) {
				t.Errorf("removed from a store that was opened read-only: %v", err)
			}
			if _, err := os.Lstat(filepath.Join(s.Root(), "imagefs")); err == nil {
				t.Error("a store that was opened read-only was written to")
			}
		})
	}
}

// tarOf reads a layer's tar, which must be what its diff ID says.
func tarOf(t *testing.T, l store.Layer) []byte {
	t.Helper()
	f, err := l.Tar(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var b bytes.Buffer
	h := sha256.New()
	if _, err := io.Copy(io.MultiWriter(h, &b), io.NewSectionReader(f, 0, f.Size())); err != nil {
		t.Fatal(err)
	}
	if got := digest.NewDigest(digest.SHA256, h); got != l.DiffID() {
		t.Errorf("tar hashes to %s, want %s", got, l.DiffID())
	}
	return b.Bytes()
}

// TestWriteToDataRoots changes copies of the same data roots, which have
// containers, and which a daemon holds for a while.
func TestWriteToDataRoots(t *testing.T) {
	harness.Need(t, "root")
	ctx := context.Background()
	for name, dir := range dataRoots(t) {
		t.Run(name, func(t *testing.T) {
			s, err := docker.Open(dir, docker.Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			ids, err := s.IDs(ctx)
			if err != nil || len(ids) != 1 {
				t.Fatal(ids, err)
			}
			held := filepath.Join(s.Root(), "volumes/metadata.db")
			if err := os.MkdirAll(filepath.Dir(held), 0o700); err != nil {
				t.Fatal(err)
			}
			f, err := os.OpenFile(held, os.O_RDWR|os.O_CREATE, 0o600)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
				t.Fatal(err)
			}
			if err := s.Tag(ctx, "mine:1", ids[0]); !errors.Is(err, store.ErrReadOnly) {
				t.Errorf("tag behind a daemon's back: %v", err)
			}
			if err := unix.Flock(int(f.Fd()), unix.LOCK_UN); err != nil {
				t.Fatal(err)
			}
			before := stateOf(t, s.Root())
			if err := s.Tag(ctx, "mine:1", ids[0]); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Remove(ctx, ids[0].String(), false); !errors.Is(err, store.ErrBusy) {
				t.Errorf("removed what containers use: %v", err)
			}
			if r, err := s.Remove(ctx, "mine:1", false); err != nil || len(r.Deleted) != 0 {
				t.Errorf("untag: %+v %v", r, err)
			}
			if now := stateOf(t, s.Root()); now != before {
				t.Errorf("after tag and untag:\n%s\nwant\n%s", now, before)
			}
			layers := layersOf(t, s, ids[0])
			if running(t, s.Root()) {
				if _, err := s.Remove(ctx, ids[0].String(), true); !errors.Is(err, store.ErrBusy) {
					t.Errorf("removed what a running container uses: %v", err)
				}
				return
			}
			// As `docker rmi -f` with stopped containers: the names and the image go, the layers stay for the containers.
			r, err := s.Remove(ctx, ids[0].String(), true)
			if err != nil || len(r.Deleted) != 1 {
				t.Errorf("forced: %+v %v", r, err)
			}
			for _, l := range layers {
				if _, err := os.Stat(filepath.Join(s.Root(), "image/overlay2/layerdb/sha256", l.ChainID().Encoded(), "diff")); err != nil {
					t.Errorf("a container's layer is gone: %v", err)
				}
			}
			if now := stateOf(t, s.Root()); now != "" {
				t.Errorf("after a forced removal:\n%s", now)
			}
		})
	}
}

// running tells whether a container of a data root was running when it was copied.
func running(t *testing.T, root string) bool {
	t.Helper()
	configs, err := filepath.Glob(filepath.Join(root, "containers/*/config.v2.json"))
	if err != nil || len(configs) == 0 {
		t.Fatal("no containers", err)
	}
	for _, c := range configs {
		b, err := os.ReadFile(c)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(b, []byte(`"Running":true`)) {
			return true
		}
	}
	return false
}
