package fusefs

import (
	"container/list"
	"context"
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

	mu      sync.Mutex         // guards what follows
	flight  *flight[*compared] // the working out, if it is under way
	roots   [parts]nodeID
	known   uint64 // replies with a node of it that the kernel did not forget
	dirs    uint64 // those of them with its directory
	leaving bool   // it is looked after in a while whether the kernel still knows it
	evicted bool   // it goes once the kernel has forgotten its directory
	cleared bool   // it is in the table no more
}

// idle tells whether the kernel knows nothing of the pair that would be missed:
// names of links to it are looked up each time. p.mu is held.
func (p *pair) idle() bool { return p.known == 0 || p.evicted && p.dirs == 0 }

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

	recent recentPairs
}

const (
	// maxCompared is how many pairs are worked out at once.
	maxCompared = 4
	// maxWaiting is how many requests wait for that. Over io_uring each takes one of
	// the kernel's entries, and the last of them would hold up who wants no comparison.
	maxWaiting = 256
)

func (t *pairs) init() {
	t.working = make(chan struct{}, maxCompared)
	t.recent = recentPairs{limit: maxPairs, of: map[*pair]*list.Element{}, owing: map[uint64]*pair{}}
}

// diffChild finds a name in diff/, or in that of a store.
func (f *fsys) diffChild(ctx context.Context, part, name string) (nodeID, error) {
	a, b, err := f.parsePair(ctx, part, name)
	if err != nil {
		return 0, err
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
		if p != nil && p.know(file) {
			if old := f.pairs.recent.used(p); old != nil {
				f.evict(old)
			}
			if p.gone.Load() {
				f.pairs.recent.remove(p) // it was let go of this moment
			}
			return synthID(typePair, slot, file), nil
		}
		// It was let go of this moment.
	}
}

// know counts a reply to the kernel; false if the pair is gone.
func (p *pair) know(file int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gone.Load() {
		return false
	}
	p.evicted = false
	p.known++
	if file == pairDir {
		p.dirs++
	}
	return true
}

// parsePair finds the pair that a name means. A tag can have ".." in it, so each
// ".." of the name is tried. No more than one can be right: a tag comes last, and
// to have it in the tag of the one side or of the other takes a ":" on either side.
// ENOENT if it means none; other errors say why that cannot be told.
func (f *fsys) parsePair(ctx context.Context, part, name string) (a, b side, err error) {
	for i := 1; i+2 < len(name); i++ {
		if name[i:i+2] != ".." {
			continue
		}
		if a, err = f.parseSide(ctx, part, name[:i]); err == nil {
			b, err = f.parseSide(ctx, part, name[i+2:])
		}
		if err != syscall.ENOENT {
			return a, b, err
		}
	}
	return side{}, side{}, syscall.ENOENT
}

// parseSide finds what one side of a pair's name means: an ID, a unique prefix of
// one, or a name with "+" for "/"; with @n behind it for the layers 0 to n.
func (f *fsys) parseSide(ctx context.Context, part, s string) (side, error) {
	layer := -1
	if i := strings.LastIndexByte(s, '@'); i >= 0 && s[i+1:] != "" && strings.Trim(s[i+1:], "0123456789") == "" {
		n, err := strconv.Atoi(s[i+1:])
		if err != nil {
			return side{}, syscall.ENOENT
		}
		s, layer = s[:i], n
	}
	id, ok := f.snap.Load().find(part, s)
	if !ok {
		return side{}, syscall.ENOENT
	}
	if layer < 0 {
		return side{id, -1}, nil
	}
	img, err := f.imageByID(ctx, id)
	if err != nil {
		return side{}, err
	}
	switch last := topLayer(img); {
	case layer > last:
		return side{}, syscall.ENOENT
	case layer == last:
		layer = -1
	}
	return side{id, layer}, nil
}

// topLayer is the number of an image's last layer.
func topLayer(img store.Image) int {
	if img.RawConfig() == nil {
		return len(img.Layers()) - 1
	}
	return len(img.Config().DiffIDs) - 1
}

func (f *fsys) imageByID(ctx context.Context, id digest.Digest) (store.Image, error) {
	im, err := f.image(id)
	if err != nil {
		return nil, err
	}
	_, img, err := f.imageOf(ctx, synthID(typeImage, im.slot, 0))
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

// pairOf returns the pair that a node is of.
func (f *fsys) pairOf(id nodeID) (*pair, error) {
	if p := f.pairs.get(id.slot()); p != nil && !p.gone.Load() {
		return p, nil
	}
	return nil, syscall.ESTALE
}

// awaitPair works out what a request for a node of a pair, or for a name in its
// directory, needs to know, until the request is interrupted.
func (f *fsys) awaitPair(ctx context.Context, id nodeID, name string) fuse.Status {
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
		_, err = f.compare(ctx, p)
	}
	if err != nil {
		return f.status("compare", id, err)
	}
	return fuse.OK
}
