package fusefs

import (
	"time"

	"imagefs/store"
)

// retireAfter is how long what belonged to a removed image is kept: requests
// that are under way may still use the memory of its indexes.
const retireAfter = time.Minute

// retire lets go of the views of an image that was removed, and of the layers
// that no other image shows, once nobody can be using them.
func (f *fsys) retire(im *image, roots []nodeID) {
	time.AfterFunc(f.retireAfter, func() {
		if f.life.Err() != nil {
			return
		}
		f.readers.drop(f, func(id nodeID) bool {
			return id.synthType() == typeLayer && id.kind() == kindSynth && id.slot() == im.slot
		})
		if f.letGo(roots) {
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
		if v := f.views.get(r.view()); v != nil {
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
		f.views.clear(r.view())
	}
	forgetter, _ := f.st.(store.Forgetter)
	for l, n := range uses {
		if l.views -= n; l.views > 0 {
			continue
		}
		f.layers.forget(l.l.Key())
		f.layers.clear(l.slot)
		if forgetter != nil {
			forgetter.Forget(l.l)
		}
	}
	return true
}
