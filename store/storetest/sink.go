package storetest

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"sync"

	digest "github.com/opencontainers/go-digest"

	"imagefs/store"
)

// Sink is a store.Ingester that checks and remembers what it is given, and
// keeps no layer. Use one load at a time.
type Sink struct {
	// Has is the chain IDs that the store has already.
	Has map[digest.Digest]bool
	// OnUnpack, if set, is called with each layer's tar before it is read; its
	// error is Unpack's.
	OnUnpack func(io.Reader) error

	mu       sync.Mutex // guards all below
	images   []store.NewImage
	unpacked int
	open     int
}

// Images returns what was committed.
func (s *Sink) Images() []store.NewImage {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.images
}

// Unpacked returns how many layers were unpacked.
func (s *Sink) Unpacked() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.unpacked
}

// Open returns how many loads have been neither committed nor aborted.
func (s *Sink) Open() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.open
}

var _ store.Ingester = (*Sink)(nil)

// Ingest implements store.Ingester.
func (s *Sink) Ingest(context.Context) (store.Ingest, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open++
	return &sinkIngest{s: s}, nil
}

type sinkIngest struct {
	s     *Sink
	ended bool
}

type sinkLayer digest.Digest

func (l sinkLayer) DiffID() digest.Digest { return digest.Digest(l) }

func (in *sinkIngest) HasLayer(chain digest.Digest) bool { return in.s.Has[chain] }

// Unpack reads a tar and its end as a store does.
func (in *sinkIngest) Unpack(ctx context.Context, r io.Reader) (store.Staged, error) {
	if in.s.OnUnpack != nil {
		if err := in.s.OnUnpack(r); err != nil {
			return nil, err
		}
	}
	src := &tee{ctx: ctx, r: r, h: sha256.New()}
	tr := tar.NewReader(src)
	var err error
	for err == nil {
		_, err = tr.Next()
	}
	if err == io.EOF {
		_, err = io.Copy(io.Discard, src)
	}
	switch {
	case src.err != nil:
		return nil, src.err
	case err != nil:
		return nil, fmt.Errorf("layer tar: %w: %w", store.ErrCorrupt, err)
	}
	in.s.mu.Lock()
	defer in.s.mu.Unlock()
	in.s.unpacked++
	return sinkLayer(digest.NewDigest(digest.SHA256, src.h)), nil
}

// tee hashes what is read, and remembers the error of the source.
type tee struct {
	ctx context.Context
	r   io.Reader
	h   hash.Hash
	err error
}

func (t *tee) Read(p []byte) (int, error) {
	if t.err = t.ctx.Err(); t.err != nil {
		return 0, t.err
	}
	n, err := t.r.Read(p)
	t.h.Write(p[:n])
	if err != nil && err != io.EOF {
		t.err = err
	}
	return n, err
}

// Commit checks what every store may rely on.
func (in *sinkIngest) Commit(_ context.Context, images []store.NewImage) error {
	seen := map[digest.Digest]bool{}
	for _, img := range images {
		cfg, err := store.ParseConfig(img.Config)
		if err != nil {
			return err
		}
		id := digest.FromBytes(img.Config)
		if seen[id] || len(cfg.DiffIDs) != len(img.Layers) {
			return fmt.Errorf("image %s comes twice, or with %d layers for %d: %w", id, len(img.Layers), len(cfg.DiffIDs), store.ErrInvalid)
		}
		seen[id] = true
		var chain digest.Digest
		for i, l := range img.Layers {
			chain = store.NextChainID(chain, l.DiffID)
			if l.DiffID != cfg.DiffIDs[i] || l.Staged != nil && l.Staged.DiffID() != l.DiffID || l.Staged == nil && !in.s.Has[chain] {
				return fmt.Errorf("image %s: layer %d is not what its config says: %w", id, i, store.ErrInvalid)
			}
		}
		for _, n := range img.Names {
			if ref, err := store.NewTag(n); err != nil || ref != n {
				return fmt.Errorf("name %q: %w", n, store.ErrInvalid)
			}
		}
	}
	in.s.mu.Lock()
	defer in.s.mu.Unlock()
	in.s.images = append(in.s.images, images...)
	in.end()
	return nil
}

// Abort implements store.Ingest.
func (in *sinkIngest) Abort() {
	in.s.mu.Lock()
	defer in.s.mu.Unlock()
	in.end()
}

func (in *sinkIngest) end() {
	if !in.ended {
		in.ended = true
		in.s.open--
	}
}
