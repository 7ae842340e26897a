package docker

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"imagefs/store"
	"imagefs/store/storetest"
)

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
	want, err := s.Image(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
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
		// Not in its place: the first store has it mapped.
		if err := errors.Join(os.WriteFile(file+".new", bad, 0o600), os.Rename(file+".new", file)); err != nil {
			t.Fatal(err)
		}
		cache := t.TempDir()
		for again := range 2 {
			var logged bytes.Buffer
			s := openStore(t, dir, Options{ReadOnly: true, Cache: cache, Log: slog.New(slog.NewTextHandler(&logged, nil))})
			for range 2 {
				img, err := s.Image(ctx, id)
				if err != nil {
					t.Fatal(err)
				}
				storetest.SameImage(t, fmt.Sprintf("damage at %d, opened %d times", at, again+1), img, want)
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
