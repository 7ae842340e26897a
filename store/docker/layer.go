package docker

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"sync/atomic"

	digest "github.com/opencontainers/go-digest"

	"imagefs/store"
	"imagefs/store/unpacked"
)

// layerRec is a layer of the store, one for each chain ID and cache ID.
type layerRec struct {
	s             *Store
	chain, parent digest.Digest
	diff          digest.Digest
	cache         string
	dir           string // of its content, in the store
	upper         bool   // dir is an overlayfs's upper directory, though the driver has whole trees
	size          int64
	broken        error // what is wrong with it on disk; then only the IDs count

	*unpacked.Layer
	blob atomic.Pointer[digest.Digest] // what readBlob returned
}

var (
	_ store.Layer     = (*layerRec)(nil)
	_ unpacked.Source = (*layerRec)(nil)
	_ unpacked.Keeper = (*layerRec)(nil)
)

// isCacheID tells whether s is what engines name layer directories: hex, base36,
// and for containers a suffix. No separators, no dot at the start. By hand, as
// its neighbours: compiling an expression is a tenth of what a mount takes.
func isCacheID[S string | []byte](s S) bool {
	return isMade(s, 128, func(c byte) bool {
		return c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'z' || c == '_' || c == '-'
	}) &&
		s[0] != '_' && s[0] != '-'
}

// isMade tells whether s has 1 to most bytes, and only such.
func isMade[S string | []byte](s S, most int, only func(byte) bool) bool {
	if len(s) == 0 || len(s) > most {
		return false
	}
	for i := range len(s) {
		if !only(s[i]) {
			return false
		}
	}
	return true
}

// layer returns the record of a layer, the same one as long as its directory is the same.
func (s *Store) layer(chain, parent, diff digest.Digest) *layerRec {
	cache, size, err := s.readLayer(chain, parent, diff)
	if err != nil {
		return s.newLayer(&layerRec{chain: chain, parent: parent, diff: diff, size: size, broken: err})
	}
	rec := &layerRec{chain: chain, parent: parent, diff: diff, cache: cache, size: size}
	if rec.dir, rec.upper, err = s.content(cache); err != nil {
		rec.broken = fmt.Errorf("layer %s: %w", chain, err)
		return s.newLayer(rec)
	}
	key := rec.key()
	s.mu.Lock()
	defer s.mu.Unlock()
	if l, ok := s.layers[key]; ok {
		return l
	}
	l := s.newLayer(rec)
	if s.layers != nil {
		s.layers[key] = l
	}
	return l
}

func (s *Store) newLayer(l *layerRec) *layerRec {
	l.s = s
	l.Layer = s.set.New(l.key(), l.diff, l)
	return l
}

// readLayer reads a layer's records and checks them against each other.
func (s *Store) readLayer(chain, parent, diff digest.Digest) (cache string, size int64, err error) {
	d := s.at.layers + "/" + chain.Encoded() + "/"
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
	if !isCacheID(cache) || cache == "l" {
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
	if err == nil {
		if _, _, err = s.content(cache); err != nil {
			err = fmt.Errorf("layer %s: %w", chain, err)
		}
	}
	return cache, size, err
}

// content finds the directory of a layer's content. Those that BuildKit makes
// with the overlay driver have no whole tree but the upper directory of the
// mount that they were made in. It has all that was changed since the nearest
// layer below that has a tree, and so all of the layer's own.
func (s *Store) content(cache string) (dir string, upper bool, err error) {
	dir = s.at.layer(cache)
	if s.root.IsDir(dir) {
		return dir, false, nil
	}
	if s.at.upper != "" {
		if up := s.at.before + cache + s.at.upper; s.root.IsDir(up) {
			return up, true, nil
		}
	}
	return "", false, fmt.Errorf("no directory %s: %w", dir, store.ErrCorrupt)
}

func (l *layerRec) ChainID() digest.Digest { return l.chain }
func (l *layerRec) Size() int64            { return l.size }

// key names the layer's directory and what was unpacked into it.
func (l *layerRec) key() string { return l.chain.Encoded() + "-" + l.cache }

// Digest implements store.Layer, from what a pull recorded.
func (l *layerRec) Digest() digest.Digest {
	if m, ok := l.Known(); ok && m.Blob != "" {
		return m.Blob
	}
	if d := l.blob.Load(); d != nil {
		return *d
	}
	d, err := l.readBlob()
	if err == nil {
		l.blob.Store(&d)
	}
	return d
}

// readBlob returns what a pull recorded, "" if nothing is. With an error that could
// not be read now.
func (l *layerRec) readBlob() (digest.Digest, error) {
	b, err := l.s.root.Read(l.s.at.dist+"/v2metadata-by-diffid/sha256/"+l.diff.Encoded(), 1<<20)
	if errors.Is(err, fs.ErrNotExist) || isDamaged(classify(err)) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	var meta []struct{ Digest digest.Digest }
	if json.Unmarshal(b, &meta) == nil && len(meta) > 0 && meta[0].Digest.Validate() == nil {
		return meta[0].Digest, nil
	}
	return "", nil
}

// HasTar implements store.TarHolder. Of a layer that is being removed Tar says so.
func (l *layerRec) HasTar() bool {
	return l.broken == nil && (l.s.root.Exists(l.s.at.layers+"/"+l.chain.Encoded()+"/tar-split.json.gz") || !l.There())
}
