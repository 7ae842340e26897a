package fusefs

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	digest "github.com/opencontainers/go-digest"

	"imagefs/fusefs/names"
	"imagefs/store"
	"imagefs/store/report"
)

// snapshot is what the store had at one moment. Immutable.
type snapshot struct {
	at    time.Time
	names store.Names
	// unread is set if the names could not be read
	unread bool
	tree   *names.Tree
	dirs   []string        // directories of names that are kept
	parts  []*partView     // of a store that is made of several
	ids    []digest.Digest // sorted
	refs   report.Refs
	// digests are the repository digests by algorithm and hex.
	digests map[string]map[string]digest.Digest
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
		s.unread = true
		f.ctl.Note("read names", "", err)
		f.log.Error("cannot read the names of the images", "err", err)
	}
	kept := f.keptDirs()
	parts, same := f.lookParts(last, kept)
	s.parts, s.dirs = parts, kept[""]
	if last != nil && same && s.unread == last.unread && slices.Equal(s.ids, last.ids) && slices.Equal(s.dirs, last.dirs) && s.names.Equal(last.names) {
		return last, nil
	}
	s.tree = names.New(s.names.Tags, s.names.Digests, s.dirs...)
	s.refs = report.NewRefs(s.names)
	s.digests = map[string]map[string]digest.Digest{}
	// In order, so that of two images that claim one digest it is always the same that has it.
	for _, ref := range slices.Sorted(maps.Keys(s.names.Digests)) {
		s.addDigest(ref, s.names.Digests[ref])
	}
	for _, d := range slices.Sorted(maps.Keys(s.names.Aliases)) {
		s.addDigest("@"+string(d), s.names.Aliases[d])
	}
	return s, nil
}

// addDigest lets the digest of a reference lead to an image, if it does not lead to one already.
func (s *snapshot) addDigest(ref string, id digest.Digest) {
	alg, hex, ok := splitDigest(ref)
	if !ok {
		return
	}
	if s.digests[alg] == nil {
		s.digests[alg] = map[string]digest.Digest{}
	}
	if _, taken := s.digests[alg][hex]; !taken {
		s.digests[alg][hex] = id
	}
}

func (s *snapshot) has(id digest.Digest) bool {
	_, ok := slices.BinarySearch(s.ids, id)
	return ok
}

// minPrefix is the length of the shortest prefix of an ID that resolves.
const minPrefix = 12

// prefix returns the one ID that starts with hex, or else the one of which an alias does.
func (s *snapshot) prefix(hex string) (digest.Digest, bool) {
	if len(hex) < minPrefix || len(hex) > 64 || strings.Trim(hex, "0123456789abcdef") != "" {
		return "", false
	}
	want := digest.Digest("sha256:" + hex)
	n, _ := slices.BinarySearch(s.ids, want)
	match := func(n int) bool { return n < len(s.ids) && strings.HasPrefix(string(s.ids[n]), string(want)) }
	if !match(n) {
		id, _ := s.names.Alias(string(want))
		return id, id != ""
	}
	if match(n + 1) {
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
	if now != old {
		// Told when the kernel has forgotten what is no longer so.
		defer f.tellChanges(now)
	}
	defer f.settle()
	var gone []digest.Digest
	for _, id := range old.ids {
		if !now.has(id) || f.changed(id, false) {
			f.drop(id)
			gone = append(gone, id)
		}
	}
	for _, id := range now.ids {
		// A lookup that was under way when it went may have left something of it.
		if !old.has(id) {
			f.drop(id)
		}
	}
	f.recheck()
	now.tree.Diff(old.tree, func(s names.Stale) { f.forgetEntry(f.repoNode(repo{path: s.Dir}), s.Name) })
	f.forgetParts(now, old)
	for alg, of := range old.digests {
		slot, ok := f.algs.find(alg)
		for hex, id := range of {
			if ok && now.digests[alg][hex] != id {
				f.forgetEntry(synthID(typeAlg, slot, 0), hex)
			}
		}
	}
	if now == old && len(gone) == 0 {
		return
	}
	f.relist(now, old)
	// A reply that was under way with what was so before may have come to the kernel after this.
	f.later(nameTime/2, "forget names", func() {
		f.relist(now, old)
		for _, id := range gone {
			f.forgetEntry(idsNode, id.Encoded())
		}
	})
}

// relist makes the kernel forget the listings that are others now.
func (f *fsys) relist(now, old *snapshot) {
	now.tree.Relisted(old.tree, func(path string) { f.forgetList(f.repoNode(repo{path: path})) })
	f.relistParts(now, old)
	if !maps.EqualFunc(now.digests, old.digests, maps.Equal[map[string]digest.Digest]) {
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

// changed tells whether an image that was broken is no longer the way it was,
// and if thorough, whether one was removed and came back with its layers elsewhere.
func (f *fsys) changed(id digest.Digest, thorough bool) bool {
	slot, ok := f.images.find(string(id))
	if !ok {
		return false
	}
	im := f.images.get(slot)
	if im == nil {
		return false // it is being let go of
	}
	known := im.known.Load()
	if known == nil {
		return false
	}
	was := *known
	if was.Err() == nil && !thorough {
		return false
	}
	now, err := f.st.Image(f.life, id)
	if err != nil {
		return false
	}
	if was.Err() != nil {
		return now.Err() == nil || now.Err().Error() != was.Err().Error()
	}
	return now.Err() == nil && !slices.EqualFunc(now.Layers(), was.Layers(), func(a, b store.Layer) bool { return a.Key() == b.Key() })
}

// recheckAfter is how long after a change images are looked at that seem to be the same.
const recheckAfter = nameTime / 2

// recheck looks a moment later, once however often it is asked to, for images
// that were removed and loaded again between two looks at the store.
func (f *fsys) recheck() {
	if f.rechecking.Swap(true) {
		return
	}
	f.later(recheckAfter, "look at the images", func() {
		f.rechecking.Store(false)
		f.refreshing.Lock()
		defer f.refreshing.Unlock()
		for slot := range f.images.size() {
			if im := f.images.get(slot); im != nil && !im.gone.Load() && f.changed(im.id, true) {
				f.drop(im.id)
				f.later(nameTime/2, "forget a name", func() { f.forgetEntry(idsNode, im.id.Encoded()) })
			}
		}
	})
}

// drop lets go of an image that was removed or is another one now.
func (f *fsys) drop(id digest.Digest) {
	if slot, ok := f.images.find(string(id)); ok {
		f.images.forget(string(id))
		f.images.get(slot).drop(f)
	}
	f.forgetEntry(idsNode, id.Encoded())
	f.dropPairs(id)
}

// repoNode returns the node of a directory of images/, 0 if nobody ever looked it up.
func (f *fsys) repoNode(r repo) nodeID {
	if r == (repo{}) {
		return imagesNode
	}
	if slot, ok := f.repos.find(r.key()); ok {
		return synthID(typeRepo, slot, 0)
	}
	return 0
}
