package containers

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	digest "github.com/opencontainers/go-digest"

	"imagefs/store"
)

// image is an image as it was found on disk.
type image struct {
	id       digest.Digest
	raw      []byte
	manifest []byte
	config   store.Config
	layers   []store.Layer
	err      error
}

var (
	_ store.Image      = (*image)(nil)
	_ store.Manifester = (*image)(nil)
)

func (i *image) ID() digest.Digest     { return i.id }
func (i *image) RawConfig() []byte     { return i.raw }
func (i *image) Config() store.Config  { return i.config }
func (i *image) Parent() digest.Digest { return "" }
func (i *image) LastTagged() time.Time { return time.Time{} }
func (i *image) Layers() []store.Layer { return i.layers }
func (i *image) Err() error            { return i.err }
func (i *image) RawManifest() []byte   { return i.manifest }

// fail keeps the first error.
func (i *image) fail(err error) {
	if i.err == nil {
		i.err = fmt.Errorf("image %s: %w", i.id, err)
	}
}

// Image implements store.Store.
func (s *Store) Image(ctx context.Context, id digest.Digest) (store.Image, error) {
	if !store.IsID(id) {
		return nil, fmt.Errorf("image ID %.80q: %w", string(id), store.ErrInvalid)
	}
	return s.image(s.now(), id)
}

// image returns an image of a catalog.
func (s *Store) image(c *catalog, id digest.Digest) (store.Image, error) {
	if c.err != nil {
		return nil, c.err
	}
	found, ok := c.images[id]
	if !ok {
		return nil, fmt.Errorf("no such image: %s: %w", id, store.ErrNotFound)
	}
	img := &image{id: id}
	if found.bad != nil {
		img.fail(fmt.Errorf("its record: %w", found.bad))
	}
	p := s.places[found.at]
	manifest, _ := p.data(found.ID, "manifest", store.MaxConfigSize)
	raw, err := p.data(found.ID, found.config, store.MaxConfigSize)
	switch {
	case found.config == "" && isList(manifest):
		img.fail(fmt.Errorf("it is a list of the manifests of several images: %w", store.ErrUnsupported))
	case found.config == "":
		img.fail(fmt.Errorf("it has no config: %w", store.ErrCorrupt))
	case err != nil:
		img.fail(fmt.Errorf("its config: %w", err))
	case digest.FromBytes(raw) != id:
		img.fail(fmt.Errorf("its config hashes to %s: %w", digest.FromBytes(raw), store.ErrCorrupt))
	default:
		img.raw = raw
		if configOf(manifest) == id {
			img.manifest = manifest
		}
		if img.config, err = store.ParseConfig(raw); err != nil {
			img.fail(err)
			break
		}
		s.fill(c, found, img)
	}
	return img, nil
}

// fill gives the image its layers.
func (s *Store) fill(c *catalog, found placed, img *image) {
	diffs := img.config.DiffIDs
	layers, rest := s.stack(c, found.at, found.Layer, diffs)
	if rest != "" {
		img.fail(fmt.Errorf("the store has a layer %.80q below the %d of its config: %w", rest, len(diffs), store.ErrCorrupt))
	}
	for n, l := range layers {
		img.layers = append(img.layers, l)
		if l.broken != nil {
			img.fail(fmt.Errorf("layer %d: %w", n, l.broken))
		}
	}
}

// data reads what is kept for an image under a key.
func (p *place) data(id, key string, limit int64) ([]byte, error) {
	name := dataName(key)
	if !isName(id) || name == "" {
		return nil, fmt.Errorf("data %.80q of image %.80q: %w", key, id, store.ErrCorrupt)
	}
	b, err := p.root.Read(p.images()+"/"+id+"/"+name, limit)
	if err != nil && !errors.Is(err, fs.ErrPermission) {
		err = fmt.Errorf("%w: %w", store.ErrCorrupt, err)
	}
	return b, err
}

// dataName is the name of the file for a key, "" if it has none.
func dataName(key string) string {
	plain := func(c rune) bool { return c == '.' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' }
	if strings.Trim(key, ".") == "" || strings.ContainsFunc(key, func(c rune) bool { return !plain(c) }) {
		key = "=" + base64.StdEncoding.EncodeToString([]byte(key))
	}
	if key == "=" || len(key) > 255 || strings.Contains(key, "/") {
		return ""
	}
	return key
}

// configOf returns the digest of the config that a manifest names, "" if it names none.
func configOf(manifest []byte) digest.Digest {
	var m struct {
		Config struct {
			Digest digest.Digest `json:"digest"`
		} `json:"config"`
	}
	if json.Unmarshal(manifest, &m) != nil {
		return ""
	}
	return m.Config.Digest
}

// isList tells whether a manifest names others.
func isList(manifest []byte) bool {
	var m struct {
		Manifests json.RawMessage `json:"manifests"`
	}
	return json.Unmarshal(manifest, &m) == nil && len(m.Manifests) > 0
}
