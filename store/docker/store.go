package docker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"imagefs/store"
	"imagefs/store/beneath"
	"imagefs/store/turn"
	"imagefs/store/unpacked"
)

// Options of Open.
type Options struct {
	ReadOnly bool         // never write below the root, not even an index
	Create   bool         // make an empty store where there is none
	Cache    string       // directory for the indexes of stores that are not written; "" keeps them in memory
	Lazy     bool         // read layers that have no index as they are looked into, and index them later
	Hosts    []string     // where to ask a daemon that lives on the store (package api, New), in this order; nil: api.Usual
	Log      *slog.Logger // nil: silent
}

// The layout.
const (
	ownDir     = "imagefs"
	lockFile   = ownDir + "/lock"
	journalDir = ownDir + "/journal"
	stageDir   = ownDir + "/stage"
	indexDir   = ownDir + "/index"
	spillDir   = ownDir + "/spill"
)

// Limits on what is read whole.
const (
	maxRepos = 256 << 20
	maxSmall = 64 << 10
)

// Store is a store in Docker's layout.
type Store struct {
	root *beneath.Root
	path string
	at   layout
	opts Options
	log  *slog.Logger

	writing turn.Turn // for one write of this process at a time; before the lock file

	set   *unpacked.Set
	known atomic.Pointer[knownRepos]

	mu     sync.Mutex // guards layers
	layers map[string]*layerRec
}

var (
	_ store.Store    = (*Store)(nil)
	_ store.Tagger   = (*Store)(nil)
	_ store.Renamer  = (*Store)(nil)
	_ store.Remover  = (*Store)(nil)
	_ store.Ingester = (*Store)(nil)
	_ store.Watcher  = (*Store)(nil)
	_ store.Checker  = (*Store)(nil)
)

// Open opens the store at root, or the one that lies in a directory below it
// (an unpacked copy of a data root). A data root that several storage drivers
// have used shows the images of one, see locate; root may name another's image
// directory (image/<driver>) instead. Half-done work of processes that died is
// finished or cleared away if the store may be written, which it may with
// overlay2 only. store.ErrNotFound if there is no store; store.ErrUnsupported
// for storage drivers whose layers are not plain files.
func Open(root string, o Options) (*Store, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	abs, err := filepath.Abs(root)
	if err != nil {
		return nil, err
	}
	at, err := locate(abs)
	if errors.Is(err, store.ErrNotFound) && o.Create && !o.ReadOnly {
		if err = create(abs); err == nil {
			at = place{path: abs, layout: overlay2}
		}
	}
	if err != nil {
		return nil, err
	}
	r, err := beneath.Open(at.path)
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	s := &Store{root: r, path: at.path, at: at.layout, opts: o, log: o.Log, writing: turn.New(), layers: map[string]*layerRec{},
		set: &unpacked.Set{Path: at.path, Cache: o.Cache, Lazy: o.Lazy, Log: o.Log}}
	if at.name != overlay2.name {
		s.set.Path = filepath.Join(at.path, at.image)
	}
	for _, d := range at.others {
		s.log.Warn("the data root has images of another storage driver too; open its directory to see them", "path", filepath.Join(at.path, "image", d))
	}
	if !o.ReadOnly && s.writable() == nil {
		if err := s.recover(); err != nil {
			// Everything can be read, and a write will say the same.
			s.log.Warn("cannot finish what an interrupted process began", "store", at.path, "err", err)
		}
	}
	return s, nil
}

// create makes an empty store, with the modes that Docker gives, or finishes one
// that was being made when its maker died.
func create(root string) error {
	if entries, err := os.ReadDir(root); err == nil && len(entries) > 0 && !halfMade(entries) {
		return fmt.Errorf("no store at %s, and it is not empty: %w", root, store.ErrNotFound)
	}
	if err := os.MkdirAll(filepath.Dir(root), 0o755); err != nil {
		return fmt.Errorf("make store: %w", err)
	}
	if err := os.Mkdir(root, 0o710); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make store: %w", err)
	}
	r, err := beneath.Open(root)
	if err != nil {
		return fmt.Errorf("make store: %w", err)
	}
	defer r.Close()
	return directories(r)
}

// halfMade tells whether a directory has nothing but what directories makes, our own first.
func halfMade(entries []fs.DirEntry) bool {
	own := false
	for _, e := range entries {
		own = own || e.Name() == ownDir
		if !e.IsDir() || e.Name() != ownDir && e.Name() != "image" && e.Name() != overlay2.home {
			return false
		}
	}
	return own
}

// directories makes those that a store has; what is there stays as it is.
func directories(r *beneath.Root) error {
	if err := ownSkeleton(r); err != nil {
		return err
	}
	for _, d := range []struct {
		path string
		mode uint32
	}{
		{"image", 0o700}, {overlay2.image, 0o700}, {overlay2.dist, 0o700},
		{overlay2.image + "/imagedb", 0o700}, {overlay2.image + "/imagedb/content", 0o700}, {overlay2.content, 0o700},
		{overlay2.image + "/imagedb/metadata", 0o700}, {overlay2.metadata, 0o700},
		{overlay2.image + "/layerdb", 0o700}, {overlay2.layers, 0o755}, {overlay2.image + "/layerdb/tmp", 0o755},
		{overlay2.home, 0o710}, {overlay2.links, 0o700},
	} {
		if err := r.Mkdir(d.path, d.mode); err != nil {
			return fmt.Errorf("make store: %w", err)
		}
	}
	return nil
}

// skeleton makes what a store has. The lock is held: names could be lost.
func skeleton(r *beneath.Root) error {
	if err := directories(r); err != nil {
		return err
	}
	if !r.Exists(overlay2.repos) {
		if err := r.Write(overlay2.repos, []byte(`{"Repositories":{}}`), 0o600); err != nil {
			return fmt.Errorf("make store: %w", err)
		}
	}
	return nil
}

func ownSkeleton(r *beneath.Root) error {
	for _, d := range []string{ownDir, journalDir, stageDir, indexDir, spillDir} {
		if err := r.Mkdir(d, 0o700); err != nil {
			return fmt.Errorf("make store: %w", err)
		}
	}
	return nil
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
	return s.root.Close()
}

// repositories is repositories.json.
type repositories struct {
	Repositories map[string]map[string]digest.Digest
}

// knownRepos is repositories.json as it was read last, with what tells whether it is still that.
type knownRepos struct {
	ino, size    uint64
	mtime, ctime unix.Timespec
	names        store.Names
	repos        repositories
}

// namesNow returns the names of the store, parsed once for each state of its file.
// What it returns must not be changed.
func (s *Store) namesNow() (*knownRepos, error) {
	st, err := s.root.Stat(s.at.repos)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	k := &knownRepos{ino: st.Ino, size: uint64(st.Size), mtime: st.Mtim, ctime: st.Ctim}
	if old := s.known.Load(); old != nil && old.ino == k.ino && old.size == k.size && old.mtime == k.mtime && old.ctime == k.ctime && st.Ino != 0 {
		return old, nil
	}
	if k.repos, err = s.readRepos(); err != nil {
		return nil, err
	}
	k.names = k.repos.names(nil)
	// A file that may have been changed within the clock's tick could change again unseen.
	if now := time.Now(); now.Sub(time.Unix(st.Ctim.Unix())) > time.Second {
		s.known.Store(k)
	}
	return k, nil
}

func (s *Store) readRepos() (repositories, error) {
	var r repositories
	b, err := s.root.Read(s.at.repos, maxRepos)
	if errors.Is(err, fs.ErrNotExist) {
		return repositories{map[string]map[string]digest.Digest{}}, nil
	}
	if err != nil {
		return r, classify(err)
	}
	if r, err = parseRepos(b); err != nil {
		return r, fmt.Errorf("%s: %w", path.Join(s.path, s.at.repos), err)
	}
	return r, nil
}

func parseRepos(b []byte) (repositories, error) {
	var r repositories
	if err := json.Unmarshal(b, &r); err != nil {
		return r, fmt.Errorf("%w: %w", store.ErrCorrupt, err)
	}
	if r.Repositories == nil {
		r.Repositories = map[string]map[string]digest.Digest{}
	}
	return r, nil
}

// names splits the references into tags and digests and drops those that are
// neither, or name no image ID. bad, if not nil, hears of each that is dropped.
func (r repositories) names(bad func(ref string)) store.Names {
	n := store.Names{Tags: map[string]digest.Digest{}, Digests: map[string]digest.Digest{}}
	for repo, refs := range r.Repositories {
		for ref, id := range refs {
			kind := refKind(repo, ref)
			switch {
			case !store.IsID(id) || kind == 0:
				if bad != nil {
					bad(ref)
				}
			case kind == '@':
				n.Digests[ref] = id
			default:
				n.Tags[ref] = id
			}
		}
	}
	return n
}

// refKind returns ':' for a familiar tag reference of the repository, '@' for a digest reference, else 0.
func refKind(repo, ref string) byte {
	rest, ok := strings.CutPrefix(ref, repo)
	if !ok || rest == "" {
		return 0
	}
	if _, ok := store.Canonical(ref); !ok {
		return 0
	}
	return rest[0]
}

// Names implements store.Store.
func (s *Store) Names(ctx context.Context) (store.Names, error) {
	k, err := s.namesNow()
	if err != nil {
		return store.Names{}, err
	}
	return k.names, nil
}

// IDs implements store.Store: all images with a config, and those that only a name is left of.
func (s *Store) IDs(ctx context.Context) ([]digest.Digest, error) {
	names, err := s.list(s.at.content)
	if err != nil {
		return nil, classify(err)
	}
	seen := map[digest.Digest]bool{}
	for _, n := range names {
		if store.IsHex64(n) {
			seen[digest.NewDigestFromEncoded(digest.SHA256, n)] = true
		}
	}
	if k, err := s.namesNow(); err == nil {
		for _, id := range k.names.Tags {
			seen[id] = true
		}
	}
	ids := make([]digest.Digest, 0, len(seen))
	for id := range seen {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids, nil
}

// classify gives errors of package beneath their sentinel.
func classify(err error) error {
	if errors.Is(err, beneath.ErrTooLarge) {
		return fmt.Errorf("%w: %w", store.ErrTooLarge, err)
	}
	return err
}
