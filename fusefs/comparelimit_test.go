package fusefs

import (
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
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
