package archive

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"imagefs/store/storetest"
	"imagefs/store/storetest/stacks"
)

// Stacks of layers as odd as they can be are the same in place and loaded, in
// every compression, the whole archive's included.
func TestOddStacksInPlace(t *testing.T) {
	seeds := uint64(12)
	if storetest.Race {
		seeds = 1
	}
	for seed := range seeds {
		img := storetest.Image{Layers: stacks.New(seed).Tars(), Names: []string{"odd:1"}}
		for form, a := range map[string]*storetest.Archive{
			"docker": storetest.Docker(img), "oci": storetest.OCI(storetest.Plain, img), "gzip": storetest.OCI(storetest.Gzip, img),
			"gzip of two members": storetest.OCI(storetest.GzipTwice, img), "zstd": storetest.OCI(storetest.Zstd, img)} {
			dir := t.TempDir()
			for whole, pack := range map[string]storetest.Compress{"plain": storetest.Plain, "gzip": storetest.Gzip, "zstd": storetest.Zstd} {
				what := fmt.Sprintf("stack %d, %s in %s", seed, form, whole)
				path := writeFile(t, dir, whole, pack(a.Tar()))
				first, err := openInPlace(t, path, dir+"/cache")
				if err != nil {
					t.Fatalf("%s: %v", what, err)
				}
				if got := summary(t, first, seen{}); len(got) != 1 {
					t.Errorf("%s: %q", what, got)
				}
				again, err := openInPlace(t, path, dir+"/cache")
				if err != nil {
					t.Fatalf("%s: %v", what, err)
				}
				if whole == "plain" || seed < 2 {
					sameAsLoaded(t, what, path, first, again)
				}
				first.Close()
				again.Close()
			}
		}
	}
}

func writeFile(t *testing.T, dir, name string, b []byte) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
