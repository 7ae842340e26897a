package overlay

import (
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"testing"
)

func TestTrace(t *testing.T) {
	layers := []Layer{
		build(t, d("a", 0o755), d("a/d", 0o755), f("a/d/x", 0o644), f("a/y", 0o644), f("b", 0o644)),
		build(t, wh("a/y"), opq("a/d"), f("b", 0o600)),
		build(t, f("a", 0o644), wh("b"), f("b", 0o600)),
		build(t, d("a", 0o700), f("a/y", 0o644)),
		build(t, f("a/new", 0o644), wh("b"), f("c/e", 0o644)),
	}
	step := func(layer int, op byte, what What, by By, at string) Step {
		return Step{Layer: layer, Op: op, What: what, By: by, At: at}
	}
	for p, want := range map[string][]Step{
		"a/d/x": {step(0, 'A', 0, 0, ""), step(1, 'D', 0, ByOpaque, "a/d")},
		"a/y":   {step(0, 'A', 0, 0, ""), step(1, 'D', 0, ByWhiteout, "a/y"), step(3, 'A', 0, 0, "")},
		"a/d":   {step(0, 'A', 0, 0, ""), step(1, 'C', 0, 0, ""), step(2, 'D', 0, ByReplacement, "a")},
		"b":     {step(0, 'A', 0, 0, ""), step(1, 'C', DiffMode, 0, ""), step(2, 'C', 0, 0, ""), step(4, 'D', 0, ByWhiteout, "b")},
		"a":     {step(0, 'A', 0, 0, ""), step(2, 'C', DiffType, 0, ""), step(3, 'C', DiffType, 0, "")},
		"a/new": {step(4, 'A', 0, 0, "")}, "c": {step(4, 'A', 0, 0, "")}, "c/e": {step(4, 'A', 0, 0, "")},
		"never": nil, "b/x": nil, "a/d/x/z": nil,
	} {
		got, err := Trace(layers, p)
		if err != nil {
			t.Fatal(err)
		}
		for i := range got {
			got[i].Ino = 0
			if got[i].What != DiffType {
				got[i].What &^= DiffTime
			}
		}
		if p == "a/d" && len(got) > 1 {
			got[1].What = 0 // whatever a directory that is implied and opaque has
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %+v, want %+v", p, got, want)
		}
	}
}

// TestTraceLikeTrees compares what Trace tells with the trees of the layers 0,
// 0 to 1, 0 to 2 and so on, each merged and listed.
func TestTraceLikeTrees(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 2))
		var layers []Layer
		for range 1 + r.IntN(6) {
			layers = append(layers, randomLayer(t, r))
		}
		var trees []map[string]NodeID
		paths := map[string]bool{"": true, "never": true, "a/never": true}
		for n := range layers {
			trees = append(trees, nodes(must(Merge(layers[:n+1]...))))
			for p := range trees[n] {
				paths[p] = true
			}
		}
		for p := range paths {
			steps := must(Trace(layers, p))
			var was *Tree
			for n := range layers {
				var got Step
				if len(steps) > 0 && steps[0].Layer == n {
					got, steps = steps[0], steps[1:]
				}
				is := must(Merge(layers[:n+1]...))
				checkStep(t, p, n, layers[n], was, is, got)
				was = is
			}
			if len(steps) > 0 {
				t.Errorf("seed %d: %s: too many or out of order: %+v", seed, p, steps)
			}
		}
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// nodes lists a tree.
func nodes(t *Tree) map[string]NodeID {
	out := map[string]NodeID{}
	for p := range listing(t) {
		p = strings.TrimPrefix(p, "/")
		n, _, _ := t.Walk(p)
		out[p] = n
	}
	return out
}

// checkStep checks what is said of one layer and path, the zero Step if nothing
// is; was and is are the merged trees without and with the layer.
func checkStep(t *testing.T, p string, n int, l Layer, was, is *Tree, got Step) {
	t.Helper()
	var x, y NodeID
	var before, after bool
	if was != nil {
		x, before, _ = was.Walk(p)
	}
	y, after, _ = is.Walk(p)
	layer, ino := is.Origin(y)
	switch {
	case !before && after:
		if got.Op != 'A' || layer != n || ino != got.Ino {
			t.Errorf("%q, layer %d: %+v, but it is new there, inode %d of layer %d", p, n, got, ino, layer)
		}
	case before && after:
		oldLayer, oldIno := was.Origin(x)
		if moved := oldLayer != layer || oldIno != ino; moved != (got.Op == 'C') || moved && (layer != n || ino != got.Ino) {
			t.Errorf("%q, layer %d: %+v, but it goes from inode %d of layer %d to inode %d of layer %d", p, n, got, oldIno, oldLayer, ino, layer)
		}
		var want What
		err := Compare(was, is, func(NodeID, NodeID) (bool, error) { return true, nil }, func(d Difference) bool {
			if d.Op == 'C' && d.Path == "/"+p {
				want = d.What
			}
			return true
		})
		if err != nil || got.What != want {
			t.Errorf("%q, layer %d: %+v, but what differs is %q, %v", p, n, got, want, err)
		}
	case before && !after:
		if got.Op != 'D' || !hides(l, p, got) {
			t.Errorf("%q, layer %d: %+v, but it is deleted there", p, n, got)
		}
	case got.Op != 0:
		t.Errorf("%q, layer %d: %+v, but it is not there before or after", p, n, got)
	}
}

// hides tells whether a layer has what a Step says that it deletes a path with.
func hides(l Layer, p string, s Step) bool {
	above := s.At == "" || strings.HasPrefix(p, s.At+"/")
	i, ok := Ino(0), true
	dir := path.Dir("/" + s.At)[1:]
	for _, name := range strings.FieldsFunc(dir, func(r rune) bool { return r == '/' }) {
		if _, i, _, ok, _ = find(l, i, name); !ok {
			return false
		}
	}
	if s.At == "" {
		return s.By == ByOpaque && l.Stat(0).Flags&FlagOpaque != 0
	}
	_, k, whiteout, ok, _ := find(l, i, path.Base(s.At))
	switch s.By {
	case ByWhiteout:
		return whiteout && (above || s.At == p)
	case ByOpaque:
		return above && ok && l.Stat(k).Flags&FlagOpaque != 0
	case ByReplacement:
		return above && ok && !isDir(l, k)
	}
	return false
}
