package fusefs

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"

	"imagefs/store/storetest"
)

// freeViews is how many numbers of views were given back and wait for the next.
func (p pairTest) freeViews() int {
	p.f.partViews.mu.Lock()
	defer p.f.partViews.mu.Unlock()
	return len(p.f.partViews.free)
}

// The numbers of a pair's views are given out again when the kernel has forgotten
// it, with another generation, so that it takes no old node for a new one.
func TestViewNumbersAreGivenOutAgain(t *testing.T) {
	p := newPairTest(t, first(equalSize()), second(equalSize()))
	p.f.partViews.limit = parts
	type node struct{ id, generation uint64 }
	seen := map[node]string{}
	for round := range 20 {
		a, b := "a:1", "b:1"
		if round%2 == 1 {
			a, b = b, a
		}
		dir := p.pair(a, b)
		for _, path := range [][]string{{"added"}, {"changed"}, {"deleted"}, {"changed", "d"}} {
			out, st := p.lookup(dir, path...)
			if st != fuse.OK {
				t.Fatalf("round %d: %q: %v", round, path, st)
			}
			n := node{out.NodeId, out.Generation}
			if was := seen[n]; was != "" {
				t.Errorf("round %d: %q is node %#x, generation %d, as %s was", round, path, n.id, n.generation, was)
			}
			seen[n] = fmt.Sprintf("%q in round %d", path, round)
			if again, _ := p.lookup(dir, path...); again.NodeId != n.id || again.Generation != n.generation {
				t.Errorf("round %d: %q looked up again is another node", round, path)
			}
		}
		// What is no directory is the image's own.
		if out, st := p.lookup(dir, "changed", "d", "f"); st != fuse.OK || out.Generation != 0 {
			t.Errorf("round %d: a file of generation %d, %v", round, out.Generation, st)
		}
		other := p.pair(b, a)
		if _, st := p.lookup(other, "added"); st != fuse.Status(syscall.ENFILE) {
			t.Errorf("round %d: more views than there are: %v", round, st)
		}
		for _, d := range []nodeID{dir, other} {
			p.f.Forget(uint64(d), 1)
			until(t, "let go", func() bool { return p.f.pairs.get(d.slot()) == nil })
		}
		until(t, "given back", func() bool { return p.freeViews() == parts })
	}
	if n := p.f.partViews.size(); n != parts {
		t.Errorf("%d numbers were given out", n)
	}
}

// Those of a removed image's pair are not, as long as somebody may be in it.
func TestViewNumbersOfARemovedImage(t *testing.T) {
	p := newPairTest(t, first(equalSize()), second(equalSize()))
	dir := p.pair("a:1", "b:1")
	root, st := p.lookup(dir, "changed")
	if st != fuse.OK {
		t.Fatal(st)
	}
	p.f.drop(p.f.snap.Load().names.Tags["a:1"])
	until(t, "let go", func() bool { return p.f.pairs.get(dir.slot()) == nil && p.f.view(nodeID(root.NodeId)) == nil })
	if n := p.freeViews(); n != 0 {
		t.Errorf("%d numbers were given back", n)
	}
	if _, st := p.lookup(nodeID(root.NodeId), "d"); st != fuse.Status(syscall.ESTALE) {
		t.Errorf("who is in it gets %v", st)
	}
	p.f.Forget(uint64(dir), 1)
	if n := p.freeViews(); n != 1 {
		t.Errorf("%d numbers were given back when it was forgotten", n)
	}
	p.f.Forget(uint64(dir), 1)
	p.f.Forget(uint64(dir), 1)
	if n := p.freeViews(); n != 1 || len(p.f.pairs.recent.owing) != 0 {
		t.Errorf("%d numbers, and %d pairs are owed", n, len(p.f.pairs.recent.owing))
	}
}

// A pair of which only a link was looked up goes when others take its place.
func TestPairsGiveWay(t *testing.T) {
	p := newPairTest(t, first(equalSize()), second(equalSize()))
	p.f.pairs.recent.limit = 2
	var links []nodeID
	for _, name := range []string{"a:1..b:1", "b:1..a:1", "a:1..a:1", "b:1..b:1", "a:1@0..b:1"} {
		out, st := p.lookup(diffNode, name)
		if st != fuse.OK {
			t.Fatal(st)
		}
		links = append(links, nodeID(out.NodeId))
	}
	for _, l := range links[:3] {
		until(t, "gone", func() bool { return p.f.pairs.get(l.slot()) == nil })
	}
	for _, l := range links[3:] {
		if p.f.pairs.get(l.slot()) == nil {
			t.Error("one that was looked up last is gone")
		}
	}
}

// A mount compares more pairs of images than there are numbers for, and who is
// in one of them stays there.
func TestManyPairs(t *testing.T) {
	overEach(t, func(p pairTest, dir string, srv *Server) {
		const layers = 9
		var stack [][]byte
		for n := range layers {
			stack = append(stack, storetest.Files(fmt.Sprintf("d%d/f=%d", n, n), "common/", fmt.Sprintf("common/%d=x", n)))
		}
		storetest.Fill(p.T, p.s, storetest.Image{Names: []string{"many:1"}, Layers: stack, Comment: "many"})
		f := srv.fs
		f.retireAfter = 1e6
		f.pairs.recent.limit, f.partViews.limit = 4, 40
		f.refresh()
		name := func(a, b int) string { return fmt.Sprintf("many:1@%d..many:1@%d", a, b) }
		inside, err := os.Open(filepath.Join(dir, "diff", name(0, 1), "added"))
		if err != nil {
			p.Fatal(err)
		}
		defer inside.Close()
		pairs := 0
		for a := range layers {
			for b := range layers {
				where := filepath.Join(dir, "diff", name(a, b))
				pairs++
				for _, part := range partNames {
					var list []os.DirEntry
					until(p.T, where, func() bool { // numbers come back in a moment
						list, err = os.ReadDir(filepath.Join(where, part))
						return err == nil
					})
					want := 0
					switch {
					case part == "added" && b > a:
						want = b - a + 1
					case part == "deleted" && a > b:
						want = a - b + 1
					}
					if len(list) != want && part != "changed" {
						p.Errorf("%s/%s has %d entries, want %d", name(a, b), part, len(list), want)
					}
				}
				if b > a {
					if got, err := os.ReadFile(filepath.Join(where, fmt.Sprintf("added/d%d/f", b))); err != nil || strings.TrimSpace(string(got)) != fmt.Sprint(b) {
						p.Errorf("%s: %q, %v", name(a, b), got, err)
					}
				}
			}
		}
		if parts*pairs < 4*40 {
			p.Fatalf("only %d pairs", pairs)
		}
		if n := f.partViews.size(); n > 40 {
			p.Errorf("%d numbers were given out", n)
		}
		if list, err := inside.ReadDir(-1); err != nil || len(list) != 2 {
			p.Errorf("who was in a pair all the time sees %v, %v", list, err)
		}
		// It is found under its name again, as what it was.
		held, err := inside.Stat()
		if err != nil {
			p.Fatal(err)
		}
		found, err := os.Stat(filepath.Join(dir, "diff", name(0, 1), "added"))
		if err != nil || !os.SameFile(held, found) {
			p.Errorf("under its name it is another directory, %v", err)
		}
		if to, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", inside.Fd())); err != nil || strings.HasSuffix(to, "(deleted)") {
			p.Errorf("its path is %q, %v", to, err)
		}
		until(p.T, "pairs are let go of", func() bool {
			n := 0
			for slot := range f.pairs.size() {
				if f.pairs.get(slot) != nil {
					n++
				}
			}
			return n <= 4+1
		})
	})
}
