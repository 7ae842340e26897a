package unpacked

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// aged makes files of an age in a cache directory and returns the names.
func aged(t *testing.T, dir string, age time.Duration, names ...string) []string {
	t.Helper()
	at := time.Now().Add(-age)
	for _, name := range names {
		p := filepath.Join(dir, name)
		if err := errors.Join(os.WriteFile(p, []byte("x"), 0o600), os.Chtimes(p, at, at)); err != nil {
			t.Fatal(err)
		}
	}
	return names
}

func list(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

func clean(t *testing.T, dir string, want ...string) {
	t.Helper()
	if err := cleanCache(ctx, dir, time.Now()); err != nil {
		t.Fatal(err)
	}
	want = append(slices.Clone(want), cleanedName)
	slices.Sort(want)
	if got := list(t, dir); !slices.Equal(got, want) {
		t.Errorf("left:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestCleanCache(t *testing.T) {
	const day = 24 * time.Hour
	dir := t.TempDir()
	hex := func(c string) string { return strings.Repeat(c, 64) }
	random := ".0123456789abcdef"
	aged(t, dir, 61*day, hex("a"), hex("a")+".data", hex("b")+random+".data", ".tmp"+strings.Replace(random, ".", "-", 1))
	aged(t, dir, 2*day, hex("c")+random+".data", ".tmp-2", useName+"dead")
	left := slices.Concat(
		aged(t, dir, 59*day, hex("d"), hex("d")+".data"),
		aged(t, dir, time.Hour, hex("e"), hex("e")+random+".data", ".tmp-3"),
		aged(t, dir, 400*day, "notes.txt", "abc", hex("g"), hex("a")+".other"))
	if err := os.Mkdir(filepath.Join(dir, hex("f")), 0o700); err != nil {
		t.Fatal(err)
	}
	left = append(left, hex("f"))
	clean(t, dir, left...)
	// Once a day is enough.
	left = append(left, aged(t, dir, 61*day, hex("a"))...)
	clean(t, dir, left...)
	if err := CleanCache(ctx, filepath.Join(dir, "none")); err != nil {
		t.Errorf("where there is no directory: %v", err)
	}
	ended, stop := context.WithCancel(ctx)
	stop()
	if err := cleanCache(ended, dir, time.Now().Add(2*day)); !errors.Is(err, context.Canceled) {
		t.Errorf("a context that has ended: %v", err)
	}
}

// What a process that is there still may use is kept, however long ago it was opened.
func TestCleanCacheInUse(t *testing.T) {
	const day = 24 * time.Hour
	dir := filepath.Join(t.TempDir(), "made")
	use, err := UseCache(dir, time.Now().Add(-100*day))
	if err != nil {
		t.Fatal(err)
	}
	later, err := UseCache(dir, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	old, used := strings.Repeat("a", 64), strings.Repeat("b", 64)
	aged(t, dir, 101*day, old)
	aged(t, dir, 99*day, used)
	clean(t, dir, used, use.name, later.name)
	if err := use.Close(); err != nil {
		t.Error(err)
	}
	aged(t, dir, 2*day, cleanedName)
	clean(t, dir, later.name)
	if err := later.Close(); err != nil {
		t.Error(err)
	}
	clean(t, dir)
}

// An index that is looked into is one that was used.
func TestIndexIsUsed(t *testing.T) {
	cache, src := t.TempDir(), newSource(t)
	if _, err := newLayer(t, src, &Set{Cache: cache}).Index(ctx); err != nil {
		t.Fatal(err)
	}
	names := list(t, cache)
	if len(names) != 1 || kindOf(names[0]) != keptFile {
		t.Fatalf("the cache has %q", names)
	}
	aged := time.Now().Add(-100 * 24 * time.Hour)
	if err := os.Chtimes(filepath.Join(cache, names[0]), aged, aged); err != nil {
		t.Fatal(err)
	}
	if _, err := newLayer(t, src, &Set{Cache: cache}).Index(ctx); err != nil {
		t.Fatal(err)
	}
	clean(t, cache, names...)
}
