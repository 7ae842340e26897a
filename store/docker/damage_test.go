package docker

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	digest "github.com/opencontainers/go-digest"

	"imagefs/overlay"
	"imagefs/store"
)

// listed is what all directories of an image show, the last ones of a layer first.
func listed(t testing.TB, s *Store, id digest.Digest) string {
	t.Helper()
	tr := tree(t, s, id)
	var out strings.Builder
	var walk func(overlay.NodeID)
	walk = func(n overlay.NodeID) {
		d, err := tr.Dir(n)
		if err != nil {
			t.Fatal(err)
		}
		var dirs []overlay.NodeID
		for {
			name, c, _, ok := d.Next()
			if !ok {
				break
			}
			fmt.Fprintf(&out, "%s %+v\n", name, tr.Attr(c))
			dirs = append(dirs, c)
		}
		for _, c := range dirs {
			walk(c)
		}
	}
	walk(tr.Root())
	return out.String()
}

// Wherever the index of a layer is damaged, the image is as it was; the index
// is made again, and only once.
func TestDamagedIndex(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	s := openStore(t, dir, Options{Create: true})
	var files []string
	for i := range 60 {
		files = append(files, fmt.Sprintf("a%d/", i%3), fmt.Sprintf("a%d/b%d/", i%3, i))
	}
	for i := range 5000 {
		files = append(files, fmt.Sprintf("a%d/b%d/file%d=", i%3, i%60, i))
	}
	id := load(t, s, "x", []string{"app:v1"}, layerTar(t, files...))
	want := listed(t, s, id)
	names, err := s.root.List(indexDir)
	if err != nil || len(names) != 1 {
		t.Fatal(names, err)
	}
	file := filepath.Join(dir, indexDir, names[0])
	good, err := os.ReadFile(file)
	if err != nil || len(good) < 256<<10 {
		t.Fatalf("an index of %d bytes says little: %v", len(good), err)
	}
	for at := 100; at < len(good); at += 60 << 10 {
		bad := bytes.Clone(good)
		bad[at] ^= 4
		if err := os.WriteFile(file, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		cache := t.TempDir()
		for again := range 2 {
			var logged bytes.Buffer
			s := openStore(t, dir, Options{ReadOnly: true, Cache: cache, Log: slog.New(slog.NewTextHandler(&logged, nil))})
			for range 2 {
				if got := listed(t, s, id); got != want {
					t.Errorf("damage at %d, opened %d times: the image is another", at, again+1)
				}
				img, err := s.Image(ctx, id)
				if err != nil {
					t.Fatal(err)
				}
				img.Layers()[0].(store.Trimmer).Trim()
			}
			if n := strings.Count(logged.String(), "index is damaged"); n != 1-again {
				t.Errorf("damage at %d, opened %d times: told %d times", at, again+1, n)
			}
			clean(t, s)
			s.Close()
		}
	}
}
