package docker

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"time"

	digest "github.com/opencontainers/go-digest"

	"imagefs/store"
	"imagefs/store/docker/api"
	"imagefs/store/layer"
	"imagefs/store/unpacked"
)

// liveIngest is a load into the store of a living daemon. Layers are staged as
// tars in temporary files without names; Commit sends them to the daemon as one
// archive of the form of docker save, without those that the daemon has.
type liveIngest struct {
	s      *Store
	mu     sync.Mutex // guards staged
	staged []*stagedTar
}

var _ store.Ingest = (*liveIngest)(nil)

// stagedTar is a layer's tar in a temporary file.
type stagedTar struct {
	f    *os.File
	size int64
	diff digest.Digest
}

func (t *stagedTar) DiffID() digest.Digest { return t.diff }

// HasLayer implements store.Ingest.
func (in *liveIngest) HasLayer(chain digest.Digest) bool {
	return in.s.at.name == overlay2.name && in.s.hasLayer(chain)
}

// Unpack implements store.Ingest.
func (in *liveIngest) Unpack(ctx context.Context, r io.Reader) (_ store.Staged, err error) {
	f, err := unpacked.TempFile()
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	sum := sha256.New()
	t := &stagedTar{f: f}
	t.size, err = io.Copy(io.MultiWriter(f, sum), io.LimitReader(store.Interruptible(ctx, r), layer.DefaultSize+1))
	if err != nil {
		return nil, err
	}
	if t.size > layer.DefaultSize {
		return nil, fmt.Errorf("a layer of more than %d bytes: %w", int64(layer.DefaultSize), store.ErrTooLarge)
	}
	// The daemon finds out the same, when it has all of the archive.
	if _, err := layer.ScanTarAt(ctx, f, t.size, layer.Limits{}); err != nil {
		return nil, err
	}
	t.diff = digest.NewDigest(digest.SHA256, sum)
	in.mu.Lock()
	defer in.mu.Unlock()
	in.staged = append(in.staged, t)
	return t, nil
}

// Abort implements store.Ingest.
func (in *liveIngest) Abort() {
	for _, t := range in.staged {
		t.f.Close()
	}
	in.staged = nil
}

// Commit implements store.Ingest. It is all or nothing as far as the daemon is:
// that keeps the images which it finished before one that it could not.
func (in *liveIngest) Commit(ctx context.Context, images []store.NewImage) error {
	s := in.s
	a := liveArchive{images: images, layers: map[digest.Digest]*stagedTar{}}
	old := map[digest.Digest]bool{}
	for _, img := range images {
		if err := in.check(img, a.layers); err != nil {
			return err
		}
		id := digest.FromBytes(img.Config)
		_, err := s.config(id)
		old[id] = err == nil
	}
	if !s.Live() {
		return fmt.Errorf("the Docker daemon on %s was stopped meanwhile; do it again: %w", s.path, store.ErrBusy)
	}
	c, err := s.daemon(ctx)
	if err != nil {
		return err
	}
	if err := c.Load(ctx, a.write); err != nil {
		for _, img := range images {
			id := digest.FromBytes(img.Config)
			if _, there := s.config(id); there == nil && !old[id] {
				err = fmt.Errorf("%w; the daemon had finished the image %s, which stays", err, id)
			}
		}
		return err
	}
	return in.arrived(c, images)
}

// check collects the staged layers of an image.
func (in *liveIngest) check(img store.NewImage, layers map[digest.Digest]*stagedTar) error {
	cfg, err := store.ParseConfig(img.Config)
	if err != nil {
		return err
	}
	id := digest.FromBytes(img.Config)
	if len(cfg.DiffIDs) != len(img.Layers) {
		return fmt.Errorf("image %s has %d layers, its config %d: %w", id, len(img.Layers), len(cfg.DiffIDs), store.ErrCorrupt)
	}
	var chain digest.Digest
	for n, l := range img.Layers {
		chain = store.NextChainID(chain, cfg.DiffIDs[n])
		t, staged := l.Staged.(*stagedTar)
		switch {
		case l.DiffID != cfg.DiffIDs[n] || staged && t.diff != l.DiffID:
			return fmt.Errorf("image %s: layer %d is %s, its config says %s: %w", id, n, l.DiffID, cfg.DiffIDs[n], store.ErrCorrupt)
		case staged:
			layers[l.DiffID] = t
		case !in.HasLayer(chain):
			return fmt.Errorf("layer %s was removed meanwhile; do it again: %w", l.DiffID, store.ErrBusy)
		}
	}
	for _, ref := range img.Names {
		if f, err := store.FamiliarTag(ref); err != nil || f != ref {
			return fmt.Errorf("name %.300q: %w", ref, store.ErrInvalid)
		}
	}
	return nil
}

// arrived fails unless the images are there: the daemon said that they are.
func (in *liveIngest) arrived(c *api.Client, images []store.NewImage) error {
	for _, img := range images {
		id := digest.FromBytes(img.Config)
		if _, err := in.s.config(id); err != nil {
			return fmt.Errorf("the daemon at %s took in the archive, but the image is not there: %w", c.Host(), err)
		}
	}
	return nil
}

// liveArchive is images in the form of docker save.
type liveArchive struct {
	images []store.NewImage
	layers map[digest.Digest]*stagedTar // those that are in it
}

// manifestEntry is an image in manifest.json.
type manifestEntry struct {
	Config   string
	RepoTags []string
	Layers   []string
	Parent   digest.Digest `json:",omitempty"`
}

// write writes the archive:
//
//	<image ID>.json   the config
//	<diff ID>.tar     a layer
//	manifest.json     the images; layers that are not in the archive are named too
func (a liveArchive) write(w io.Writer) error {
	t := tar.NewWriter(w)
	manifest := []manifestEntry{}
	for _, img := range a.images {
		id := digest.FromBytes(img.Config)
		m := manifestEntry{Config: id.Encoded() + ".json", RepoTags: img.Names, Layers: []string{}, Parent: img.Parent}
		for _, l := range img.Layers {
			m.Layers = append(m.Layers, l.DiffID.Encoded()+".tar")
		}
		manifest = append(manifest, m)
		if err := putBytes(t, m.Config, img.Config); err != nil {
			return err
		}
	}
	ids := make([]digest.Digest, 0, len(a.layers))
	for d := range a.layers {
		ids = append(ids, d)
	}
	slices.Sort(ids)
	for _, d := range ids {
		l := a.layers[d]
		if err := putTar(t, d.Encoded()+".tar", l.size, io.NewSectionReader(l.f, 0, l.size)); err != nil {
			return err
		}
	}
	b, err := json.Marshal(manifest)
	if err != nil {
		return err
	}
	return errors.Join(putBytes(t, "manifest.json", b), t.Close())
}

func putBytes(t *tar.Writer, name string, b []byte) error {
	return putTar(t, name, int64(len(b)), bytes.NewReader(b))
}

func putTar(t *tar.Writer, name string, size int64, r io.Reader) error {
	h := &tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: size, ModTime: time.Unix(0, 0)}
	if err := t.WriteHeader(h); err != nil {
		return err
	}
	_, err := io.Copy(t, r)
	return err
}
