package containerd

import (
	"context"
	"fmt"
	"time"

	digest "github.com/opencontainers/go-digest"

	"imagefs/store"
)

// image is an image as it was found.
type image struct {
	id       digest.Digest
	raw      []byte
	manifest []byte
	config   store.Config
	updated  time.Time
	parent   digest.Digest
	layers   []store.Layer
	err      error

	s *Store
}

var (
	_ store.Image      = (*image)(nil)
	_ store.Manifester = (*image)(nil)
	_ store.Grouped    = (*image)(nil)
)

func (i *image) ID() digest.Digest     { return i.id }
func (i *image) RawConfig() []byte     { return i.raw }
func (i *image) RawManifest() []byte   { return i.manifest }
func (i *image) Config() store.Config  { return i.config }
func (i *image) Parent() digest.Digest { return i.parent }
func (i *image) LastTagged() time.Time { return i.updated }
func (i *image) Layers() []store.Layer { return i.layers }

// Group implements store.Grouped: the other platforms of the indexes that stand for it.
func (i *image) Group() (out []digest.Digest) {
	c, err := i.s.catalog(context.Background())
	if err != nil {
		return nil
	}
	for _, t := range c.found {
		if t != nil && t.chosen == i.id {
			out = append(out, t.all()[1:]...)
		}
	}
	return out
}

// Err implements store.Image. What is wrong with a blob may come out when it is read.
func (i *image) Err() error {
	if i.err != nil {
		return i.err
	}
	for n, l := range i.layers {
		if rec := l.(*layerRec); rec.files == nil && rec.tar != nil && rec.tar.Err() != nil {
			return fmt.Errorf("image %s: layer %d: %w", i.id, n, rec.tar.Err())
		}
	}
	return nil
}

// Graph tells how docker inspect names the snapshotter, which keeps its places to itself.
func (i *image) Graph() (driver string, data map[string]string) { return snapshotter, nil }

// Image implements store.Store.
func (s *Store) Image(ctx context.Context, id digest.Digest) (store.Image, error) {
	if id.Validate() != nil || id.Algorithm() != digest.SHA256 {
		return nil, fmt.Errorf("image ID %.80q: %w", string(id), store.ErrInvalid)
	}
	c, err := s.catalog(ctx)
	if err != nil {
		return nil, err
	}
	e := c.images[id]
	if e == nil {
		return nil, fmt.Errorf("no such image: %s: %w", id, store.ErrNotFound)
	}
	img := &image{id: id, updated: e.updated, parent: c.names.Aliases[e.parent], s: s}
	if len(e.manifests) == 0 {
		img.err = e.err
		return img, nil
	}
	m := s.firstWhole(ctx, e.manifests, c.spaces)
	err = s.fill(ctx, img, m, c.spaces)
	if ctx.Err() != nil {
		return nil, ctx.Err() // what was not looked up to its end is not broken
	}
	if err != nil {
		img.err = fmt.Errorf("image %s: %w", id, err)
	}
	return img, nil
}

// config reads and parses the config of a manifest.
func (s *Store) config(m *manifest) ([]byte, store.Config, error) {
	raw, err := s.readBlob(m.config.Digest, store.MaxConfigSize)
	if err != nil {
		return nil, store.Config{}, fmt.Errorf("config: %w", err)
	}
	if err = store.FewValues(raw, maxValues); err == nil {
		var c store.Config
		if c, err = store.ParseConfig(raw); err == nil {
			return raw, c, nil
		}
	}
	return raw, store.Config{}, fmt.Errorf("blob %s: %w", m.config.Digest, err)
}

// fill reads what an image is made of. What is intact is there also if it returns an error.
func (s *Store) fill(ctx context.Context, img *image, m *manifest, spaces []string) (err error) {
	img.manifest, err = s.readBlob(m.digest, maxDocument)
	raw, config, cerr := s.config(m)
	if raw != nil && digest.FromBytes(raw) == img.id {
		img.raw = raw
	}
	if cerr != nil {
		return cerr
	}
	img.config = config
	layers := m.layers
	if len(layers) != len(config.DiffIDs) {
		err = fmt.Errorf("manifest %s lists %d layers, its config %d: %w", m.digest, len(layers), len(config.DiffIDs), store.ErrCorrupt)
		layers = nil
	}
	all := chains(config)
	snapshots, serr := s.readSnapshots(ctx, spaces, all)
	if serr != nil && ctx.Err() == nil {
		s.log.Warn("snapshots cannot be looked up", "image", img.id, "err", serr)
	}
	for n, diff := range config.DiffIDs {
		spec := layerSpec{diff: diff, chain: all[n], below: img.layers}
		if sn, ok := snapshots[all[n]]; ok {
			spec.snapshot = &sn
		}
		if layers != nil {
			spec.blob = &layers[n]
		}
		l := s.layer(spec)
		if l.broken != nil && err == nil {
			err = fmt.Errorf("layer %d: %w", n, l.broken)
			if serr != nil {
				err = fmt.Errorf("%w (and %w)", err, serr)
			}
		}
		img.layers = append(img.layers, l)
	}
	return err
}
