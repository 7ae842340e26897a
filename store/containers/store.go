package containers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	digest "github.com/opencontainers/go-digest"

	"imagefs/store"
	"imagefs/store/beneath"
	"imagefs/store/unpacked"
	"imagefs/store/watcher"
)

// Options of Open.
type Options struct {
	// Additional are the roots of the store's additional image stores: the
	// parents of layers may be there, and their images show, too.
	Additional []string
	Cache      string       // directory for the indexes of layers; "" keeps them in memory
	Lazy       bool         // read layers that have no index as they are looked into, and index them later
	Log        *slog.Logger // nil: silent
}

// Store is a store of containers/storage, read-only.
type Store struct {
	path   string
	log    *slog.Logger
	places []*place
	set    *unpacked.Set

	mu     sync.Mutex // guards what follows
	known  *catalog
	layers map[digest.Digest]*layerRec // by chain ID
}

var (
	_ store.Store     = (*Store)(nil)
	_ store.Watcher   = (*Store)(nil)
	_ store.Forgetter = (*Store)(nil)
)

// drivers are those whose layers can be read.
var drivers = []string{"overlay", "vfs"}

// otherDrivers are those whose layers are not files in directories of their own.
var otherDrivers = []string{"btrfs", "zfs", "aufs", "devicemapper"}

// Open opens the store at root, or the one that lies in a directory below it.
// store.ErrNotFound if there is none; store.ErrUnsupported for a driver other
// than overlay and vfs.
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
	s := &Store{path: at, log: o.Log, layers: map[digest.Digest]*layerRec{},
		set: &unpacked.Set{Path: at, Cache: o.Cache, Lazy: o.Lazy, Log: o.Log}}
	if err := s.add(at); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	for _, dir := range o.Additional {
		if err := s.add(dir); err != nil {
			s.log.Warn("an additional image store cannot be read", "err", err)
		}
	}
	return s, nil
}

// add opens the places of a root.
func (s *Store) add(dir string) error {
	r, err := beneath.Open(dir)
	if err != nil {
		return err
	}
	for _, d := range drivers {
		p := &place{root: r, driver: d, index: len(s.places)}
		if r.IsDir(p.images()) || r.IsDir(p.layers()) {
			s.places = append(s.places, p)
		}
	}
	if len(s.places) == 0 || s.places[len(s.places)-1].root != r {
		r.Close()
		return fmt.Errorf("no store at %s: %w", dir, store.ErrNotFound)
	}
	return nil
}

// locate finds the store at or below a directory.
func locate(root string) (at string, err error) {
	err = unpacked.Search(root, func(dir string) (bool, error) {
		found, driver := isRoot(dir)
		if driver != "" {
			return false, fmt.Errorf("the store at %s uses the storage driver %s, overlay or vfs is needed: %w", dir, driver, store.ErrUnsupported)
		}
		at = dir
		return found, nil
	})
	return at, err
}

// isRoot tells whether a directory is the root of a store; if it is one of another driver, which.
func isRoot(dir string) (found bool, driver string) {
	is := func(driver string) bool {
		for _, p := range []string{"-images", "-layers"} {
			if st, err := os.Lstat(filepath.Join(dir, driver+p)); err != nil || !st.IsDir() {
				return false
			}
		}
		return true
	}
	for _, d := range drivers {
		if is(d) {
			return true, ""
		}
	}
	for _, d := range otherDrivers {
		if is(d) {
			return false, d
		}
	}
	return false, ""
}

// Root implements store.Store.
func (s *Store) Root() string { return s.path }

// Close releases the store's descriptors. Layers that are in use keep theirs.
func (s *Store) Close() error {
	s.set.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.layers {
		l.Close()
	}
	s.layers = nil
	var err error
	for i, p := range s.places {
		if i == 0 || p.root != s.places[i-1].root {
			err = errors.Join(err, p.root.Close())
		}
	}
	return err
}

// Names implements store.Store.
func (s *Store) Names(ctx context.Context) (store.Names, error) {
	c := s.now()
	return c.names, c.err
}

// IDs implements store.Store.
func (s *Store) IDs(ctx context.Context) ([]digest.Digest, error) {
	c := s.now()
	return c.ids, c.err
}

// Watch implements store.Watcher.
func (s *Store) Watch(ctx context.Context) (<-chan struct{}, error) {
	var dirs, files []string
	for _, p := range s.places {
		for _, d := range []string{p.images(), p.layers()} {
			if p.root.IsDir(d) {
				dirs = append(dirs, filepath.Join(p.root.Name(), d))
			}
		}
		for _, f := range p.files() {
			files = append(files, filepath.Join(p.root.Name(), f))
		}
	}
	return watcher.Dirs(ctx, s.log, dirs, files...), nil
}

// Forget implements store.Forgetter.
func (s *Store) Forget(l store.Layer) {
	rec, ok := l.(*layerRec)
	if !ok || rec.place == nil {
		return
	}
	if rec.current(s.now()) {
		return // other images may have it
	}
	s.mu.Lock()
	if s.layers[rec.chain] == rec {
		delete(s.layers, rec.chain)
	}
	s.mu.Unlock()
	rec.Layer.Forget()
}
