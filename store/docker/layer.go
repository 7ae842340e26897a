package docker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"

	"github.com/klauspost/compress/gzip"
	digest "github.com/opencontainers/go-digest"

	"imagefs/overlay"
	"imagefs/store"
	"imagefs/store/layer"
)

// layerRec is a layer of the store, one for each chain ID and cache ID.
type layerRec struct {
	s             *Store
	chain, parent digest.Digest
	diff          digest.Digest
	cache         string
	size          int64
	broken        error // what is wrong with it on disk; then only the IDs count

	mu      sync.Mutex // guards what follows; held while an index is built
	dir     *os.File   // overlay2/<cache>/diff
	index   *layer.Mapped
	lazy    *layer.Lazy // what users see instead, if there was no index when they came
	tarSize int64       // -1: not known yet
	tar     *sharedTar
	blob    digest.Digest
	hasBlob bool
}

var _ store.Layer = (*layerRec)(nil)

// cacheID is what engines name layer directories: hex, base36, and for
// containers a suffix. No separators, no dot at the start.
var cacheID = regexp.MustCompile(`^[0-9A-Za-z][0-9A-Za-z_-]{0,127}$`)

// layer returns the record of a layer, the same one as long as its directory is the same.
func (s *Store) layer(chain, parent, diff digest.Digest) *layerRec {
	cache, size, err := s.readLayer(chain, parent, diff)
	if err != nil {
		return &layerRec{s: s, chain: chain, parent: parent, diff: diff, size: size, broken: err, tarSize: -1}
	}
	key := chain.Encoded() + "-" + cache
	s.mu.Lock()
	defer s.mu.Unlock()
	if l, ok := s.layers[key]; ok {
		return l
	}
	l := &layerRec{s: s, chain: chain, parent: parent, diff: diff, cache: cache, size: size, tarSize: -1}
	if s.layers != nil {
		s.layers[key] = l
	}
	return l
}

// readLayer reads a layer's records and checks them against each other.
func (s *Store) readLayer(chain, parent, diff digest.Digest) (cache string, size int64, err error) {
	d := layerDir + "/" + chain.Encoded() + "/"
	read := func(name string) string {
		if err != nil {
			return ""
		}
		var b []byte
		if b, err = s.root.Read(d+name, maxSmall); err != nil {
			err = fmt.Errorf("layer %s: %w: %w", chain, store.ErrCorrupt, err)
		}
		return strings.TrimSpace(string(b))
	}
	size = -1
	if cache = read("cache-id"); err != nil {
		return "", -1, err
	}
	if !cacheID.MatchString(cache) || cache == "l" {
		return "", -1, fmt.Errorf("layer %s: cache-id %.80q: %w", chain, cache, store.ErrCorrupt)
	}
	if got := read("diff"); err == nil && digest.Digest(got) != diff {
		err = fmt.Errorf("layer %s: diff ID is %.80q, want %s: %w", chain, got, diff, store.ErrCorrupt)
	}
	if text := read("size"); err == nil {
		if size, err = strconv.ParseInt(text, 10, 64); err != nil || size < 0 {
			return "", -1, fmt.Errorf("layer %s: size %.40q: %w", chain, text, store.ErrCorrupt)
		}
	}
	if parent != "" {
		if got := read("parent"); err == nil && digest.Digest(got) != parent {
			err = fmt.Errorf("layer %s: parent is %.80q, want %s: %w", chain, got, parent, store.ErrCorrupt)
		}
	}
	if err == nil && !s.root.IsDir(overlayDir+"/"+cache+"/diff") {
		err = fmt.Errorf("layer %s: no directory overlay2/%s/diff: %w", chain, cache, store.ErrCorrupt)
	}
	return cache, size, err
}

func (l *layerRec) DiffID() digest.Digest  { return l.diff }
func (l *layerRec) ChainID() digest.Digest { return l.chain }
func (l *layerRec) Size() int64            { return l.size }
func (l *layerRec) Key() string            { return l.chain.Encoded() + "-" + l.cache }

// Digest implements store.Layer, from what a pull recorded.
func (l *layerRec) Digest() digest.Digest {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.hasBlob {
		return l.blob
	}
	l.hasBlob = true
	if l.index != nil && l.index.Info.Blob != "" {
		l.blob = l.index.Info.Blob
		return l.blob
	}
	b, err := l.s.root.Read(distDir+"/v2metadata-by-diffid/sha256/"+l.diff.Encoded(), 1<<20)
	if err != nil {
		return ""
	}
	var meta []struct{ Digest digest.Digest }
	if json.Unmarshal(b, &meta) == nil && len(meta) > 0 && meta[0].Digest.Validate() == nil {
		l.blob = meta[0].Digest
	}
	return l.blob
}

// open opens the diff directory; l.mu is held.
func (l *layerRec) open() (*os.File, error) {
	if l.broken != nil {
		return nil, l.broken
	}
	if l.dir != nil {
		return l.dir, nil
	}
	d, err := l.s.root.Dir(overlayDir + "/" + l.cache + "/diff")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("layer %s: %w: %w", l.chain, store.ErrGone, err)
	}
	if err != nil {
		return nil, err
	}
	l.dir = d
	return d, nil
}

// Open implements store.Layer.
func (l *layerRec) Open(ctx context.Context, i overlay.Ino) (store.File, error) {
	ix, _, err := l.view(ctx)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	dir, err := l.open()
	l.mu.Unlock()
	if err != nil {
		return nil, err
	}
	return layer.Open(dir, ix, i)
}

// split opens the layer's tar-split, uncompressed.
func (l *layerRec) split() (io.ReadCloser, error) {
	f, err := l.s.root.OpenFile(layerDir+"/"+l.chain.Encoded()+"/tar-split.json.gz", os.O_RDONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("layer %s has no tar-split: %w", l.chain, store.ErrUnsupported)
	}
	if err != nil {
		return nil, err
	}
	z, err := gzip.NewReader(f)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("tar-split of layer %s: %w: %w", l.chain, store.ErrCorrupt, err)
	}
	return struct {
		io.Reader
		io.Closer
	}{z, f}, nil
}

// HasTar implements store.TarHolder.
func (l *layerRec) HasTar() bool {
	return l.broken == nil && l.s.root.Exists(layerDir+"/"+l.chain.Encoded()+"/tar-split.json.gz")
}

// TarSize implements store.Layer.
func (l *layerRec) TarSize(ctx context.Context) (int64, error) {
	_, info, err := l.view(ctx)
	if err != nil {
		return 0, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.tarSize >= 0 {
		return l.tarSize, nil
	}
	if info.TarSize >= 0 {
		l.tarSize = info.TarSize
		return l.tarSize, nil
	}
	z, err := l.split()
	if err != nil {
		return 0, err
	}
	defer z.Close()
	n, err := layer.SplitSize(z)
	if err != nil {
		return 0, fmt.Errorf("layer %s: %w", l.chain, err)
	}
	l.tarSize = n
	return n, nil
}

// sharedTar is an open tar with the number of its users.
type sharedTar struct {
	store.File
	spill *os.File
	uses  int
}

// tarHandle is one user's hold on a sharedTar.
type tarHandle struct {
	store.File
	l    *layerRec
	t    *sharedTar
	once sync.Once
}

func (h *tarHandle) Close() error {
	h.once.Do(func() {
		h.l.mu.Lock()
		defer h.l.mu.Unlock()
		if h.t.uses--; h.t.uses > 0 {
			return
		}
		h.t.File.Close()
		if h.t.spill != nil {
			h.t.spill.Close()
		}
		if h.l.tar == h.t {
			h.l.tar = nil
		}
	})
	return nil
}

// Tar implements store.Layer. All users of one layer share the map of its tar.
func (l *layerRec) Tar(ctx context.Context) (store.File, error) {
	_, info, err := l.view(ctx)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.tar == nil {
		dir, err := l.open()
		if err != nil {
			return nil, err
		}
		t := &sharedTar{}
		if info.Spilled {
			if t.spill, err = l.s.root.OpenFile(spillDir+"/"+l.Key(), os.O_RDONLY, 0); err != nil {
				return nil, fmt.Errorf("layer %s: %w: %w", l.chain, store.ErrCorrupt, err)
			}
		}
		t.File, err = layer.OpenTar(layer.TarSource{Split: l.split, Dir: dir, Spill: t.spill, Temp: tempFile})
		if err != nil {
			if t.spill != nil {
				t.spill.Close()
			}
			return nil, fmt.Errorf("layer %s: %w", l.chain, err)
		}
		l.tar = t
	}
	l.tar.uses++
	return &tarHandle{File: l.tar.File, l: l, t: l.tar}, nil
}

// tempFile makes a file that has no name.
func tempFile() (*os.File, error) {
	f, err := os.CreateTemp("", "imagefs-")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// close lets go of the descriptors. The index stays mapped: trees may still use it.
func (l *layerRec) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dir != nil {
		l.dir.Close()
		l.dir = nil
	}
}
