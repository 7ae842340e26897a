package containers

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"imagefs/store"
	"imagefs/store/beneath"
)

// place is the images and layers of one driver below one root.
type place struct {
	root   *beneath.Root
	driver string
	index  int // among the places of the store
}

func (p *place) images() string { return p.driver + "-images" }
func (p *place) layers() string { return p.driver + "-layers" }

// files are those that say what a place has.
func (p *place) files() [3]string {
	return [3]string{p.images() + "/images.json", p.layers() + "/layers.json", p.layers() + "/volatile-layers.json"}
}

// stamp tells whether a file is what it was.
type stamp struct {
	ino, size    uint64
	mtime, ctime unix.Timespec
}

type stamps [3]stamp

func (p *place) stamps() (s stamps) {
	for i, f := range p.files() {
		if st, err := p.root.Stat(f); err == nil {
			s[i] = stamp{st.Ino, uint64(st.Size), st.Mtim, st.Ctim}
		}
	}
	return s
}

// tick is more than the times of files are apart that are changed one after the other.
const tick = 50 * time.Millisecond

// settled tells whether what is read now is what will be found as long as the
// stamps are the same: a file that was just changed could change again unseen.
func (s stamps) settled(now time.Time) bool {
	return !slices.ContainsFunc(s[:], func(f stamp) bool {
		return f.ino != 0 && now.Sub(time.Unix(f.ctime.Unix())).Abs() < tick
	})
}

// listing is what a place had at one moment. Immutable.
type listing struct {
	stamps  stamps
	settled bool
	images  []foundImage
	layers  map[string]*layerRecord
	err     error // of the images: nothing is known
	layErr  error // of the layers
}

// foundImage is an image with the ID that it has here.
type foundImage struct {
	*imageRecord
	id     digest.Digest // "" for what cannot be an image
	config string        // the key of its config, "" if there is none
	bad    error
}

// read reads a place, or returns what is known if nothing changed.
func (p *place) read(old *listing) *listing {
	l := &listing{stamps: p.stamps(), layers: map[string]*layerRecord{}}
	if old != nil && old.settled && old.stamps == l.stamps {
		return old
	}
	l.settled = l.stamps.settled(time.Now())
	files := p.files()
	l.err = p.records(files[0], l.addImages)
	for _, f := range files[1:] {
		l.layErr = errors.Join(l.layErr, p.records(f, l.addLayers))
	}
	return l
}

// addImages takes what images.json says.
func (l *listing) addImages(raw []byte) error {
	at := map[string]int{}
	return parse(raw, func(rec *imageRecord, bad error) {
		n, ok := at[rec.ID]
		if !ok {
			n = len(l.images)
			at[rec.ID] = n
			l.images = append(l.images, foundImage{})
		}
		l.images[n] = identify(rec, bad) // of two the last one counts
	})
}

// addLayers takes what layers.json or volatile-layers.json says.
func (l *listing) addLayers(raw []byte) error {
	return parse(raw, func(rec *layerRecord, bad error) {
		if rec.bad = bad; isName(rec.ID) {
			l.layers[rec.ID] = rec
		}
	})
}

// records reads a file; one that is not there has none.
func (p *place) records(file string, parse func([]byte) error) error {
	raw, err := p.root.Read(file, maxRecordFile)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case errors.Is(err, beneath.ErrTooLarge):
		return fmt.Errorf("%w: %w", store.ErrTooLarge, err)
	case err != nil:
		return err
	}
	if err := parse(raw); err != nil {
		return fmt.Errorf("%s/%s: %w", p.root.Name(), file, err)
	}
	return nil
}

// identify finds the ID of an image: the digest of its config. That is its name
// in the store, too, but for images whose layers were pulled in part: those
// have a name of their own, and one config.
func identify(rec *imageRecord, bad error) foundImage {
	f := foundImage{imageRecord: rec, bad: bad}
	own := digest.NewDigestFromEncoded(digest.SHA256, rec.ID)
	hex := store.IsHex64(rec.ID)
	if hex && (slices.Contains(rec.Data, own.String()) || rec.Data == nil) {
		f.id, f.config = own, own.String()
		return f
	}
	var configs []string
	for _, key := range rec.Data {
		if store.IsID(digest.Digest(key)) {
			configs = append(configs, key)
		}
	}
	switch {
	case len(configs) == 1:
		f.id, f.config = digest.Digest(configs[0]), configs[0]
	case hex:
		f.id = own
	}
	return f
}

// catalog is the store at one moment. Immutable.
type catalog struct {
	lists  []*listing // one for each place
	names  store.Names
	images map[digest.Digest]placed
	ids    []digest.Digest // sorted
	err    error           // nothing could be read

	tops func() map[digest.Digest][]top // layers by diff ID
}

// placed is an image and where it is.
type placed struct {
	foundImage
	at int
}

// now returns the store as it is.
func (s *Store) now() *catalog {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.known
	lists := make([]*listing, len(s.places))
	same := old != nil
	for i, p := range s.places {
		var was *listing
		if old != nil {
			was = old.lists[i]
		}
		lists[i] = p.read(was)
		same = same && lists[i] == was
	}
	if !same {
		s.known = newCatalog(lists)
		for i, l := range lists {
			if err := errors.Join(l.err, l.layErr); err != nil {
				s.log.Warn("cannot read all of the store", "place", s.places[i].root.Name(), "err", err)
			}
		}
	}
	return s.known
}

func newCatalog(lists []*listing) *catalog {
	c := &catalog{lists: lists, images: map[digest.Digest]placed{}, names: store.Names{Tags: map[string]digest.Digest{}, Digests: map[string]digest.Digest{}}}
	n := namer{repos: map[string]string{}}
	for at, l := range lists {
		c.err = errors.Join(c.err, l.err)
		taken := maps.Clone(c.names.Tags) // an earlier place goes before a later one
		for _, img := range l.images {
			if img.id == "" {
				continue
			}
			if _, ok := c.images[img.id]; !ok {
				c.images[img.id] = placed{img, at}
			}
			digests, done := img.digests(), map[string]bool{}
			for _, name := range img.Names {
				tag, ref := n.familiar(name)
				if _, ok := taken[tag]; tag != "" && !ok {
					c.names.Tags[tag] = img.id
				}
				if ref != "" {
					c.names.Digests[ref] = img.id
				}
				if repo := n.repo(name); repo != "" && !done[repo] {
					done[repo] = true
					for _, d := range digests {
						c.names.Digests[repo+"@"+d.String()] = img.id
					}
				}
			}
		}
	}
	if len(c.images) > 0 {
		c.err = nil
	}
	c.ids = slices.Sorted(maps.Keys(c.images))
	c.tops = sync.OnceValue(c.findTops)
	return c
}

// digests are those of the manifests that the image was pulled or loaded with.
func (r *imageRecord) digests() []digest.Digest {
	var out []digest.Digest
	add := func(d digest.Digest) {
		if d.Validate() == nil && !slices.Contains(out, d) {
			out = append(out, d)
		}
	}
	add(r.Digest)
	for _, key := range r.Data {
		if strings.HasPrefix(key, "manifest") && len(out) < maxDigests {
			add(r.DataDigest[key])
		}
	}
	return out
}

// maxDigests bounds the repository digests of an image: each has as many as it has manifests, for each name.
const maxDigests = 64

// layer finds a layer by its ID: in the place that wants it, or in another of the same driver.
func (s *Store) layer(c *catalog, from int, id string) (*place, *layerRecord, error) {
	var broken error
	try := func(i int) *layerRecord {
		if s.places[i].driver != s.places[from].driver {
			return nil
		}
		broken = errors.Join(broken, c.lists[i].layErr)
		return c.lists[i].layers[id]
	}
	if rec := try(from); rec != nil {
		return s.places[from], rec, nil
	}
	for i := range s.places {
		if i != from {
			if rec := try(i); rec != nil {
				return s.places[i], rec, nil
			}
		}
	}
	if broken != nil {
		return nil, nil, broken
	}
	return nil, nil, fmt.Errorf("no layer %.80q: %w", id, store.ErrCorrupt)
}

// isName tells whether an ID may be the name of a directory. Engines give 64 hex digits.
func isName(id string) bool {
	if id == "" || len(id) > 128 || id == "l" || id[0] == '.' || id[0] == '-' {
		return false
	}
	for _, c := range []byte(id) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '_', c == '.', c == '-':
		default:
			return false
		}
	}
	return true
}
