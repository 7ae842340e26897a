package overlay

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// within fails a test whose work takes a hundred times longer than it should,
// on the slowest machine: then it grows with the square of its input.
func within(t *testing.T, what string, do func()) {
	t.Helper()
	start := time.Now()
	do()
	if took := time.Since(start); took > 4*time.Minute {
		t.Errorf("%s took %s", what, took)
	}
}

func add(t *testing.T, b *Builder, es ...Entry) {
	t.Helper()
	for _, e := range es {
		if err := b.Add(e); err != nil {
			t.Fatal(err)
		}
	}
}

func finish(t *testing.T, b *Builder) *Index {
	t.Helper()
	out, err := b.Finish(nil)
	if err != nil {
		t.Fatal(err)
	}
	x, err := OpenIndex(out)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// Layers that would take hours if any step looked at everything for each entry.
func TestWorkGrowsWithTheInput(t *testing.T) {
	const n = 20000
	within(t, "one path many times", func() {
		b := NewBuilder()
		for i := range n {
			add(t, b, Entry{Path: "a", Kind: File, Attr: Attr{Size: uint64(i)}}, Entry{Path: "d/x", Kind: Symlink, Link: "a"})
			add(t, b, Entry{Path: "d", Kind: Fifo})
		}
		if x := finish(t, b); x.Inodes() != 3 || x.Stat(1).Size != n-1 {
			t.Errorf("%d inodes, %+v", x.Inodes(), x.Stat(1))
		}
	})
	for _, backward := range []bool{false, true} {
		within(t, "a chain of links", func() {
			b := NewBuilder()
			for i := range n {
				if backward {
					i = n - 1 - i
				}
				add(t, b, Entry{Path: fmt.Sprintf("l%d", i), Kind: Hardlink, Link: fmt.Sprintf("l%d", i+1)})
			}
			count := 0
			b.Pending(func(p, target string) bool { count++; return true })
			if count != n {
				t.Errorf("%d links wait", count)
			}
			add(t, b, Entry{Path: fmt.Sprintf("l%d", n), Kind: File})
			if x := finish(t, b); x.Inodes() != 2 || x.Stat(1).Nlink != n+1 {
				t.Errorf("%d inodes, %+v", x.Inodes(), x.Stat(1))
			}
		})
	}
	within(t, "links that nothing leads to", func() {
		b := NewBuilder()
		for i := range n {
			add(t, b, Entry{Path: fmt.Sprintf("d/l%d", i), Kind: Hardlink, Link: "none"})
		}
		add(t, b, Entry{Path: "d", Kind: File})
		b.Pending(func(p, target string) bool { t.Errorf("%s waits", p); return false })
		finish(t, b)
	})
	within(t, "many deep directories", func() {
		b := NewBuilder()
		const many = 100
		deep := strings.Repeat("d/", maxDepth-10)
		for i := range many {
			add(t, b, Entry{Path: fmt.Sprintf("%d/%s%d", i, deep[:(maxDepth-20)*2], i), Kind: File})
		}
		count := 0
		b.Implied(func(p string, hidden bool) bool { count++; return true })
		if want := 1 + many*(maxDepth-19); count != want {
			t.Errorf("%d directories, want %d", count, want)
		}
		finish(t, b)
	})
}

func TestLimits(t *testing.T) {
	b := NewBuilder()
	for _, e := range []Entry{
		{Path: strings.Repeat("n", 256), Kind: File}, {Path: strings.Repeat("d/", 2047) + "ff", Kind: File}, {Path: "a//b", Kind: File}, {Path: "../x", Kind: File},
		{Path: "a/./b", Kind: Dir}, {Path: "/a", Kind: Dir}, {Path: "a/", Kind: Dir}, {Path: "a\x00", Kind: File}, {Path: "", Kind: File}, {Path: "x", Kind: 99},
		{Path: "x", Kind: Symlink, Link: strings.Repeat("l", 4096)}, {Path: "x", Kind: Hardlink, Link: "../y"},
	} {
		if err := b.Add(e); !errors.Is(err, ErrName) {
			t.Errorf("%.30q %d: %v", e.Path, e.Kind, err)
		}
	}
	if err := b.Add(Entry{Path: "x", Kind: File, Xattrs: []Xattr{{"user.x", make([]byte, 65<<10)}}}); !errors.Is(err, ErrTooLarge) {
		t.Error(err)
	}
	if _, err := NewBuilder().Finish(make([]byte, maxMeta+1)); !errors.Is(err, ErrTooLarge) {
		t.Error(err)
	}
	b = NewBuilder()
	target := strings.Repeat("t/", 2000) + "x"
	var err error
	for i := 0; err == nil && i < MaxEntries; i++ {
		err = b.Add(Entry{Path: fmt.Sprint(i), Kind: Hardlink, Link: target})
	}
	if !errors.Is(err, ErrTooLarge) {
		t.Errorf("links to what never comes: %v", err)
	}
}

// Names that no Builder writes are found wherever they lie among the others.
func TestBadNames(t *testing.T) {
	b := NewBuilder()
	for i := range 500 {
		add(t, b, Entry{Path: fmt.Sprintf("d%d/..x", i%7), Kind: File}, Entry{Path: fmt.Sprintf("d%d/name%d", i%7, i), Kind: File},
			Entry{Path: fmt.Sprintf("d%d/link%d", i%7, i), Kind: Symlink, Link: "../to/" + fmt.Sprint(i)})
	}
	good, err := b.Finish(nil)
	if err != nil {
		t.Fatal(err)
	}
	x, err := OpenIndex(good)
	if err != nil {
		t.Fatal(err)
	}
	arena := headerSize + len(x.inodes) + len(x.entries)
	for e := range len(x.entries) / entrySize {
		off, n := int(le.Uint32(x.ent(Ent(e)))), int(le.Uint16(x.ent(Ent(e))[8:]))
		for _, bad := range []string{"/", "\x00", ".", ".."} {
			index := []byte(string(good))
			if len(bad) == 1 && bad != "." {
				index[arena+off+n/2] = bad[0]
			} else {
				// In its place, with its length: what comes behind it lies where it lay.
				copy(index[arena+off:], bad)
				le.PutUint16(index[headerSize+len(x.inodes)+e*entrySize+8:], uint16(len(bad)))
			}
			if _, err := OpenIndex(seal(index)); !errors.Is(err, ErrCorrupt) {
				t.Fatalf("entry %d with %q: %v", e, bad, err)
			}
		}
	}
}
