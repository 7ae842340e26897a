package docker

import (
	"os"
	"path/filepath"
	"testing"

	digest "github.com/opencontainers/go-digest"

	"imagefs/store"
	"imagefs/store/storetest"
)

// TestSuite runs the suite of every kind of store, on a store that may be
// written and on one that is only read.
func TestSuite(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	s := openStore(t, dir, Options{Create: true})
	held := storetest.Odd()
	storetest.Fill(t, s, storetest.Images(held)...)
	want := storetest.Contents{Images: held}
	t.Run("written", func(t *testing.T) {
		storetest.Run(t, func(t testing.TB) store.Store { return openStore(t, dir, Options{}) }, want)
	})
	t.Run("read-only", func(t *testing.T) {
		storetest.Run(t, func(t testing.TB) store.Store { return openStore(t, dir, Options{ReadOnly: true}) }, want)
	})
	t.Run("lazy", func(t *testing.T) {
		if err := os.RemoveAll(filepath.Join(dir, indexDir)); err != nil {
			t.Fatal(err)
		}
		storetest.Run(t, func(t testing.TB) store.Store {
			return openStore(t, dir, Options{ReadOnly: true, Lazy: true, Cache: t.TempDir()})
		}, want)
	})
}

// TestSuiteOfABrokenStore has an image without a layer, one without its config, and all others.
func TestSuiteOfABrokenStore(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	s := openStore(t, dir, Options{Create: true})
	held := storetest.Odd()
	storetest.Fill(t, s, storetest.Images(held)...)
	want := storetest.Contents{Broken: map[digest.Digest]string{}}
	for _, h := range held {
		switch {
		case len(h.Names) > 0 && h.Names[0] == "odd/other:arm":
			want.Broken[h.ID()] = "no such file"
			if err := os.Remove(filepath.Join(dir, overlay2.layers, h.DiffIDs()[0].Encoded(), "cache-id")); err != nil {
				t.Fatal(err)
			}
		case len(h.Names) > 0 && h.Names[0] == "odd/twice:1":
			want.Broken[h.ID()] = "hashes to"
			if err := os.WriteFile(filepath.Join(dir, overlay2.content, h.ID().Encoded()), []byte("{}"), 0o600); err != nil {
				t.Fatal(err)
			}
		default:
			want.Images = append(want.Images, h)
		}
	}
	storetest.Run(t, func(t testing.TB) store.Store { return openStore(t, dir, Options{}) }, want)
}

func openStore(t testing.TB, dir string, o Options) *Store {
	t.Helper()
	s, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}
