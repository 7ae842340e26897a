package overlay

import (
	"context"
	"errors"
	"math/rand/v2"
	"testing"
)

// taken is what the files of a tree take, each inode of each layer once.
func taken(t *Tree) (bytes int64) {
	type inode struct {
		l Layer
		i Ino
	}
	seen := map[inode]bool{}
	var walk func(NodeID)
	walk = func(n NodeID) {
		a := t.Attr(n)
		k := inode{t.layers[n.Layer()], n.Ino()}
		if a.Mode&typeMask == modeRegular && !seen[k] {
			seen[k] = true
			bytes += int64(a.Size)
		}
		d := must(t.Dir(n))
		for {
			_, c, _, ok := d.Next()
			if !ok {
				return
			}
			walk(c)
		}
	}
	walk(t.Root())
	return bytes
}

func goOn() error { return nil }

func TestGrowthCountsInodes(t *testing.T) {
	file := func(path string, size uint64) Entry {
		return Entry{Path: path, Kind: File, Attr: Attr{Mode: 0o644, Size: size}}
	}
	link := func(path, target string) Entry { return Entry{Path: path, Kind: Hardlink, Link: target} }
	gone := func(path string) Entry { return Entry{Path: path, Kind: Whiteout} }
	base := build(t, file("d/x", 100), link("d/y", "d/x"), link("kept/z", "d/x"), file("d/one", 7))
	for _, c := range []struct {
		what string
		a, b []Layer
		want int64
	}{
		{"nothing", []Layer{base}, []Layer{base}, 0},
		{"some names of a file are gone", []Layer{base}, []Layer{base, build(t, gone("d/x"), gone("d/y"))}, 0},
		{"all names of a file are gone", []Layer{base}, []Layer{base, build(t, gone("d/x"), gone("d/y"), gone("kept"))}, -100},
		{"some names are added", []Layer{base, build(t, gone("d"))}, []Layer{base}, 7},
		{"all names are added", nil, []Layer{base}, 107},
		{"a name is another file", []Layer{base}, []Layer{base, build(t, file("d/x", 3))}, 3},
		{"another layer, with fewer names", []Layer{base}, []Layer{build(t, file("d/x", 100), file("d/one", 7))}, 0},
		{"another layer, without links", []Layer{base}, []Layer{build(t, file("d/x", 100), file("d/y", 100), file("kept/z", 100), file("d/one", 7))}, 200},
		{"a directory that is a file", []Layer{base}, []Layer{base, build(t, file("d", 50))}, 50 - 7},
		{"a layer that comes twice", []Layer{base}, []Layer{base, build(t, gone("d")), base}, 0},
	} {
		a, b := must(Merge(c.a...)), must(Merge(c.b...))
		if got, err := Growth(a, b, goOn); got != c.want || err != nil {
			t.Errorf("%s: %d, %v, want %d", c.what, got, err, c.want)
		}
		if got, err := Growth(b, a, goOn); got != -c.want || err != nil {
			t.Errorf("%s, the other way: %d, %v, want %d", c.what, got, err, -c.want)
		}
	}
	stop := func() error { return context.Canceled }
	if _, err := Growth(must(Merge()), must(Merge(base)), stop); !errors.Is(err, context.Canceled) {
		t.Errorf("stopped: %v", err)
	}
}

// Random stacks that share some of their layers grow by what one takes more than the other.
func TestGrowthLikeSums(t *testing.T) {
	shared := 0
	for seed := range uint64(1000) {
		r := rand.New(rand.NewPCG(seed, 2))
		a, b := randomTrees(t, r)
		want := taken(b) - taken(a)
		if got, err := Growth(a, b, goOn); got != want || err != nil {
			t.Fatalf("seed %d: %d, %v, want %d", seed, got, err, want)
		}
		if want != 0 {
			shared++
		}
	}
	if shared < 500 {
		t.Errorf("%d stacks of 1000 have a growth", shared)
	}
}
