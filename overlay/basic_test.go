package overlay

import (
	"fmt"
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
func dump(t testing.TB, tr *Tree) (out []string) {
	var walk func(p string, n NodeID)
	walk = func(p string, n NodeID) {
		d, err := tr.Dir(n)
		if err != nil {
			t.Fatal(err)
		}
		for {
			s, c, _, ok := d.Next()
			if !ok {
				return
			}
			c2, ok, err := tr.Lookup(n, s)
			if !ok || err != nil || c2 != c {
				t.Fatalf("lookup %s %v %v %v", s, c2, c, err)
			}
			out = append(out, fmt.Sprintf("%s/%s %o", p, s, tr.Attr(c).Mode))
			walk(p+"/"+s, c)
		}
	}
	walk("", tr.Root())
	return
}
func TestBasic(t *testing.T) {
	a := build(t, Entry{Path: "d/x", Kind: File}, Entry{Path: "d/y", Kind: File}, Entry{Path: "e/z", Kind: File}, Entry{Path: "l", Kind: Hardlink, Link: "d/x"}, Entry{Path: "o/p/q", Kind: File})
	b := build(t, Entry{Path: "d/x", Kind: Whiteout}, Entry{Path: "d/n", Kind: File}, Entry{Path: "e", Kind: Whiteout}, Entry{Path: "e", Kind: Dir}, Entry{Path: "o", Kind: Opaque}, Entry{Path: "o/k", Kind: Symlink, Link: "abc"})
	tr, _ := Merge(a, b)
	for _, s := range dump(t, tr) {
		t.Log(s)
	}
	lo, _ := Merge(a)
	Changes(lo, b, func(op byte, p string) bool { t.Logf("%c %s", op, p); return true })
}
