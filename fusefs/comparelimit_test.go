package fusefs

import (
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"

	"imagefs/store/storetest"
)

// However many images are compared, an image that comes after can be looked into.
func TestCompareLeavesRoomForImages(t *testing.T) {
	p := newPairTest(t, first(equalSize()), second(equalSize()))
	dir := p.pair("a:1", "b:1")
	if _, st := p.lookup(dir, "changes"); st != fuse.OK { // which looks into the two
		t.Fatal(st)
	}
	before := p.f.views.size()
	for range 3 {
		for _, part := range partNames {
			out, st := p.lookup(dir, part)
			if st != fuse.OK {
				t.Fatal(st)
			}
			if v := p.f.view(nodeID(out.NodeId)); v == nil || v.pair == nil {
				t.Errorf("%s has the view %v", part, v)
			}
		}
		p.f.Forget(uint64(dir), 1)
		until(t, "let go", func() bool { return p.f.pairs.get(dir.slot()) == nil })
		dir = p.pair("a:1", "b:1")
	}
	if n := p.f.views.size(); n != before {
		t.Errorf("comparing took %d of the %d views for images", n-before, maxViews)
	}
}

// A link whose target leads into diff/ names no image, and leaves no pair behind.
func TestLinkIntoDiff(t *testing.T) {
	p := newPairTest(t, first(equalSize()), second(equalSize()))
	for _, target := range []string{"../diff/a:1..b:1", "../diff/a:1..b:1/added/d", "../../diff/b:1..a:1/changes"} {
		if id, err := p.f.imageAt("images/" + target); err == nil {
			t.Errorf("%s is the image %s", target, id)
		}
		var out fuse.EntryOut
		h := fuse.InHeader{NodeId: uint64(imagesNode), Caller: fuse.Caller{Owner: fuse.Owner{Uid: p.f.uid}}}
		if st := p.f.Symlink(nil, &h, target, "new:1", &out); st == fuse.OK {
			t.Errorf("%s can be named", target)
		}
	}
	if n := p.f.pairs.size(); n != 0 {
		t.Errorf("%d pairs that nobody forgets", n)
	}
}

// Lists of changes that are open are in memory, of which there is so much.
func TestOpenChangesAreBounded(t *testing.T) {
	for _, files := range []int{10, 2000} { // a list that is kept, and one that is made again
		var names []string
		for n := range files {
			names = append(names, fmt.Sprintf("%s%d=", strings.Repeat("x", 50), n))
		}
		p := newPairTest(t, [][]byte{storetest.Files("a=")}, [][]byte{storetest.Files(names...)})
		open := func(dir nodeID) (uint64, fuse.Status) {
			t.Helper()
			out, st := p.lookup(dir, "changes")
			if st != fuse.OK {
				t.Fatal(st)
			}
			var o fuse.OpenOut
			st = p.f.Open(nil, &fuse.OpenIn{InHeader: fuse.InHeader{NodeId: out.NodeId}}, &o)
			return o.Fh, st
		}
		one, other := p.pair("a:1", "b:1"), p.pair("b:1", "a:1")
		out, st := p.lookup(one, "changes")
		if st != fuse.OK {
			t.Fatal(st)
		}
		p.f.pairs.lists.limit = int(out.Size) + 100
		var handles []uint64
		for range 3 { // the same list is there once
			fh, st := open(one)
			if st != fuse.OK {
				t.Fatalf("%d files: %v", files, st)
			}
			handles = append(handles, fh)
		}
		if _, st := open(other); st != fuse.Status(syscall.ENOMEM) {
			t.Errorf("%d files: one more list: %v", files, st)
		}
		for _, fh := range handles {
			p.f.Release(nil, &fuse.ReleaseIn{Fh: fh})
		}
		fh, st := open(other)
		if st != fuse.OK {
			t.Errorf("%d files: when the others are closed: %v", files, st)
		}
		p.f.Release(nil, &fuse.ReleaseIn{Fh: fh})
		if n := p.f.pairs.lists.bytes; n != 0 {
			t.Errorf("%d files: %d bytes are counted of no list", files, n)
		}
	}
}

// In a layer's list of changes, too, each path has a line of its own.
func TestChangePath(t *testing.T) {
	seen := map[string]bool{}
	for _, p := range []string{"/a\nb", `/a\nb`, `/"a\nb"`, "/a\\\nb", "/a b"} {
		if got := changePath(p); seen[got] || strings.Contains(got, "\n") {
			t.Errorf("%q is %q", p, got)
		} else {
			seen[got] = true
		}
	}
}

// Who waits for a comparison takes a request, of which over io_uring there are so many.
func TestManyWaitForComparisons(t *testing.T) {
	p := newPairTest(t, first(equalSize()), second(equalSize()))
	dirs := []nodeID{p.pair("a:1", "b:1"), p.pair("b:1", "a:1")}
	shut := make(chan struct{})
	p.g.closed.Store(&shut)
	const more = 100
	cancel, answers := make(chan struct{}), make(chan fuse.Status, maxWaiting+more)
	for n := range maxWaiting + more {
		go func() {
			var out fuse.EntryOut
			answers <- p.f.Lookup(cancel, &fuse.InHeader{NodeId: uint64(dirs[n%2])}, "changes", &out)
		}()
	}
	for range more {
		if st := <-answers; st != fuse.Status(syscall.ENFILE) {
			t.Fatalf("one too many gets %v", st)
		}
	}
	close(cancel)
	for range maxWaiting {
		if st := <-answers; st != fuse.Status(syscall.EINTR) {
			t.Errorf("who waited gets %v", st)
		}
	}
	close(shut)
	p.g.closed.Store(nil)
	if _, st := p.lookup(dirs[0], "changes"); st != fuse.OK {
		t.Errorf("there is room again: %v", st)
	}
}
