package overlay

import (
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// shownBy lists a subset by its directories, and finds each entry by its name too.
func shownBy(t *testing.T, s *Subset) (out []string) {
	t.Helper()
	var walk func(path string, dir NodeID)
	walk = func(path string, dir NodeID) {
		d := must(s.Dir(dir))
		var last uint64
		for {
			name, n, pos, ok := d.Next()
			if !ok {
				break
			}
			if found, ok, err := s.Lookup(dir, name); !ok || err != nil || found != n {
				t.Errorf("%s/%s is node %#x, a lookup finds %#x, %v, %v", path, name, n, found, ok, err)
			}
			again := must(s.Dir(dir))
			again.Seek(last)
			if other, _, _, _ := again.Next(); other != name {
				t.Errorf("%s: position %d is %q, then %q", path, last, name, other)
			}
			last = pos
			out = append(out, path+"/"+name)
			if s.Tree().Attr(n).Mode&typeMask == modeDir {
				walk(path+"/"+name, n)
			}
		}
		for _, name := range []string{"", "!", "b!", "~"} {
			if n, ok, err := s.Lookup(dir, name); ok || err != nil {
				t.Errorf("%s/%s is there: %#x, %v", path, name, n, err)
			}
		}
	}
	walk("", s.Tree().Root())
	return out
}

// Random parts of random trees show the paths that were asked for, those on the
// way and, where asked for, all below, and nothing else.
func TestSubset(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 2))
		var ls []Layer
		for range 1 + r.IntN(3) {
			ls = append(ls, randomLayer(t, r))
		}
		tree := must(Merge(ls...))
		var all []string
		for p := range listing(tree) {
			all = append(all, p)
		}
		slices.SortFunc(all, func(x, y string) int { return slices.Compare(strings.Split(x, "/"), strings.Split(y, "/")) })
		b := must(NewSubset(tree))
		want := map[string]bool{}
		for _, p := range all {
			if p == "/" || r.IntN(4) > 0 {
				continue
			}
			whole := r.IntN(3) == 0
			if err := b.Add(p, whole); err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			for up := p; up != ""; up = up[:strings.LastIndexByte(up, '/')] {
				want[up] = true
			}
			for _, q := range all {
				if whole && strings.HasPrefix(q, p+"/") {
					want[q] = true
				}
			}
			if whole {
				// What is below comes too, as it does from Compare.
				for _, q := range all {
					if strings.HasPrefix(q, p+"/") && b.Add(q, true) != nil {
						t.Fatalf("seed %d: %s below %s is refused", seed, q, p)
					}
				}
			}
		}
		var got []string
		s := b.Subset()
		got = shownBy(t, s)
		for _, p := range got {
			if !want[p] {
				t.Errorf("seed %d: %s is shown", seed, p)
			}
			delete(want, p)
		}
		for p := range want {
			t.Errorf("seed %d: %s is not shown", seed, p)
		}
		if t.Failed() {
			t.FailNow()
		}
	}
}

func TestSubsetRefuses(t *testing.T) {
	tree := must(Merge(build(t, Entry{Path: "a", Kind: Dir}, Entry{Path: "a/x", Kind: File}, Entry{Path: "b", Kind: File})))
	for _, paths := range [][]string{{"/c"}, {"/a/y"}, {"/b", "/a"}, {"/b", "/b"}} {
		b := must(NewSubset(tree))
		var err error
		for _, p := range paths {
			err = errors.Join(err, b.Add(p, false))
		}
		if !errors.Is(err, ErrCorrupt) {
			t.Errorf("%q: %v", paths, err)
		}
	}
	s := must(NewSubset(tree)).Subset()
	if got := shownBy(t, s); got != nil {
		t.Errorf("nothing added, shown: %q", got)
	}
	b := must(NewSubset(tree))
	if err := b.Add("/", false); err != nil {
		t.Errorf("the root: %v", err)
	}
}
