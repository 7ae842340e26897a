package daemon

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"sync"

	digest "github.com/opencontainers/go-digest"

	"imagefs/store"
	"imagefs/store/daemon/api"
	"imagefs/store/layer"
	"imagefs/store/unpacked"
)

// Store is where a daemon keeps its images, as a load into it needs it.
type Store interface {
	// Daemon returns a client of the daemon. store.ErrBusy if it was stopped since the load began.
	Daemon(ctx context.Context) (*api.Client, error)
	// HasImage tells whether an image is there now.
	HasImage(id digest.Digest) bool
	// HasLayer tells whether a layer is there, whole, so that the daemon need not be sent it.
	HasLayer(chain digest.Digest) bool
}

// ingest is a load into the store of a living daemon. Layers are staged as tars
// in temporary files without names; Commit sends them to the daemon as one
// archive of the form of docker save, without those that the daemon has.
type ingest struct {
	s      Store
	mu     sync.Mutex // guards staged
	staged []*stagedTar
}

// NewIngest starts a load into a daemon's store.
func NewIngest(s Store) store.Ingest { return &ingest{s: s} }

// stagedTar is a layer's tar in a temporary file.
type stagedTar struct {
	f    *os.File
	size int64
	diff digest.Digest
}

func (t *stagedTar) DiffID() digest.Digest { return t.diff }

// HasLayer implements store.Ingest.
func (in *ingest) HasLayer(chain digest.Digest) bool {
	return in.s.HasLayer(chain)
}

// Unpack implements store.Ingest.
func (in *ingest) Unpack(ctx context.Context, r io.Reader) (_ store.Staged, err error) {
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
func (in *ingest) Abort() {
	for _, t := range in.staged {
		t.f.Close()
	}
	in.staged = nil
}

// Commit implements store.Ingest. It is all or nothing as far as the daemon is:
// that keeps the images which it finished before one that it could not.
func (in *ingest) Commit(ctx context.Context, images []store.NewImage) error {
	a := archive{images: images, layers: map[digest.Digest]*stagedTar{}}
	old := map[digest.Digest]bool{}
	for _, img := range images {
		if err := in.check(img, a.layers); err != nil {
			return err
		}
		id := digest.FromBytes(img.Config)
		old[id] = in.s.HasImage(id)
	}
	c, err := in.s.Daemon(ctx)
	if err != nil {
		return err
	}
	if err := c.Load(ctx, a.write); err != nil {
		for _, img := range images {
			if id := digest.FromBytes(img.Config); !old[id] && in.s.HasImage(id) {
				err = fmt.Errorf("%w; the daemon had finished the image %s, which stays", err, id)
			}
		}
		return err
	}
	for _, img := range images {
		if id := digest.FromBytes(img.Config); !in.s.HasImage(id) { // the daemon said that it is
			return fmt.Errorf("the daemon at %s took in the archive, but the image %s is not there", c.Host(), id)
		}
	}
	return nil
}

// check collects the staged layers of an image.
func (in *ingest) check(img store.NewImage, layers map[digest.Digest]*stagedTar) error {
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
		if err := store.CheckTag(ref); err != nil {
			return err
		}
	}
	return nil
}
