package fusefs

import (
	"time"

	"imagefs/store"
)

// retireAfter is how long what belonged to a removed image can still be found, and
// how long after that its memory is kept: requests under way may still use it.
const retireAfter = time.Minute

// retire lets go of the views of an image that was removed, and of the layers
// that no other image shows, once nobody can be using them.
func (f *fsys) retire(im *image, roots []nodeID) {
	f.later(f.retireAfter, "let go of an image", func() {
		f.readers.drop(f, func(id nodeID) bool {
			if id.kind() != kindSynth {
				return false
			}
			// The contents of its volatile files were forgotten when it went.
			return id.synthType() == typeLayer && id.slot() == im.slot || id.synthType() == typeText && f.texts.get(id.slot()) == nil
		})
		if im.open.Load() == 0 && f.letGo(roots) {
			f.images.clear(im.slot)
			return
		}
		f.retire(im, roots) // a file is still open
	})
}

// letGo clears the views; false if a file of a layer that would go with them is open.
func (f *fsys) letGo(roots []nodeID) bool {
	f.using.Lock()
	defer f.using.Unlock()
	uses := map[*layerSlot]int{}
	for _, r := range roots {
		if v := f.view(r); v != nil {
			for _, l := range v.layers {
				uses[l]++
			}
		}
	}
	dying := map[uint64]bool{}
	for l, n := range uses {
		dying[l.slot] = l.views == n
	}
	// On a mount without OPEN nothing tells whether a file is open: what is kept open goes.
	f.readers.drop(f, func(id nodeID) bool { return id.kind() == kindFile && dying[id.layer()] })
	for l, n := range uses {
		if l.views == n && l.open.Load() > 0 {
			return false
		}
	}
	for _, r := range roots {
		f.viewsOf(r).clear(r.view())
	}
	var dead []store.Layer
	for l, n := range uses {
		if l.views -= n; l.views > 0 {
			continue
		}
		f.layers.forget(l.l.Key())
		f.layers.clear(l.slot)
		dead = append(dead, l.l)
	}
	f.forget(dead)
	return true
}

// forget lets the store free layers that nobody finds any more: not at once,
// since requests that are under way found them before.
func (f *fsys) forget(dead []store.Layer) {
	forgetter, ok := f.st.(store.Forgetter)
	if !ok || len(dead) == 0 {
		return
	}
	f.later(f.retireAfter, "let go of layers", func() {
		f.using.Lock()
		defer f.using.Unlock()
		for _, l := range dead {
			if _, back := f.layers.find(l.Key()); !back {
				forgetter.Forget(l)
			}
		}
	})
}
