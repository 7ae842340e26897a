package overlay

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
)

func build(t testing.TB, es ...Entry) *Index {
	t.Helper()
	b := NewBuilder()
	for _, e := range es {
		if err := b.Add(e); err != nil {
			t.Fatal(err)
		}
	}
	out, err := b.Finish([]byte("meta"))
	if err != nil {
		t.Fatal(err)
	}
	x, err := OpenIndex(out)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// dump lists the paths of a tree with their modes, and checks that listing and lookup agree.
func dump(t testing.TB, tr *Tree) (out []string) {
	t.Helper()
	var walk func(p string, n NodeID)
	walk = func(p string, n NodeID) {
		d, err := tr.Dir(n)
		if err != nil {
			t.Fatal(err)
		}
		last := ""
		for {
			s, c, pos, ok := d.Next()
			if !ok {
				return
			}
			if s <= last {
				t.Fatalf("%q after %q", s, last)
			}
			last = strings.Clone(s)
			again, ok, err := tr.Lookup(n, s)
			if !ok || err != nil || again != c {
				t.Fatalf("lookup of %s: %x %v %v, listed as %x", s, again, ok, err, c)
			}
			d.Seek(pos)
			out = append(out, fmt.Sprintf("%s/%s %o", p, s, tr.Attr(c).Mode&0o7777))
			walk(p+"/"+s, c)
		}
	}
	walk("", tr.Root())
	return out
}

func f(path string, mode uint32) Entry { return Entry{Path: path, Kind: File, Attr: Attr{Mode: mode}} }
func d(path string, mode uint32) Entry { return Entry{Path: path, Kind: Dir, Attr: Attr{Mode: mode}} }
func wh(path string) Entry             { return Entry{Path: path, Kind: Whiteout} }
func opq(path string) Entry            { return Entry{Path: path, Kind: Opaque} }

func TestMerge(t *testing.T) {
	for name, c := range map[string]struct {
		layers  [][]Entry
		want    string // path and mode, one after the other
		changes string // of the top layer
	}{
		"one layer":             {[][]Entry{{f("a", 1), d("d", 2), f("d/x", 3)}}, "/a 1 /d 2 /d/x 3", "A /a A /d A /d/x"},
		"directories merge":     {[][]Entry{{d("d", 1), f("d/x", 2), f("d/y", 3)}, {d("d", 4), f("d/x", 5), f("d/z", 6)}}, "/d 4 /d/x 5 /d/y 3 /d/z 6", "C /d C /d/x A /d/z"},
		"implied keeps lower's": {[][]Entry{{d("d", 1), f("d/x", 2)}, {f("d/y", 3)}}, "/d 1 /d/x 2 /d/y 3", "C /d A /d/y"},
		"implied over implied":  {[][]Entry{{f("d/x", 2)}, {f("d/y", 3)}}, "/d 755 /d/x 2 /d/y 3", "C /d A /d/y"},
		"file over directory":   {[][]Entry{{d("d", 1), f("d/x", 2)}, {f("d", 3)}}, "/d 3", "C /d"},
		"directory over file":   {[][]Entry{{f("d", 1)}, {d("d", 2), f("d/x", 3)}}, "/d 2 /d/x 3", "C /d A /d/x"},
		"there and back":        {[][]Entry{{d("d", 1), f("d/x", 2)}, {f("d", 3)}, {d("d", 4), f("d/y", 5)}}, "/d 4 /d/y 5", "C /d A /d/y"},
		"whiteout of a file":    {[][]Entry{{f("a", 1), f("b", 2)}, {wh("a")}}, "/b 2", "D /a"},
		"whiteout of a tree":    {[][]Entry{{f("d/x/y", 1), f("e", 2)}, {wh("d")}}, "/e 2", "D /d"},
		"whiteout and addition": {[][]Entry{{f("a", 1)}, {wh("a"), f("a", 2)}}, "/a 2", "C /a"},
		"addition and whiteout": {[][]Entry{{f("a", 1)}, {f("a", 2), wh("a")}}, "/a 2", "C /a"},
		"whiteout and directory": {[][]Entry{{d("d", 1), f("d/x", 2)}, {wh("d"), d("d", 3), f("d/y", 4)}}, "/d 3 /d/y 4",
			"C /d D /d/x A /d/y"},
		"whiteout, then again":          {[][]Entry{{f("a", 1)}, {wh("a")}, {f("a", 2)}}, "/a 2", "A /a"},
		"whiteout hides all below":      {[][]Entry{{f("a", 1)}, {f("a", 2)}, {wh("a")}}, "", "D /a"},
		"whiteout of nothing":           {[][]Entry{{f("b", 1)}, {wh("a"), wh("d/x")}}, "/b 1 /d 755", "A /d"},
		"opaque":                        {[][]Entry{{d("d", 1), f("d/x", 2), f("e", 3)}, {opq("d"), d("d", 4), f("d/y", 5)}}, "/d 4 /d/y 5 /e 3", "C /d D /d/x A /d/y"},
		"opaque at the end":             {[][]Entry{{d("d", 1), f("d/x", 2)}, {d("d", 4), f("d/y", 5), opq("d")}}, "/d 4 /d/y 5", "C /d D /d/x A /d/y"},
		"opaque over opaque":            {[][]Entry{{f("d/x", 1)}, {opq("d"), f("d/y", 2)}, {f("d/z", 3)}}, "/d 755 /d/y 2 /d/z 3", "C /d A /d/z"},
		"opaque root":                   {[][]Entry{{f("a", 1), f("d/x", 2)}, {opq(""), f("d/y", 3)}}, "/d 755 /d/y 3", "D /a C /d D /d/x A /d/y"},
		"opaque, with a tree in it":     {[][]Entry{{f("d/e/x", 1), f("d/e/y", 2)}, {opq("d"), f("d/e/x", 3)}}, "/d 755 /d/e 755 /d/e/x 3", "C /d C /d/e C /d/e/x D /d/e/y"},
		"a name and one that begins so": {[][]Entry{{f("a/x", 1), f("a.b", 2), f("a-", 3)}, {f("a/y", 4)}}, "/a 755 /a/x 1 /a/y 4 /a- 3 /a.b 2", "C /a A /a/y"},
		"many layers":                   {[][]Entry{{f("d/1", 1)}, {f("d/2", 2)}, {wh("d/1")}, {f("d/3", 3)}, {f("d/1", 4), wh("d/2")}}, "/d 755 /d/1 4 /d/3 3", "C /d A /d/1 D /d/2"},
	} {
		t.Run(name, func(t *testing.T) {
			var layers []Layer
			for _, es := range c.layers {
				layers = append(layers, build(t, es...))
			}
			tree, err := Merge(layers...)
			if err != nil {
				t.Fatal(err)
			}
			// The order inside a layer cannot matter.
			var turned []Layer
			for _, es := range c.layers {
				es = slices.Clone(es)
				slices.Reverse(es)
				turned = append(turned, build(t, es...))
			}
			other, err := Merge(turned...)
			if err != nil {
				t.Fatal(err)
			}
			for _, tr := range []*Tree{tree, other} {
				got := dump(t, tr)
				slices.Sort(got)
				want := strings.Fields(c.want)
				for i := 0; i < len(want)/2; i++ {
					want[i] = want[2*i] + " " + want[2*i+1]
				}
				want = want[:len(want)/2]
				slices.Sort(want)
				if !slices.Equal(got, want) {
					t.Errorf("%q, want %q", got, want)
				}
			}
			var lower *Tree
			if n := len(layers) - 1; n > 0 {
				if lower, err = Merge(layers[:n]...); err != nil {
					t.Fatal(err)
				}
			}
			var got []string
			if err := Changes(lower, layers[len(layers)-1], func(op byte, p string) bool { got = append(got, fmt.Sprintf("%c %s", op, p)); return true }); err != nil {
				t.Fatal(err)
			}
			if s := strings.Join(got, " "); s != c.changes {
				t.Errorf("changes %q, want %q", s, c.changes)
			}
		})
	}
}

// TestMergeAtOnce lets many look into a tree that is not merged yet.
func TestMergeAtOnce(t *testing.T) {
	var layers []Layer
	for n := range 5 {
		var es []Entry
		for i := range 200 {
			es = append(es, f(fmt.Sprintf("d%d/e%d/f%d-%d", i%10, i%7, i, n), 1))
		}
		layers = append(layers, build(t, es...))
	}
	tree, err := Merge(layers...)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	out := make([][]string, 8)
	for i := range out {
		wg.Go(func() { out[i] = dump(t, tree) })
	}
	wg.Wait()
	for i := range out {
		if len(out[i]) != 1000+10+70 || !slices.Equal(out[i], out[0]) {
			t.Fatalf("%d paths, and %d", len(out[i]), len(out[0]))
		}
	}
}

func TestNoLayers(t *testing.T) {
	tree, err := Merge()
	if err != nil {
		t.Fatal(err)
	}
	if got := dump(t, tree); len(got) != 0 || tree.Attr(tree.Root()).Mode != modeDir|0o755 {
		t.Errorf("%v %+v", got, tree.Attr(tree.Root()))
	}
}
