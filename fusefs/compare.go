package fusefs

import (
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
	digest "github.com/opencontainers/go-digest"

	"imagefs/store"
)

// diff/<a>..<b>/ compares two images. Nobody can list all pairs, so diff/ is
// empty for those who list it; a pair is there once somebody looks it up. Its
// directory has the name <64 hex>..<64 hex>, with @n behind an ID for the layers
// 0 to n of the image; all other spellings are links to that.

// side is one of the two that are compared.
type side struct {
	id digest.Digest
	n  int // the topmost of its layers that counts, -1: all do
}

func (s side) String() string {
	if s.n < 0 {
		return s.id.Encoded()
	}
	return s.id.Encoded() + "@" + strconv.Itoa(s.n)
}

// pair is two images that somebody looked up to compare.
type pair struct {
	slot uint64
	a, b side
	gone atomic.Bool

	result atomic.Pointer[compared] // nil: to be worked out

	mu      sync.Mutex // guards what follows
	flight  *flight    // the working out, if it is under way
	roots   [parts]nodeID
	known   uint64 // replies with a node of it that the kernel did not forget
	leaving bool   // it is looked after in a while whether the kernel still knows it
}

func (p *pair) name() string { return p.a.String() + ".." + p.b.String() }

// The files of a pair's directory; the node of one carries its number.
const (
	pairDir = iota
	pairLink
	pairStoreLink // the link in a store's diff/
	pairChanges
	pairSummary
	pairError
)

// pairs are those that the kernel may know.
type pairs struct {
	interned[pair] // by name
	results        results
	lists          openLists
	working        chan struct{} // bounds how many are worked out at once
	waiting        atomic.Int64  // requests that wait for one
}

const (
	// maxCompared is how many pairs are worked out at once.
	maxCompared = 4
	// maxWaiting is how many requests wait for that. Over io_uring each takes one of
	// the kernel's entries, and the last of them would hold up who wants no comparison.
	maxWaiting = 256
)

func (t *pairs) init() { t.working = make(chan struct{}, maxCompared) }

// diffChild finds a name in diff/, or in that of a store.
func (f *fsys) diffChild(part, name string) (nodeID, error) {
	a, b, ok := f.parsePair(part, name)
	if !ok {
		return 0, syscall.ENOENT
	}
	key := a.String() + ".." + b.String()
	file := pairLink
	switch {
	case part != "":
		file = pairStoreLink
	case name == key:
		file = pairDir
	}
	for {
		slot, p, err := f.pairs.intern(key, maxSynthSlot, func(slot uint64) *pair { return &pair{slot: slot, a: a, b: b} })
		if err != nil {
			return 0, err
		}
		if p != nil && p.know() {
			return synthID(typePair, slot, file), nil
		}
		// It was let go of this moment.
	}
}

// know counts a reply to the kernel; false if the pair is gone.
func (p *pair) know() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gone.Load() {
		return false
	}
	p.known++
	return true
}

// parsePair finds the pair that a name means. A tag can have ".." in it, so each
// ".." of the name is tried. No more than one can be right: a tag comes last, and
// to have it in the tag of the one side or of the other takes a ":" on either side.
func (f *fsys) parsePair(part, name string) (a, b side, ok bool) {
	for i := 1; i+2 < len(name); i++ {
		if name[i:i+2] != ".." {
			continue
		}
		if a, ok = f.parseSide(part, name[:i]); !ok {
			continue
		}
		if b, ok = f.parseSide(part, name[i+2:]); ok {
			return a, b, true
		}
	}
	return side{}, side{}, false
}

// parseSide finds what one side of a pair's name means: an ID, a unique prefix of
// one, or a name with "+" for "/"; with @n behind it for the layers 0 to n.
func (f *fsys) parseSide(part, s string) (side, bool) {
	layer := -1
	if i := strings.LastIndexByte(s, '@'); i >= 0 && s[i+1:] != "" && strings.Trim(s[i+1:], "0123456789") == "" {
		n, err := strconv.Atoi(s[i+1:])
		if err != nil {
			return side{}, false
		}
		s, layer = s[:i], n
	}
	id, ok := f.snap.Load().find(part, s)
	if !ok || layer < 0 {
		return side{id, -1}, ok
	}
	img, err := f.imageByID(id)
	if err != nil {
		return side{}, false
	}
	switch last := topLayer(img); {
	case layer > last:
		return side{}, false
	case layer == last:
		layer = -1
	}
	return side{id, layer}, true
}

// topLayer is the number of an image's last layer.
func topLayer(img store.Image) int {
	if img.RawConfig() == nil {
		return len(img.Layers()) - 1
	}
	return len(img.Config().DiffIDs) - 1
}

func (f *fsys) imageByID(id digest.Digest) (store.Image, error) {
	im, err := f.image(id)
	if err != nil {
		return nil, err
	}
	_, img, err := f.imageOf(synthID(typeImage, im.slot, 0))
	return img, err
}

// find finds the image that a name in diff/ means, as store.Resolve does, with
// the names of a store if part is not "".
func (s *snapshot) find(part, name string) (digest.Digest, bool) {
	hex := strings.TrimPrefix(name, "sha256:")
	if id := digest.Digest("sha256:" + hex); len(hex) == 64 && s.has(id) {
		return id, true
	}
	if name != hex {
		return s.prefix(hex)
	}
	of := s.names
	if part != "" {
		p := s.part(part)
		if p == nil {
			return "", false
		}
		of = p.names
	}
	ref := strings.ReplaceAll(name, "+", "/")
	if strings.Contains(ref, "@") {
		r, err := store.FamiliarDigest(ref)
		id := of.Digests[r]
		return id, err == nil && s.has(id)
	}
	if r, err := store.FamiliarTag(ref); err == nil {
		if id := of.Tags[r]; s.has(id) {
			return id, true
		}
	}
	return s.prefix(name)
}

// forgot counts what the kernel forgot of a pair, and lets go of it in a while.
func (f *fsys) forgot(id nodeID, n uint64) {
	p := f.pairs.get(id.slot())
	if p == nil || id.file() > pairStoreLink {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.known -= min(n, p.known); p.known > 0 || p.leaving {
		return
	}
	p.leaving = true
	f.later(f.retireAfter, "let go of a comparison", func() {
		p.mu.Lock()
		p.leaving = false
		idle := p.known == 0
		if idle {
			idle = !p.gone.Swap(true)
		}
		p.mu.Unlock()
		if idle {
			f.dropPair(p)
		}
	})
}

// dropPairs lets go of the pairs that an image is in which was removed.
func (f *fsys) dropPairs(id digest.Digest) {
	for slot := range f.pairs.size() {
		p := f.pairs.get(slot)
		if p == nil || p.a.id != id && p.b.id != id {
			continue
		}
		p.mu.Lock()
		first := !p.gone.Swap(true)
		p.mu.Unlock()
		if !first {
			continue
		}
		f.dropPair(p)
		f.forgetEntry(diffNode, p.name())
		f.later(nameTime/2, "forget a name", func() { f.forgetEntry(diffNode, p.name()) })
	}
}

// dropPair lets go of a pair that was marked as gone.
func (f *fsys) dropPair(p *pair) {
	f.pairs.forget(p.name())
	f.pairs.results.remove(p)
	p.mu.Lock()
	if p.flight != nil {
		p.flight.stop()
	}
	roots := slices.DeleteFunc(p.roots[:], func(id nodeID) bool { return id == 0 })
	p.mu.Unlock()
	for _, r := range roots {
		if v := f.view(r); v != nil {
			v.gone.Store(true)
		}
	}
	f.retirePair(p, roots)
}

func (f *fsys) retirePair(p *pair, roots []nodeID) {
	f.later(f.retireAfter, "let go of a comparison", func() {
		f.readers.drop(f, func(id nodeID) bool {
			return id.kind() == kindSynth && id.synthType() == typePair && id.slot() == p.slot
		})
		if !f.letGo(roots) {
			f.retirePair(p, roots) // a file is still open
			return
		}
		f.pairs.clear(p.slot)
	})
}

// pairOf returns the pair that a node is of.
func (f *fsys) pairOf(id nodeID) (*pair, error) {
	if p := f.pairs.get(id.slot()); p != nil && !p.gone.Load() {
		return p, nil
	}
	return nil, syscall.ESTALE
}

// awaitPair works out what a request for a node of a pair, or for a name in its
// directory, needs to know, until the request is interrupted.
func (f *fsys) awaitPair(cancel <-chan struct{}, id nodeID, name string) fuse.Status {
	if id.kind() != kindSynth || id.synthType() != typePair {
		return fuse.OK
	}
	file := id.file()
	if file == pairDir {
		file = pairFile(name)
	}
	if file != pairChanges && file != pairSummary {
		return fuse.OK
	}
	p, err := f.pairOf(id)
	if err == nil {
		_, err = f.compare(f.ctx(cancel), p)
	}
	if err != nil {
		return f.status("compare", id, err)
	}
	return fuse.OK
}
