package main

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A mount cleans the cache directory, marks it as used, and leaves no mark.
func TestTendCache(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cache")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	old := filepath.Join(dir, strings.Repeat("a", 64))
	long := time.Now().AddDate(-1, 0, 0)
	if err := os.WriteFile(old, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(old, long, long); err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	tendCache(dir, time.Now(), time.Hour, log)() // one that ends before it has begun
	if !exists(old) {
		t.Error("cleaned at once")
	}
	end := tendCache(dir, time.Now(), 0, log)
	for deadline := time.Now().Add(30 * time.Second); exists(old); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("nothing was removed")
		}
	}
	if used, _ := filepath.Glob(filepath.Join(dir, ".use-*")); len(used) != 1 {
		t.Errorf("marked as used by %d", len(used))
	}
	end()
	if used, _ := filepath.Glob(filepath.Join(dir, ".use-*")); len(used) != 0 {
		t.Error("the mark is left")
	}
}
