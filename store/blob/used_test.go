package blob

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"imagefs/store/storetest/stacks"
)

// What is found in the cache directory is marked as used, the sign that the
// bytes were verified like everything else: what is not, is removed one day.
func TestCacheIsUsed(t *testing.T) {
	tars := stacks.New(1).Tars()[:1]
	c := NewCache(Options{Dir: t.TempDir()})
	defer c.Close()
	if err := stack(c, tars, plain)[0].Verify(ctx); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(c.opts.Dir, "*"))
	if err != nil || len(files) != 2 {
		t.Fatalf("the cache has %q, %v", files, err)
	}
	long := time.Now().Add(-time.Hour)
	for _, f := range files {
		if err := os.Chtimes(f, long, long); err != nil {
			t.Fatal(err)
		}
	}
	if l := stack(c, tars, plain)[0]; l.Verified() {
		t.Error("verified before it was looked at")
	} else if _, err := l.Index(ctx); err != nil || !l.Verified() {
		t.Errorf("from the cache: %v, verified %t", err, l.Verified())
	}
	for _, f := range files {
		if st, err := os.Stat(f); err != nil || time.Since(st.ModTime()) > time.Minute {
			t.Errorf("%s is not marked as used: %v", filepath.Base(f), err)
		}
	}
}
