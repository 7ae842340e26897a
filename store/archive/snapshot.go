package archive

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"imagefs/store"
	"imagefs/store/beneath"
	blobs "imagefs/store/blob"
	"imagefs/store/layer"
)

// identity tells a file from one that replaced it, and from itself after it was
// written to. Of a layout it is that of the files that list the images.
type identity struct{ file, index fileIdentity }

type fileIdentity struct {
	dev, ino    uint64
	size        int64
	mtime, nsec int64
}

func identityOf(st *unix.Stat_t) fileIdentity {
	return fileIdentity{dev: uint64(st.Dev), ino: st.Ino, size: st.Size, mtime: st.Mtim.Sec, nsec: st.Mtim.Nsec}
}

// identify looks at the archive.
func identify(path string) (id identity, err error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return id, fmt.Errorf("stat %s: %w", path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		id.file = identityOf(&st)
		return id, nil
	}
	var one, other unix.Stat_t
	e1, e2 := unix.Stat(path+"/"+ociIndex, &one), unix.Stat(path+"/"+dockerManifest, &other)
	if e1 != nil && e2 != nil {
		return id, fmt.Errorf("stat %s/%s: %w", path, ociIndex, e1)
	}
	if e1 == nil {
		id.file = identityOf(&one)
	}
	if e2 == nil {
		id.index = identityOf(&other)
	}
	return id, nil
}

// origin names the bytes of a file for the cache.
func (f fileIdentity) origin() string {
	return fmt.Sprintf("%d %d %d %d.%09d", f.dev, f.ino, f.size, f.mtime, f.nsec)
}

// snapshot is what an archive held at one moment. Immutable.
type snapshot struct {
	id       identity
	images   map[digest.Digest]*found
	ids      []digest.Digest
	names    store.Names
	problems []error // with what is no image
	held     *held
	layers   map[string]*blobs.Layer // by chain and place
}

// found is an image of an archive.
type found struct {
	*image
	blobs []*blobs.Layer
}

// view returns the image as it is known to be now.
func (f *found) view() *storeImage {
	out := &storeImage{f: f, err: f.err}
	for _, l := range f.blobs {
		out.layers = append(out.layers, l)
		if err := l.Err(); err != nil && out.err == nil {
			out.err = fmt.Errorf("image %s: %w", f.id, err)
		}
	}
	return out
}

// storeImage is an image as Store.Image gives it.
type storeImage struct {
	f      *found
	layers []store.Layer
	err    error
}

var _ store.Image = (*storeImage)(nil)

func (i *storeImage) ID() digest.Digest     { return i.f.id }
func (i *storeImage) RawConfig() []byte     { return i.f.config }
func (i *storeImage) Config() store.Config  { return i.f.cfg }
func (i *storeImage) Parent() digest.Digest { return i.f.parent }
func (i *storeImage) LastTagged() time.Time { return time.Time{} }
func (i *storeImage) Layers() []store.Layer { return i.layers }
func (i *storeImage) Err() error            { return i.err }

// places finds the files of an archive.
type places interface {
	content
	// place tells where a file lies: its bytes at random, how many there are,
	// and what names them for the cache. scanned, if not nil, is the file as a
	// layer that was read already.
	place(name string) (p place, err error)
}

type place struct {
	key     string // the same for the same file
	origin  string
	size    int64
	open    func() (blobs.Data, error)
	scanned *layer.Streamed
}

// read reads what the archive holds, in the caller's turn at reading.
func (s *Store) read(ctx context.Context, id identity) (*snapshot, error) {
	n := &snapshot{id: id, held: &held{}, images: map[digest.Digest]*found{}, layers: map[string]*blobs.Layer{},
		names: store.Names{Tags: map[string]digest.Digest{}, Digests: map[string]digest.Digest{}}}
	hold(n)
	ld := &load{ctx: ctx, dst: hashOnly{}, in: hashOnly{}, log: s.log, lim: s.opts.Limits, survey: true, want: host}
	c, err := s.places(ld, n)
	if err == nil {
		var images []*image
		if images, err = ld.surveyImages(c, n); err == nil {
			for _, img := range images {
				n.add(s.blobs, c, img)
			}
		}
	}
	if err != nil {
		n.close()
		return nil, ld.final(err)
	}
	slices.Sort(n.ids)
	return n, nil
}

// places opens the archive.
func (s *Store) places(ld *load, n *snapshot) (places, error) {
	st, err := os.Stat(s.path)
	if err != nil {
		return nil, err
	}
	if st.IsDir() {
		root, err := beneath.Open(s.path)
		if err != nil {
			return nil, err
		}
		return &dirPlaces{dirContent{ld: ld, root: root}}, n.held.add(root)
	}
	f, err := openStill(s.path)
	if err != nil {
		return nil, err
	}
	if err := n.held.add(f); err != nil {
		return nil, err
	}
	return s.filePlaces(ld, n, f)
}

// add adds an image with its layers.
func (n *snapshot) add(cache *blobs.Cache, c places, img *image) {
	f := &found{image: img}
	if n.images[img.id] != nil {
		return
	}
	n.images[img.id] = f
	n.ids = append(n.ids, img.id)
	for _, name := range img.names {
		n.names.Tags[name] = img.id
	}
	for _, name := range img.names {
		for _, d := range img.digests {
			if ref, err := store.FamiliarDigest(repository(name) + "@" + d.String()); err == nil {
				n.names.Digests[ref] = img.id
			}
		}
	}
	if img.config == nil {
		return
	}
	var lower []store.Layer
	var chain digest.Digest
	for i, diff := range img.cfg.DiffIDs {
		chain = store.NextChainID(chain, diff)
		l := n.layer(cache, c, img, i, chain, lower[:len(lower):len(lower)])
		f.blobs, lower = append(f.blobs, l), append(lower, l)
	}
	cache.Stack(f.blobs)
}

func repository(tagged string) string { return tagged[:strings.LastIndexByte(tagged, ':')] }

// layer makes one layer of an image, or finds the one that another image has.
func (n *snapshot) layer(cache *blobs.Cache, c places, img *image, i int, chain digest.Digest, lower []store.Layer) *blobs.Layer {
	spec := blobs.Spec{DiffID: img.cfg.DiffIDs[i], ChainID: chain, Lower: lower}
	key := chain.String() + "\x00"
	if i >= len(img.layers) {
		spec.Err = fmt.Errorf("layer %d, %s: %w: %w", i, spec.DiffID, errMissing, store.ErrCorrupt)
		spec.Origin = "missing"
	} else {
		ref := img.layers[i]
		p, err := c.place(ref.name)
		switch {
		case errors.Is(err, errMissing) && ref.elsewhere != "":
			err = fmt.Errorf("its content is not in the archive but at %.300q; pull the image instead: %w", ref.elsewhere, store.ErrCorrupt)
		case errors.Is(err, errMissing):
			err = fmt.Errorf("%w: %w", errMissing, store.ErrCorrupt)
		case err == nil && ref.size >= 0 && ref.size != p.size:
			err = fmt.Errorf("blob %s has %d bytes, its manifest says %d: %w", ref.digest, p.size, ref.size, store.ErrCorrupt)
		}
		if err != nil {
			err = fmt.Errorf("layer %d, %.200q: %w", i, ref.name, err)
			p.key = ref.name
		}
		key += p.key
		spec.Blob, spec.Size, spec.Origin, spec.Scanned, spec.Err = ref.digest, p.size, p.origin, p.scanned, err
		open := p.open // and not p, which has what was scanned
		spec.Open = func() (blobs.Data, error) { return n.open(open) }
	}
	if l := n.layers[key]; l != nil {
		return l
	}
	l := cache.Layer(spec)
	n.layers[key] = l
	return l
}

// open opens the bytes of a layer, which have the snapshot from then on, as the layer has.
func (n *snapshot) open(bytes func() (blobs.Data, error)) (blobs.Data, error) {
	d, err := bytes()
	if err != nil {
		return nil, err
	}
	if err := n.held.add(d); err != nil {
		return nil, err
	}
	return d, nil
}

func (n *snapshot) close() {
	for _, l := range n.layers {
		l.Close()
	}
	n.held.close()
}
