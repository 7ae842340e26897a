package fusefs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"testing"

	"imagefs/overlay"
	"imagefs/store"
)

func TestErrno(t *testing.T) {
	wrap := func(err error) error { return fmt.Errorf("read layer: %w", fmt.Errorf("open: %w", err)) }
	for _, c := range []struct {
		err  error
		want syscall.Errno
	}{
		{nil, 0},
		{store.ErrCorrupt, syscall.EBADMSG},
		{fmt.Errorf("%w: %w", store.ErrCorrupt, fs.ErrNotExist), syscall.EBADMSG},
		{store.ErrTooLarge, syscall.EFBIG},
		{store.ErrGone, syscall.ESTALE},
		{store.ErrBusy, syscall.EBUSY},
		{store.ErrReadOnly, syscall.EROFS},
		{store.ErrUnsupported, syscall.EOPNOTSUPP},
		{store.ErrInvalid, syscall.EINVAL},
		{store.ErrExists, syscall.EEXIST},
		{store.ErrNotFound, syscall.ENOENT},
		{&os.PathError{Op: "open", Path: "x", Err: syscall.ENOENT}, syscall.ENOENT},
		{&os.PathError{Op: "write", Path: "x", Err: syscall.ENOSPC}, syscall.ENOSPC},
		{syscall.EDQUOT, syscall.EDQUOT},
		{syscall.ENAMETOOLONG, syscall.ENAMETOOLONG},
		{context.Canceled, syscall.EINTR},
		{errors.New("anything"), syscall.EIO},
		{syscall.EBADF, syscall.EIO},
	} {
		err := c.err
		if err != nil {
			err = wrap(err)
		}
		if got := errno(err); got != c.want {
			t.Errorf("%v: %v, want %v", err, got, c.want)
		}
	}
}

func TestNodeIDs(t *testing.T) {
	seen := map[nodeID]string{}
	add := func(id nodeID, what string) {
		if other, ok := seen[id]; ok {
			t.Errorf("%s and %s are both %#x", what, other, uint64(id))
		}
		if id>>60 != 0 {
			t.Errorf("%s is %#x", what, uint64(id))
		}
		seen[id] = what
	}
	for _, view := range []uint64{0, 1, maxViews - 1} {
		for _, layer := range []int{0, 1, store.MaxLayers - 1} {
			for _, ino := range []overlay.Ino{0, 1, inoMask} {
				for _, merged := range []overlay.NodeID{0, 1 << 63} {
					n := merged | overlay.NodeID(layer)<<32 | overlay.NodeID(ino)
					id := dirID(view, n)
					add(id, fmt.Sprint("dir ", view, n))
					if id.kind() != kindDir || id.view() != view || id.node() != n {
						t.Errorf("%#x is kind %d, view %d, node %#x", uint64(id), id.kind(), id.view(), uint64(id.node()))
					}
				}
			}
		}
	}
	for _, slot := range []uint64{0, 1, slotMask} {
		for _, ino := range []overlay.Ino{0, 1, inoMask} {
			id, wh := fileID(slot, ino), opaqueID(slot, ino)
			add(id, fmt.Sprint("file ", slot, ino))
			add(wh, fmt.Sprint("opaque ", slot, ino))
			if id.kind() != kindFile || id.layer() != slot || id.ino() != ino || id.opaque() ||
				wh.kind() != kindFile || wh.layer() != slot || wh.ino() != ino || !wh.opaque() {
				t.Errorf("file %d of layer %d is %#x or %#x", ino, slot, uint64(id), uint64(wh))
			}
		}
	}
	for typ := typeRepo; typ <= typeStore; typ++ {
		for _, slot := range []uint64{0, 1, maxSynthSlot - 1} {
			for _, file := range []int{0, 1, (store.MaxLayers-1)<<layerBits | (1<<layerBits - 1)} {
				id := synthID(typ, slot, file)
				add(id, fmt.Sprint("synth ", typ, slot, file))
				if id.kind() != kindSynth || id.synthType() != typ || id.slot() != slot || id.file() != file {
					t.Errorf("%d %d %d is %#x", typ, slot, file, uint64(id))
				}
			}
		}
	}
	if rootNode != 1 || rootNode.synthType() != typeFixed {
		t.Error("the root's number is not the protocol's")
	}
	if layerTexts+len(layerFiles) > 1<<layerBits {
		t.Error("more files in a layer's directory than numbers for them")
	}
}

func TestInterned(t *testing.T) {
	var tab interned[string]
	mk := func(s string) func(uint64) *string { return func(uint64) *string { return &s } }
	a, _, _ := tab.intern("a", 3, mk("a"))
	b, _, _ := tab.intern("b", 3, mk("b"))
	if again, v, _ := tab.intern("a", 3, mk("x")); again != a || *v != "a" || a == b {
		t.Errorf("slots %d, %d, then %d %s", a, b, again, *v)
	}
	tab.forget("a")
	if c, _, _ := tab.intern("a", 3, mk("new")); c == a || *tab.get(a) != "a" || *tab.get(c) != "new" {
		t.Errorf("a forgotten key has slot %d again", c)
	}
	if _, _, err := tab.intern("d", 3, mk("d")); err != syscall.ENFILE {
		t.Errorf("past the limit: %v", err)
	}
	if tab.get(9) != nil {
		t.Error("a slot that was not given out")
	}
}

func TestLayerName(t *testing.T) {
	for _, c := range []struct {
		n, count int
		want     string
	}{{0, 1, "0"}, {9, 10, "9"}, {9, 11, "09"}, {3, 101, "003"}} {
		if got := layerName(c.n, c.count); got != c.want {
			t.Errorf("layer %d of %d is %s, want %s", c.n, c.count, got, c.want)
		}
	}
}
