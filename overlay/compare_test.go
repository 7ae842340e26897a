package overlay

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// contents are what the tests' files hold: a layer's Ref is the content.
func sameRef(a, b *Tree) func(x, y NodeID) (bool, error) {
	return func(x, y NodeID) (bool, error) {
		return a.layers[x.Layer()].Ref(x.Ino()) == b.layers[y.Layer()].Ref(y.Ino()), nil
	}
}

func compared(t *testing.T, a, b *Tree) (out []string) {
	t.Helper()
	err := Compare(a, b, sameRef(a, b), func(d Difference) bool {
		s := string(d.Op) + " " + d.Path
		if d.Op == 'C' {
			s += " " + d.What.String()
		}
		out = append(out, s)
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestCompareTellsWhatDiffers(t *testing.T) {
	file := func(path string, change func(*Entry)) Entry {
		e := Entry{Path: path, Kind: File, Attr: Attr{Mode: 0o644, Size: 3, Sec: 5}, Ref: 1}
		if change != nil {
			change(&e)
		}
		return e
	}
	base := build(t, file("same", nil), Entry{Path: "d", Kind: Dir, Attr: Attr{Mode: 0o755}}, file("d/x", nil))
	one := build(t,
		file("content", nil), file("size", nil), file("mode", nil), file("owner", nil), file("time", nil), file("xattr", nil), file("equal", nil),
		Entry{Path: "link", Kind: Symlink, Link: "a", Attr: Attr{Mode: 0o777}},
		Entry{Path: "dev", Kind: Char, Attr: Attr{Mode: 0o600, Rdev: 0x103}},
		Entry{Path: "dir-file", Kind: Dir, Attr: Attr{Mode: 0o755}}, file("dir-file/in", nil),
		file("file-dir", nil), file("gone", nil))
	two := build(t,
		file("content", func(e *Entry) { e.Ref = 2 }), file("size", func(e *Entry) { e.Size = 4 }),
		file("mode", func(e *Entry) { e.Mode = 0o4644 }), file("owner", func(e *Entry) { e.GID = 7 }),
		file("time", func(e *Entry) { e.Nsec = 1 }), file("xattr", func(e *Entry) { e.Xattrs = []Xattr{{"user.a", []byte("1")}} }), file("equal", nil),
		Entry{Path: "link", Kind: Symlink, Link: "b", Attr: Attr{Mode: 0o777}},
		Entry{Path: "dev", Kind: Char, Attr: Attr{Mode: 0o600, Rdev: 0x105}},
		file("dir-file", nil),
		Entry{Path: "file-dir", Kind: Dir, Attr: Attr{Mode: 0o755}}, file("file-dir/in", nil),
		Entry{Path: "new", Kind: Dir, Attr: Attr{Mode: 0o755}}, file("new/in", nil))
	a, b := must(Merge(base, one)), must(Merge(base, two))
	want := []string{
		"C /content content", "C /dev type", "C /dir-file type", "D /dir-file/in", "C /file-dir type", "A /file-dir/in",
		"D /gone", "C /link link", "C /mode mode", "A /new", "A /new/in", "C /owner owner", "C /size content", "C /time time", "C /xattr xattr",
	}
	if got := compared(t, a, b); !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if got := compared(t, a, must(Merge(base, one))); got != nil {
		t.Errorf("a stack and itself differ: %q", got)
	}
	// The same files, from other layers: no difference.
	if got := compared(t, must(Merge(base)), must(Merge(build(t, file("same", nil)), build(t, Entry{Path: "d", Kind: Dir, Attr: Attr{Mode: 0o755}}, file("d/x", nil))))); got != nil {
		t.Errorf("equal files of other layers differ: %q", got)
	}
}

func TestCompareStopsAndFails(t *testing.T) {
	f := func(ref uint64) *Index {
		return build(t, Entry{Path: "a", Kind: File, Attr: Attr{Size: 1}, Ref: ref}, Entry{Path: "b", Kind: File, Attr: Attr{Size: 1}, Ref: ref})
	}
	a, b := must(Merge(f(1))), must(Merge(f(2)))
	n := 0
	if err := Compare(a, b, sameRef(a, b), func(Difference) bool { n++; return false }); err != nil || n != 1 {
		t.Errorf("%d differences after the first was enough, %v", n, err)
	}
	bad := errors.New("bad disk")
	err := Compare(a, b, func(NodeID, NodeID) (bool, error) { return false, bad }, func(Difference) bool { return true })
	if !errors.Is(err, bad) || !strings.Contains(err.Error(), "/a") {
		t.Errorf("an error while reading: %v", err)
	}
}

// Random stacks that share some of their layers differ exactly as their listings do.
func TestCompareLikeListings(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 1))
		a, b := randomTrees(t, r)
		var got []string
		err := Compare(a, b, sameRef(a, b), func(d Difference) bool {
			got = append(got, fmt.Sprintf("%c %s", d.Op, d.Path))
			return true
		})
		if err != nil {
			t.Fatal(err)
		}
		p, q := listing(a), listing(b)
		var want []string
		for path, s := range p {
			if o, ok := q[path]; !ok {
				want = append(want, "D "+path)
			} else if o != s {
				want = append(want, "C "+path)
			}
		}
		for path := range q {
			if _, ok := p[path]; !ok {
				want = append(want, "A "+path)
			}
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Fatalf("seed %d: got\n%s\nwant\n%s", seed, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
}

// randomTrees returns two stacks of a few layers, of which some may be in both.
func randomTrees(t *testing.T, r *rand.Rand) (a, b *Tree) {
	var pool []Layer
	for range 5 {
		pool = append(pool, randomLayer(t, r))
	}
	stack := func() *Tree {
		var ls []Layer
		for range 1 + r.IntN(4) {
			ls = append(ls, pool[r.IntN(len(pool))])
		}
		return must(Merge(ls...))
	}
	return stack(), stack()
}

// listing says of each path of a tree everything that Compare looks at.
func listing(t *Tree) map[string]string {
	out := map[string]string{}
	var walk func(path string, n NodeID)
	walk = func(path string, n NodeID) {
		a := t.Attr(n)
		s := fmt.Sprintf("%o %d %d %d %d", a.Mode, a.UID, a.GID, a.Sec, a.Rdev)
		if a.Mode&typeMask == modeRegular {
			s += fmt.Sprint(" ", a.Size, " ", t.layers[n.Layer()].Ref(n.Ino()))
		}
		s += t.Readlink(t.where(n))
		out[path] = s
		d := must(t.Dir(n))
		for {
			name, c, _, ok := d.Next()
			if !ok {
				return
			}
			walk(strings.TrimSuffix(path, "/")+"/"+name, c)
		}
	}
	walk("/", t.Root())
	return out
}

func randomLayer(t *testing.T, r *rand.Rand) *Index {
	names := []string{"a", "b", "c"}
	entries := map[string]Entry{}
	var files []string
	var fill func(dir string, depth int)
	fill = func(dir string, depth int) {
		for _, n := range names {
			p := strings.TrimPrefix(dir+"/"+n, "/")
			a := Attr{Mode: 0o644, Sec: int64(r.IntN(2))}
			switch k := r.IntN(8); {
			case k < 2:
				a.Size = 1 + uint64(r.IntN(2))
				entries[p] = Entry{Path: p, Kind: File, Attr: a, Ref: uint64(r.IntN(2))}
				files = append(files, p)
			case k < 5 && depth < 3:
				if r.IntN(4) > 0 { // else it is implied by what is in it
					entries[p] = Entry{Path: p, Kind: Dir, Attr: a}
				}
				if r.IntN(5) == 0 {
					entries[p+" opaque"] = Entry{Path: p, Kind: Opaque}
				}
				fill(p, depth+1)
			case k == 5:
				entries[p] = Entry{Path: p, Kind: Whiteout, Attr: a}
			case k == 6:
				entries[p] = Entry{Path: p, Kind: Symlink, Link: names[r.IntN(3)], Attr: a}
			case k == 7 && len(files) > 0:
				entries[p] = Entry{Path: p, Kind: Hardlink, Link: files[r.IntN(len(files))]}
			}
		}
	}
	fill("", 0)
	var list []Entry
	for _, k := range slices.Sorted(maps.Keys(entries)) {
		list = append(list, entries[k])
	}
	return build(t, list...)
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
