package archive

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"imagefs/store"
	"imagefs/store/archive/compress"
	blobs "imagefs/store/blob"
	"imagefs/store/turn"
)

// StoreOptions are those of Open.
type StoreOptions struct {
	// Cache is the directory for what is derived from archives, which must be
	// the caller's alone; "" keeps it in memory.
	Cache string
	// Memory and Disk bound decompressed data, in bytes, as blobs.Options has them.
	Memory, Disk int64
	// Lazy verifies layers when they have been in use for a moment, and not only
	// when they are checked.
	Lazy   bool
	Log    *slog.Logger // nil: silent
	Limits Limits
}

// Store is an image archive or an OCI layout directory as a store that is only
// read: nothing is unpacked, and nothing written beside it.
type Store struct {
	path  string
	opts  StoreOptions
	log   *slog.Logger
	blobs *blobs.Cache

	broken chan struct{} // a layer turned out to be broken

	life    context.Context // ends with Close
	end     context.CancelFunc
	reading turn.Turn // had while the archive is read; taken before mu

	mu     sync.Mutex // guards what follows
	now    *snapshot
	failed identity // of what could not be read, with why
	err    error
	old    []former
	closed bool
}

var (
	_ store.Store   = (*Store)(nil)
	_ store.Watcher = (*Store)(nil)
	_ store.Checker = (*Store)(nil)
)

// Is tells whether there may be an archive or a layout at a path, by its first
// bytes or the names in it.
func Is(path string) bool {
	st, err := os.Stat(path)
	if err != nil {
		return false
	}
	if st.IsDir() {
		return isLayout(path)
	}
	if !st.Mode().IsRegular() {
		return false
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	head := make([]byte, headSize)
	n, _ := f.ReadAt(head, 0)
	return compress.Detect(head[:n]) != compress.None || looksLikeTar(head[:n])
}

// isLayout tells whether a directory is an OCI layout or an unpacked archive.
func isLayout(dir string) bool {
	has := func(name string) bool {
		_, err := os.Stat(filepath.Join(dir, name))
		return err == nil
	}
	return has(ociIndex) && (has(ociLayout) || has("blobs")) || has(dockerManifest)
}

// Open opens the archive file or layout directory at path. Of a compressed file
// everything is read once, unless the cache has its index. store.ErrNotFound if
// there is no archive, store.ErrCorrupt for one of which nothing can be made,
// store.ErrUnsupported for one that is compressed in a way that can only be loaded.
func Open(path string, o StoreOptions) (*Store, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	o.Limits = o.Limits.withDefaults()
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	st, err := os.Stat(abs)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("no archive at %s: %w", path, store.ErrNotFound)
	case err != nil:
		return nil, fmt.Errorf("open archive: %w", err)
	case st.IsDir() && !isLayout(abs):
		return nil, fmt.Errorf("no OCI layout in the directory %s: %w", path, store.ErrNotFound)
	case !st.IsDir() && !st.Mode().IsRegular():
		return nil, fmt.Errorf("%s is neither a file nor a directory: %w", path, store.ErrInvalid)
	}
	s := &Store{path: abs, opts: o, log: o.Log, broken: make(chan struct{}, 1), reading: turn.New()}
	s.life, s.end = context.WithCancel(context.Background())
	s.blobs = blobs.NewCache(blobs.Options{Dir: o.Cache, Memory: o.Memory, Disk: o.Disk, Background: o.Lazy, Log: o.Log,
		Broken: func(*blobs.Layer, error) { notify(s.broken) }})
	if _, err := s.current(context.Background()); err != nil {
		_ = s.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return s, nil
}

var errClosed = fmt.Errorf("the archive was closed: %w", os.ErrClosed)

// current returns what the archive holds now: it is read again if it was
// replaced, by one at a time.
func (s *Store) current(ctx context.Context) (*snapshot, error) {
	if snap, _, err := s.known(); snap != nil || err != nil {
		return snap, err
	}
	if err := s.reading.Take(ctx); err != nil {
		return nil, err
	}
	defer s.reading.Give()
	// Somebody else may have read it meanwhile.
	snap, id, err := s.known()
	if snap != nil || err != nil {
		return snap, err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	defer context.AfterFunc(s.life, stop)()
	snap, err = s.read(ctx, id)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		if err == nil {
			snap.close()
		}
		return nil, errClosed
	case err != nil:
		if ctx.Err() == nil {
			s.failed, s.err = id, err
		}
		return nil, err
	}
	s.retire() // somebody may still read what it held
	s.now, s.err = snap, nil
	return snap, nil
}

// known returns what the archive holds now, nil if it has to be read for that,
// and what tells it from what it was.
func (s *Store) known() (*snapshot, identity, error) {
	id, err := identify(s.path)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return nil, id, errClosed
	case errors.Is(err, fs.ErrNotExist):
		return nil, id, fmt.Errorf("the archive %s is no longer there: %w", s.path, store.ErrGone)
	case err != nil:
		return nil, id, err
	case s.now != nil && s.now.id == id:
		return s.now, id, nil
	case s.err != nil && s.failed == id:
		return nil, id, s.err
	}
	return nil, id, nil
}

// Names implements store.Store.
func (s *Store) Names(ctx context.Context) (store.Names, error) {
	n, err := s.current(ctx)
	if err != nil {
		return store.Names{}, err
	}
	return n.names, nil
}

// IDs implements store.Store.
func (s *Store) IDs(ctx context.Context) ([]digest.Digest, error) {
	n, err := s.current(ctx)
	if err != nil {
		return nil, err
	}
	return slices.Clone(n.ids), nil
}

// Image implements store.Store.
func (s *Store) Image(ctx context.Context, id digest.Digest) (store.Image, error) {
	n, err := s.current(ctx)
	if err != nil {
		return nil, err
	}
	f := n.images[id]
	if f == nil {
		return nil, fmt.Errorf("no such image: %s: %w", id, store.ErrNotFound)
	}
	return f.view(), nil
}

// Root implements store.Store: the archive's path.
func (s *Store) Root() string { return s.path }

// Close implements store.Store.
func (s *Store) Close() error {
	s.end()
	s.blobs.Close()
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	// Who is reading the archive gives up, and is waited for.
	if err := s.reading.Take(context.Background()); err != nil {
		return err
	}
	defer s.reading.Give()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.retire()
	for _, o := range s.old {
		if n := o.snapshot.Value(); n != nil {
			n.close()
		}
		o.held.close()
	}
	s.old = nil
	return nil
}

// watchEvery is the time between two looks at the archive.
const watchEvery = 400 * time.Millisecond

// Watch implements store.Watcher. It looks at the archive, whose place may be on
// a file system that tells of no changes.
func (s *Store) Watch(ctx context.Context) (<-chan struct{}, error) {
	out := make(chan struct{}, 1)
	last, lastErr := identify(s.path)
	go func() {
		defer close(out)
		t := time.NewTicker(watchEvery)
		defer t.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-s.broken:
				notify(out)
			case <-t.C:
				now, err := identify(s.path)
				if now != last || (err == nil) != (lastErr == nil) {
					last, lastErr = now, err
					notify(out)
				}
			}
		}
	}()
	return out, nil
}

func notify(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default: // one is waiting already
	}
}

// Check implements store.Checker: what is missing or does not fit is found in
// any case; deep, the digests of all layers are computed.
func (s *Store) Check(ctx context.Context, deep bool, found func(store.Problem)) error {
	n, err := s.current(ctx)
	if err != nil {
		return err
	}
	for _, err := range n.problems {
		found(store.Problem{What: s.path, Err: err})
	}
	seen := map[string]bool{}
	for _, id := range n.ids {
		f := n.images[id]
		if f.err != nil {
			found(store.Problem{What: "image " + id.String(), Err: f.err})
		}
		for _, l := range f.blobs {
			if seen[l.Key()] {
				continue
			}
			seen[l.Key()] = true
			err := l.Err()
			if err == nil && deep {
				err = l.Verify(ctx)
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err != nil && !errors.Is(f.err, err) {
				found(store.Problem{What: "layer " + l.DiffID().String(), Err: err})
			}
		}
	}
	return nil
}
