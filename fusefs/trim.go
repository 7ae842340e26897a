package fusefs

import (
	"sync/atomic"

	"imagefs/store"
)

// trimEvery is after how many listings, of a directory or a part of one, the
// indexes are taken out of memory: some thousand entries, a few megabytes of
// index. What is used again costs a fault for sixteen pages at a time.
const trimEvery = 1 << 10

// trim bounds what is resident of mapped indexes. The kernel keeps what was
// told of each inode, so most of an index is read once, by whoever walks the
// tree; the pages would stay for as long as the mount.
type trim struct{ listings atomic.Uint32 }

// listed counts a listing.
func (t *trim) listed(f *fsys) {
	if t.listings.Add(1)%trimEvery != 0 {
		return
	}
	for slot := range f.layers.size() {
		if l := f.layers.get(slot); l != nil {
			if m, ok := l.l.(store.Trimmer); ok {
				m.Trim()
			}
		}
	}
}
