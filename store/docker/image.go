package docker

import (
	"context"
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
	root       string // of the store
	at         *layout
	id         digest.Digest
	raw        []byte
	config     store.Config
	parent     digest.Digest
	lastTagged time.Time
	layers     []store.Layer
	err        error
}

var _ store.Image = (*image)(nil)

func (i *image) ID() digest.Digest     { return i.id }
func (i *image) RawConfig() []byte     { return i.raw }
func (i *image) Config() store.Config  { return i.config }
func (i *image) Parent() digest.Digest { return i.parent }
func (i *image) LastTagged() time.Time { return i.lastTagged }
func (i *image) Layers() []store.Layer { return i.layers }
func (i *image) Err() error            { return i.err }

// Image implements store.Store.
func (s *Store) Image(ctx context.Context, id digest.Digest) (store.Image, error) {
	if !store.IsID(id) {
		return nil, fmt.Errorf("image ID %.80q: %w", string(id), store.ErrInvalid)
	}
	img := &image{root: s.path, at: &s.at, id: id}
	raw, err := s.config(id)
	switch {
	case errors.Is(err, store.ErrNotFound):
		k, rerr := s.namesNow()
		if rerr != nil || !k.repos.has(id) {
			return nil, err
		}
		img.err = fmt.Errorf("image %s has a name and no config: %w", id, store.ErrCorrupt)
		return img, nil
	case err != nil:
		img.err = err
		return img, nil
	}
	img.raw = raw
	if img.config, err = store.ParseConfig(raw); err != nil {
		img.err = fmt.Errorf("image %s: %w", id, err)
		return img, nil
	}
	img.parent = s.parentOf(id)
	if b, err := s.root.Read(s.at.metadata+"/"+id.Encoded()+"/lastUpdated", maxSmall); err == nil {
		img.lastTagged, _ = time.Parse(time.RFC3339Nano, strings.TrimSpace(string(b)))
	}
	var chain digest.Digest
	for n, d := range img.config.DiffIDs {
		parent := chain
		chain = store.NextChainID(chain, d)
		l := s.layer(chain, parent, d)
		img.layers = append(img.layers, l)
		if l.broken != nil && img.err == nil {
			img.err = fmt.Errorf("image %s: layer %d: %w", id, n, l.broken)
		}
	}
	return img, nil
}

func (r repositories) has(id digest.Digest) bool {
	for _, refs := range r.Repositories {
		for _, i := range refs {
			if i == id {
				return true
			}
		}
	}
	return false
}

// config reads an image's config and proves that it is that.
func (s *Store) config(id digest.Digest) ([]byte, error) {
	raw, err := s.root.Read(s.at.content+"/"+id.Encoded(), store.MaxConfigSize)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("no such image: %s: %w", id, store.ErrNotFound)
	}
	if err = classify(err); isDamaged(err) {
		err = fmt.Errorf("%w: %w", store.ErrCorrupt, err)
	}
	if err != nil {
		return nil, fmt.Errorf("config of image %s: %w", id, err)
	}
	if got := digest.FromBytes(raw); got != id {
		return nil, fmt.Errorf("config of image %s hashes to %s: %w", id, got, store.ErrCorrupt)
	}
	return raw, nil
}

// parentOf returns what the classic builder recorded, "" for nothing or nonsense.
func (s *Store) parentOf(id digest.Digest) digest.Digest {
	b, err := s.root.Read(s.at.metadata+"/"+id.Encoded()+"/parent", maxSmall)
	if err != nil {
		return ""
	}
	if p := digest.Digest(strings.TrimSpace(string(b))); store.IsID(p) && p != id {
		return p
	}
	return ""
}
