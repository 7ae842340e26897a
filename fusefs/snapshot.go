package fusefs

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	digest "github.com/opencontainers/go-digest"

	"imagefs/fusefs/names"
	"imagefs/store"
	"imagefs/store/report"
)

// snapshot is what the store had at one moment. Immutable.
type snapshot struct {
	at    time.Time
	names store.Names
	tree  *names.Tree
	ids   []digest.Digest // sorted
	refs  report.Refs
}

// look asks the store. It returns last if that is what the store still has. Names that cannot be read are noted and hide no image.
func (f *fsys) look(last *snapshot) (*snapshot, error) {
	s := &snapshot{at: time.Now()}
	ids, err := f.st.IDs(f.life)
	if err != nil {
		return nil, err
	}
	s.ids = ids
	if s.names, err = f.st.Names(f.life); err != nil {
		f.ctl.Note("read names", "", err)
		f.log.Error("cannot read the names of the images", "err", err)
	}
	if last != nil && slices.Equal(s.ids, last.ids) && maps.Equal(s.names.Tags, last.names.Tags) && maps.Equal(s.names.Digests, last.names.Digests) {
		return last, nil
	}
	s.tree = names.New(s.names.Tags, s.names.Digests)
	s.refs = report.NewRefs(s.names)
	return s, nil
}

func (s *snapshot) has(id digest.Digest) bool {
	_, ok := slices.BinarySearch(s.ids, id)
	return ok
}

// minPrefix is the length of the shortest prefix of an ID that resolves.
const minPrefix = 12

// prefix returns the one ID that starts with hex.
func (s *snapshot) prefix(hex string) (digest.Digest, bool) {
	if len(hex) < minPrefix || len(hex) >= 64 || strings.Trim(hex, "0123456789abcdef") != "" {
		return "", false
	}
	want := digest.Digest("sha256:" + hex)
	n, _ := slices.BinarySearch(s.ids, want)
	match := func(n int) bool { return n < len(s.ids) && strings.HasPrefix(string(s.ids[n]), string(want)) }
	if !match(n) || match(n+1) {
		return "", false
	}
	return s.ids[n], true
}

// refresh looks at the store again and lets the kernel forget what is no longer so.
func (f *fsys) refresh() {
	f.refreshing.Lock()
	defer f.refreshing.Unlock()
	now, err := f.look(f.snap.Load())
	if err != nil {
		if !errors.Is(err, context.Canceled) {
			f.ctl.Note("look at the store", "", err)
			f.log.Error("cannot look at the store", "err", err)
		}
		return
	}
	old := f.snap.Swap(now)
	var gone []digest.Digest
	for _, id := range old.ids {
		if !now.has(id) || f.changed(id) {
			f.drop(id)
			gone = append(gone, id)
		}
	}
	now.tree.Diff(old.tree, func(s names.Stale) { f.forgetEntry(f.repoNode(s.Dir), s.Name) })
	for ref := range old.names.Digests {
		if _, d, _ := strings.Cut(ref, "@"); now.names.Digests[ref] != old.names.Digests[ref] {
			alg, hex, _ := strings.Cut(d, ":")
			if slot, ok := f.algs.find(alg); ok {
				f.forgetEntry(synthID(typeAlg, slot, 0), hex)
			}
		}
	}
	if now == old && len(gone) == 0 {
		return
	}
	f.relist(now, old)
	// A reply that was under way with what was so before may have come to the kernel after this.
	time.AfterFunc(nameTime/2, func() {
		f.relist(now, old)
		for _, id := range gone {
			f.forgetEntry(idsNode, id.Encoded())
		}
	})
}

// relist makes the kernel forget the listings that are others now, on a mount where it keeps them.
func (f *fsys) relist(now, old *snapshot) {
	if !f.stateless() {
		return
	}
	now.tree.Relisted(old.tree, func(path string) { f.forgetList(f.repoNode(path)) })
	if !maps.Equal(now.names.Digests, old.names.Digests) {
		f.forgetList(digestsNode)
		for slot := range f.algs.size() {
			f.forgetList(synthID(typeAlg, slot, 0))
		}
	}
	if !slices.Equal(now.ids, old.ids) {
		f.forgetList(idsNode)
	}
	// An image's directory has tags and digests if there are any.
	for slot := range f.images.size() {
		im := f.images.get(slot)
		if im == nil || im.gone.Load() {
			continue
		}
		a, b := now.refs[im.id], old.refs[im.id]
		if (len(a.Tags) == 0) != (len(b.Tags) == 0) || (len(a.Digests) == 0) != (len(b.Digests) == 0) {
			f.forgetList(synthID(typeImage, slot, 0))
		}
	}
}

// forgetList makes the kernel forget what it keeps of a directory.
func (f *fsys) forgetList(dir nodeID) {
	if srv := f.srv.Load(); dir != 0 && srv != nil {
		srv.InodeNotify(uint64(dir), 0, 0)
	}
}

// changed tells whether an image that was broken is no longer the way it was.
func (f *fsys) changed(id digest.Digest) bool {
	slot, ok := f.images.find(string(id))
	if !ok {
		return false
	}
	im := f.images.get(slot)
	im.mu.Lock()
	was := im.img
	im.mu.Unlock()
	if was == nil || was.Err() == nil {
		return false
	}
	now, err := f.st.Image(f.life, id)
	return err == nil && (now.Err() == nil || now.Err().Error() != was.Err().Error())
}

// drop lets go of an image that was removed or is another one now.
func (f *fsys) drop(id digest.Digest) {
	if slot, ok := f.images.find(string(id)); ok {
		f.images.forget(string(id))
		f.images.get(slot).drop(f)
	}
	f.forgetEntry(idsNode, id.Encoded())
}

// repoNode returns the node of a directory of images/, 0 if nobody ever looked it up.
func (f *fsys) repoNode(path string) nodeID {
	if path == "" {
		return imagesNode
	}
	if slot, ok := f.repos.find(path); ok {
		return synthID(typeRepo, slot, 0)
	}
	return 0
}

// forgetEntry makes the kernel forget a name. Called outside of requests that
// hold a lock on the directory in the kernel.
func (f *fsys) forgetEntry(dir nodeID, name string) {
	srv := f.srv.Load()
	if dir == 0 || name == "" || srv == nil {
		return
	}
	if st := srv.EntryNotify(uint64(dir), name); st != fuse.OK && st != fuse.ENOENT && st != fuse.ENODEV {
		f.log.Debug("invalidate", "dir", dir, "name", name, "status", st)
	}
}
