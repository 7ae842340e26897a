package containerd

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"

	digest "github.com/opencontainers/go-digest"

	"imagefs/store"
	"imagefs/store/beneath"
	"imagefs/store/blob"
	"imagefs/store/turn"
	"imagefs/store/unpacked"
)

// Options of Open.
type Options struct {
	Cache string // directory for what is derived from the store; "" keeps it in memory
	// Memory and Disk bound decompressed data, in bytes, as blob.Options has them.
	Memory, Disk int64
	Lazy         bool         // read layers that have no index as they are looked into, and index them later
	ReadOnly     bool         // never ask a Docker daemon for a change
	Hosts        []string     // where to ask the Docker daemon that has its images here (package api, New), in this order; nil: api.Usual
	Log          *slog.Logger // nil: silent
}

// The layout.
const (
	metaDir     = "io.containerd.metadata.v1.bolt"
	metaFile    = metaDir + "/meta.db"
	blobDir     = "io.containerd.content.v1.content/blobs"
	snapDir     = "io.containerd.snapshotter.v1.overlayfs"
	snapFile    = snapDir + "/metadata.db"
	snapshotDir = snapDir + "/snapshots"
)

// Store is containerd's image store.
type Store struct {
	root  *beneath.Root
	path  string
	opts  Options
	log   *slog.Logger
	set   *unpacked.Set
	blobs *blob.Cache

	build   turn.Turn // one reading of the databases at a time; guards parsed and said
	parsed  map[digest.Digest]*document
	said    map[string]bool // what was logged of the database's last state
	current atomic.Pointer[catalog]

	mu     sync.Mutex // guards layers
	layers map[digest.Digest]*layerRec
}

var _ store.Store = (*Store)(nil)

// Open opens the store at or below root: containerd's root directory, or the data
// root of a Docker daemon that has its containerd's root in it. store.ErrNotFound
// if there is none, store.ErrCorrupt if its database cannot be read.
func Open(root string, o Options) (*Store, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	abs, err := filepath.Abs(root)
	if err != nil {
		return nil, err
	}
	at, err := locate(abs)
	if err != nil {
		return nil, err
	}
	r, err := beneath.Open(at)
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	s := &Store{root: r, path: r.Name(), opts: o, log: o.Log, build: turn.New(), parsed: map[digest.Digest]*document{}, layers: map[digest.Digest]*layerRec{}}
	running, err := s.checkDatabases()
	if err != nil {
		r.Close()
		return nil, err
	}
	if running {
		s.log.Info("a containerd is running on the store: its databases are read without their lock", "store", s.path)
	}
	s.set = &unpacked.Set{Path: s.path, Cache: o.Cache, Lazy: o.Lazy, Log: o.Log}
	s.blobs = blob.NewCache(blob.Options{Dir: o.Cache, Memory: o.Memory, Disk: o.Disk, Background: o.Lazy, Log: o.Log})
	return s, nil
}

// Root implements store.Store.
func (s *Store) Root() string { return s.path }

var _ store.Advisor = (*Store)(nil)

// Advice implements store.Advisor.
func (s *Store) Advice() string {
	return "use docker, nerdctl or ctr, whichever keeps its images there"
}

// Close releases the store's descriptors. Files that are open stay readable.
func (s *Store) Close() error {
	s.set.Close()
	s.blobs.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.layers {
		l.close()
	}
	s.layers = nil
	return s.root.Close()
}

// Names implements store.Store.
func (s *Store) Names(ctx context.Context) (store.Names, error) {
	c, err := s.catalog(ctx)
	if err != nil {
		return store.Names{}, err
	}
	return c.names, nil
}

// IDs implements store.Store: the images of all platforms that are here, and
// what is left of those that are not whole.
func (s *Store) IDs(ctx context.Context) ([]digest.Digest, error) {
	c, err := s.catalog(ctx)
	if err != nil {
		return nil, err
	}
	return c.ids, nil
}
