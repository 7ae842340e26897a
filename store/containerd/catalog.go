package containerd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	digest "github.com/opencontainers/go-digest"

	"imagefs/store"
	"imagefs/store/platform"
)

// catalog is what the store has in one state of its database. Immutable.
type catalog struct {
	at     stamp
	names  store.Names
	ids    []digest.Digest // sorted
	images map[digest.Digest]*entry
	spaces []string // all namespaces, sorted

	records []record
	found   []*target         // what each record leads to; nil for one that leads to no image
	of      map[string]int    // reference as it is shown → its record
	prefix  map[string]string // namespace → first component of the names in it, "" for none
}

// entry is an image of a catalog.
type entry struct {
	manifests []*manifest   // all with this image's config
	updated   time.Time     // when a name was last given to it
	parent    digest.Digest // the image that it was built on, as Docker's classic builder says; "" if none does
	err       error         // why there is no manifest
}

// manifest is an image manifest that is here.
type manifest struct {
	digest   digest.Digest
	id       digest.Digest // of its image
	config   descriptor
	layers   []descriptor
	platform *runsOn // as an index says, nil if none does
}

// standIn is the ID of an image whose config cannot be read: the digest that
// there is, if it can be an ID.
func standIn(d digest.Digest) digest.Digest {
	if d.Validate() == nil && d.Algorithm() == digest.SHA256 {
		return d
	}
	return digest.FromString(string(d))
}

// imageID is the ID of the image with that config. It is the config's digest
// but for algorithms that hardly anybody uses.
func (s *Store) imageID(config digest.Digest) digest.Digest {
	if config.Algorithm() != digest.SHA256 {
		if raw, err := s.readBlob(config, store.MaxConfigSize); err == nil {
			return digest.FromBytes(raw)
		}
	}
	return standIn(config)
}

// target is what an image name leads to.
type target struct {
	chosen  digest.Digest                   // the image of this machine's platform, or the first
	digests map[digest.Digest]digest.Digest // of indexes and manifests → image ID
}

// all returns the images of all platforms, the chosen one first.
func (t *target) all() []digest.Digest {
	out := []digest.Digest{t.chosen}
	for _, id := range t.digests {
		if !slices.Contains(out, id) {
			out = append(out, id)
		}
	}
	slices.Sort(out[1:])
	return out
}

// catalog returns what the store has now, read anew if the database was changed.
// What it returns must not be changed.
func (s *Store) catalog(ctx context.Context) (*catalog, error) {
	if c := s.fresh(); c != nil {
		return c, nil
	}
	if err := s.build.Take(ctx); err != nil {
		return nil, err
	}
	defer s.build.Give()
	if c := s.fresh(); c != nil {
		return c, nil // somebody else has read it meanwhile
	}
	records, spaces, at, err := s.readImages(ctx)
	if err != nil {
		return nil, err
	}
	b := builder{s: s, ctx: ctx, c: &catalog{at: at, images: map[digest.Digest]*entry{}, spaces: spaces, records: records, found: make([]*target, len(records))},
		targets: map[digest.Digest]*target{}, seen: map[digest.Digest]bool{}, said: map[string]bool{}}
	for i, r := range records {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		b.c.found[i] = b.record(r)
	}
	if err := ctx.Err(); err != nil {
		return nil, err // the last may not have been looked at to its end
	}
	b.c.nameImages(b.say)
	b.c.ids = slices.Sorted(maps.Keys(b.c.images))
	for d := range s.parsed {
		if !b.seen[d] {
			delete(s.parsed, d)
		}
	}
	s.said = b.said
	s.current.Store(b.c)
	return b.c, nil
}

// fresh returns the catalog if it is of the database as it is now, nil otherwise.
func (s *Store) fresh() *catalog {
	c := s.current.Load()
	if c == nil {
		return nil
	}
	if at, err := s.stampOf(metaFile); err != nil || at != c.at {
		return nil
	}
	return c
}

// builder makes a catalog.
type builder struct {
	s       *Store
	ctx     context.Context
	c       *catalog
	targets map[digest.Digest]*target // by the digest of a record; nil for what is no image
	seen    map[digest.Digest]bool    // documents
	size    int64                     // bytes of those
	said    map[string]bool
}

// say logs what there is to say of a record, once as long as it is so: a
// database is read again after every change.
func (b *builder) say(msg string, r record) {
	key := msg + "\x00" + r.space + "\x00" + r.name
	b.said[key] = true
	if !b.s.said[key] {
		b.s.log.Info(msg, "namespace", r.space, "name", r.name, "digest", r.target.Digest)
	}
}

// record takes one image record in; nil for one that leads to no image.
func (b *builder) record(r record) *target {
	t, known := b.targets[r.target.Digest]
	if !known {
		t = b.target(r)
		b.targets[r.target.Digest] = t
	}
	if t == nil {
		return nil
	}
	e := b.c.images[t.chosen]
	if r.updated.After(e.updated) {
		e.updated = r.updated
	}
	if e.parent == "" {
		e.parent = r.parent
	}
	return t
}

// target finds the images that a digest leads to.
func (b *builder) target(r record) *target {
	d := r.target.Digest
	w := walk{b: b, seen: map[digest.Digest]bool{}}
	w.descriptor(r.target, 0)
	t := &target{digests: map[digest.Digest]digest.Digest{}}
	if len(w.found) == 0 {
		if len(w.problems) == 0 {
			b.say("a name leads to something that is no image", r)
			return nil
		}
		// What is left of it is shown under the digest that there is.
		t.chosen = standIn(d)
		err := fmt.Errorf("image %.300q in namespace %s: %w", r.name, r.space, errors.Join(w.problems...))
		if e := b.c.images[t.chosen]; e == nil {
			b.c.images[t.chosen] = &entry{err: err}
		}
		if d.Validate() == nil {
			t.digests[d] = t.chosen
		}
		return t
	}
	for _, m := range w.found {
		e := b.c.images[m.id]
		if e == nil {
			e = &entry{}
			b.c.images[m.id] = e
		}
		if !slices.ContainsFunc(e.manifests, func(o *manifest) bool { return o.digest == m.digest }) {
			e.manifests = append(e.manifests, m)
		}
		t.digests[m.digest] = m.id
	}
	t.chosen = b.choose(w.found).id
	for x := range w.indexes {
		t.digests[x] = t.chosen
	}
	return t
}

// walk goes from a descriptor to the manifests that are here.
type walk struct {
	b        *builder
	seen     map[digest.Digest]bool
	found    []*manifest
	indexes  map[digest.Digest]bool
	problems []error
}

func (w *walk) descriptor(d descriptor, depth int) {
	if w.seen[d.Digest] {
		return
	}
	w.seen[d.Digest] = true
	if len(w.seen) > maxPlatforms || depth > maxNesting {
		w.problems = append(w.problems, fmt.Errorf("index of more than %d manifests, or in more than %d others: %w", maxPlatforms, maxNesting, store.ErrTooLarge))
		return
	}
	doc, err := w.b.s.document(d.Digest)
	if err != nil {
		if d.Platform != nil {
			err = fmt.Errorf("%s: %w", d.Platform, err)
		}
		w.problems = append(w.problems, err)
		return
	}
	if !w.b.seen[d.Digest] {
		if w.b.size += doc.size; w.b.size > maxDocuments {
			w.problems = append(w.problems, fmt.Errorf("blob %s: manifests of more than %d bytes: %w", d.Digest, maxDocuments, store.ErrTooLarge))
			return
		}
		w.b.seen[d.Digest] = true
	}
	switch {
	case doc.Manifests != nil:
		if w.indexes == nil {
			w.indexes = map[digest.Digest]bool{}
		}
		w.indexes[d.Digest] = true
		for _, m := range *doc.Manifests {
			if !m.attestation {
				w.descriptor(m, depth+1)
			}
		}
	case doc.isImage():
		w.found = append(w.found, &manifest{digest: d.Digest, id: w.b.s.imageID(doc.Config.Digest), config: *doc.Config, layers: doc.Layers, platform: d.Platform})
	}
}

// maxTries bounds the manifests of which it is found out whether they are here whole.
const maxTries = 32

// choose returns the manifest that a name stands for: of this machine's platform
// if it is here whole, else one that is here whole.
func (b *builder) choose(all []*manifest) *manifest {
	if len(all) == 1 {
		return all[0]
	}
	rank := make(map[*manifest]int, len(all))
	for n, m := range all {
		rank[m] = unfit
		if m.platform != nil || n < maxTries {
			rank[m] = b.rank(m)
		}
	}
	all = slices.Clone(all)
	slices.SortStableFunc(all, func(x, y *manifest) int { return cmp.Compare(rank[x], rank[y]) })
	return b.s.firstWhole(b.ctx, all, b.c.spaces)
}

// firstWhole returns the first manifest whose image is here whole, or the first.
func (s *Store) firstWhole(ctx context.Context, all []*manifest, spaces []string) *manifest {
	if len(all) > 1 {
		for _, m := range all[:min(len(all), maxTries)] {
			if s.whole(ctx, m, spaces) {
				return m
			}
		}
	}
	return all[0]
}

// host is this machine's platform, but in tests.
var host = platform.Host()

// unfit is the rank of an image for another machine.
const unfit = math.MaxInt

// rank tells how well a manifest's image fits this machine, as the index or
// else the config says: 0 exactly.
func (b *builder) rank(m *manifest) int {
	var p platform.Platform
	if m.platform != nil {
		p = m.platform.platform()
	} else if _, c, err := b.s.config(m); err == nil {
		p = platform.Of(c.OS, c.Architecture, c.Variant)
	}
	if r, fits := host.Rank(p); fits {
		return r
	}
	return unfit
}

// whole tells whether everything is here that a manifest's image is made of.
func (s *Store) whole(ctx context.Context, m *manifest, spaces []string) bool {
	_, c, err := s.config(m)
	if err != nil || len(c.DiffIDs) != len(m.layers) {
		return false
	}
	snapshots, err := s.readSnapshots(ctx, spaces, chains(c))
	if err != nil {
		return false
	}
	for n, chain := range chains(c) {
		if sn, ok := snapshots[chain]; (!ok || sn.apart) && !s.hasBlob(m.layers[n].Digest) {
			return false
		}
	}
	return true
}

// chains are the chain IDs of an image's layers, bottom first.
func chains(c store.Config) []digest.Digest {
	out := make([]digest.Digest, len(c.DiffIDs))
	var chain digest.Digest
	for n, d := range c.DiffIDs {
		chain = store.NextChainID(chain, d)
		out[n] = chain
	}
	return out
}
