package docker

import (
	"cmp"
	"errors"
	"io/fs"
	"slices"
	"strings"

	digest "github.com/opencontainers/go-digest"

	"imagefs/store"
)

// cachesInUse returns the cache IDs that the store's layers and containers
// have. Two layers have the same only in a store that was tampered with, or
// damaged, but then the directory of one must not go with the other.
func (s *Store) cachesInUse() (map[string]bool, error) {
	used := map[string]bool{}
	for _, from := range []struct {
		dir   string
		files []string
	}{{overlay2.layers, []string{"cache-id"}}, {overlay2.mounts, []string{"mount-id", "init-id"}}} {
		names, err := s.root.List(from.dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		for _, n := range names {
			if strings.HasSuffix(n, "-removing") {
				continue
			}
			for _, f := range from.files {
				if b, err := s.root.Read(from.dir+"/"+n+"/"+f, maxSmall); err == nil {
					used[strings.TrimSpace(string(b))] = true
				}
			}
		}
	}
	return used, nil
}

// chains returns the chain IDs of an image's layers, bottom first. The error is
// that of an image that is broken: it keeps no layers.
func (s *Store) chains(id digest.Digest) ([]digest.Digest, error) {
	raw, err := s.config(id)
	if err != nil {
		return nil, err
	}
	cfg, err := store.ParseConfig(raw)
	if err != nil {
		return nil, err
	}
	out := make([]digest.Digest, len(cfg.DiffIDs))
	var chain digest.Digest
	for n, d := range cfg.DiffIDs {
		chain = store.NextChainID(chain, d)
		out[n] = chain
	}
	return out, nil
}

// harmless takes out of the record of a removal the layers of images that it
// does not remove: a record may be a stranger's.
func (s *Store) harmless(r record) (record, error) {
	if r.Op == opLoad || len(r.Layers) == 0 {
		return r, nil
	}
	names, err := s.root.List(overlay2.content)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return r, err
	}
	needed := map[digest.Digest]bool{}
	for _, n := range names {
		id := digest.NewDigestFromEncoded(digest.SHA256, n)
		if !store.IsHex64(n) || slices.ContainsFunc(r.Images, func(i recordImage) bool { return i.ID == id }) {
			continue
		}
		chains, _ := s.chains(id)
		for _, c := range chains {
			needed[c] = true
		}
	}
	r.Layers = slices.DeleteFunc(slices.Clone(r.Layers), func(l recordLayer) bool { return needed[l.Chain] })
	return r, nil
}

// own tells whether the store is ours alone. Engines keep layers that belong to
// no image (build caches, containers); this program does not.
func (s *Store) own() bool {
	return s.root.IsDir(ownDir) && !s.root.IsDir("buildkit") && !s.root.IsDir("containers")
}

// orphans returns the layers that no image needs, from the top.
func (s *Store) orphans(needed map[digest.Digest]bool) []digest.Digest {
	names, err := s.root.List(overlay2.layers)
	if err != nil {
		return nil
	}
	depth := map[digest.Digest]int{}
	for _, n := range names {
		if id := digest.NewDigestFromEncoded(digest.SHA256, n); store.IsHex64(n) && !needed[id] {
			depth[id] = 0
		}
	}
	for id := range depth {
		n := 0
		for c := id; n < store.MaxLayers; n++ {
			b, err := s.root.Read(overlay2.layers+"/"+c.Encoded()+"/parent", maxSmall)
			if c = digest.Digest(b); err != nil || !store.IsID(c) {
				break
			}
		}
		depth[id] = n
	}
	out := make([]digest.Digest, 0, len(depth))
	for id := range depth {
		out = append(out, id)
	}
	slices.SortFunc(out, func(a, b digest.Digest) int {
		return cmp.Or(cmp.Compare(depth[b], depth[a]), cmp.Compare(a, b))
	})
	return out
}
