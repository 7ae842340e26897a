package docker

import (
	"cmp"
	"errors"
	"io/fs"
	"maps"
	"slices"
	"strings"

	digest "github.com/opencontainers/go-digest"

	"imagefs/store"
)

// value reads a file of one value, "" if there is none or it is none. An error
// says that it could not be read now: what it says may matter.
func (s *Store) value(p string) (string, error) {
	b, err := s.root.Read(p, maxSmall)
	if err = classify(err); err == nil {
		return strings.TrimSpace(string(b)), nil
	}
	if errors.Is(err, fs.ErrNotExist) || isDamaged(err) {
		return "", nil
	}
	return "", err
}

// list returns the names in a directory, none if there is none.
func (s *Store) list(p string) ([]string, error) {
	names, err := s.root.List(p)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return names, err
}

// cachesInUse returns the cache IDs that the store's layers and containers
// have. Two layers have the same only in a store that was tampered with, or
// damaged, but then the directory of one must not go with the other.
func (s *Store) cachesInUse() (map[string]bool, error) {
	used := map[string]bool{}
	for _, from := range []struct {
		dir   string
		files []string
	}{{overlay2.layers, []string{"cache-id"}}, {overlay2.mounts, []string{"mount-id", "init-id"}}} {
		names, err := s.list(from.dir)
		if err != nil {
			return nil, err
		}
		for _, n := range names {
			if strings.HasSuffix(n, "-removing") {
				continue
			}
			for _, f := range from.files {
				id, err := s.value(from.dir + "/" + n + "/" + f)
				if err != nil {
					return nil, err
				}
				used[id] = true
			}
		}
	}
	return used, nil
}

// mounted returns the chain IDs that containers stand on.
func (s *Store) mounted() ([]digest.Digest, error) {
	names, err := s.list(overlay2.mounts)
	if err != nil {
		return nil, err
	}
	var out []digest.Digest
	for _, n := range names {
		c, err := s.value(overlay2.mounts + "/" + n + "/parent")
		if err != nil {
			return nil, err
		}
		if store.IsID(digest.Digest(c)) {
			out = append(out, digest.Digest(c))
		}
	}
	return out, nil
}

// above returns, by chain ID, the layers that stand directly on it, of images or
// not: those of BuildKit's cache belong to none.
func (s *Store) above() (map[digest.Digest][]digest.Digest, error) {
	names, err := s.list(overlay2.layers)
	if err != nil {
		return nil, err
	}
	out := map[digest.Digest][]digest.Digest{}
	for _, n := range names {
		if !store.IsHex64(n) {
			continue
		}
		parent, err := s.value(overlay2.layers + "/" + n + "/parent")
		if err != nil {
			return nil, err
		}
		if p := digest.Digest(parent); p != "" {
			out[p] = append(out[p], digest.NewDigestFromEncoded(digest.SHA256, n))
		}
	}
	return out, nil
}

// chains returns the chain IDs of an image's layers, bottom first. With an error
// that isBroken the image is broken, and keeps no layers.
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

// isBroken tells whether an error says that an image is broken, as opposed to that
// it could not be read now: then nobody knows which layers it needs.
func isBroken(err error) bool { return errors.Is(err, store.ErrNotFound) || isDamaged(err) }

// harmless takes out of the record of a removal what it must not take, or not any
// more: a record may be a stranger's, and since the process that wrote it died an
// engine may have changed the store.
func (s *Store) harmless(r record) (record, error) {
	if r.Op == opLoad {
		return r, nil
	}
	now, err := s.readRepos()
	if err != nil {
		return r, err
	}
	names := now.names(nil)
	leads := func(ref string, id digest.Digest) bool { return names.Tags[ref] == id || names.Digests[ref] == id }
	r.Untag = maps.Clone(r.Untag)
	maps.DeleteFunc(r.Untag, func(ref string, id digest.Digest) bool { return !leads(ref, id) })
	named := map[digest.Digest]bool{}
	for _, m := range []map[string]digest.Digest{names.Tags, names.Digests} {
		for ref, id := range m {
			if r.Untag[ref] != id && r.Names[ref] != id {
				named[id] = true
			}
		}
	}
	r.Images = slices.DeleteFunc(slices.Clone(r.Images), func(i recordImage) bool { return named[i.ID] })
	if len(r.Layers) == 0 {
		return r, nil
	}
	r.Layers, err = s.unneeded(r)
	return r, err
}

// unneeded returns the layers of a record that nothing stands on but what goes with them.
func (s *Store) unneeded(r record) ([]recordLayer, error) {
	needed, err := s.neededWithout(r.Images)
	if err != nil {
		return nil, err
	}
	above, err := s.above()
	if err != nil {
		return nil, err
	}
	going, other := map[digest.Digest]bool{}, map[digest.Digest]bool{}
	for _, l := range r.Layers {
		cache, err := s.value(overlay2.layers + "/" + l.Chain.Encoded() + "/cache-id")
		if err != nil {
			return nil, err
		}
		going[l.Chain] = true
		// Of a layer that was made again since, the old content is in nobody's way.
		other[l.Chain] = cache != l.Cache
	}
	stays := func(l recordLayer) bool {
		return !other[l.Chain] && (needed[l.Chain] || slices.ContainsFunc(above[l.Chain], func(c digest.Digest) bool { return !going[c] }))
	}
	out := slices.Clone(r.Layers)
	for n := -1; n != len(out); {
		n = len(out)
		out = slices.DeleteFunc(out, func(l recordLayer) bool {
			if !stays(l) {
				return false
			}
			delete(going, l.Chain)
			return true
		})
	}
	return out, nil
}

// neededWithout returns the layers of all images but some, and those that containers stand on.
func (s *Store) neededWithout(gone []recordImage) (map[digest.Digest]bool, error) {
	names, err := s.list(overlay2.content)
	if err != nil {
		return nil, err
	}
	needed := map[digest.Digest]bool{}
	for _, n := range names {
		id := digest.NewDigestFromEncoded(digest.SHA256, n)
		if !store.IsHex64(n) || slices.ContainsFunc(gone, func(i recordImage) bool { return i.ID == id }) {
			continue
		}
		chains, err := s.chains(id)
		if err != nil && !isBroken(err) {
			return nil, err
		}
		for _, c := range chains {
			needed[c] = true
		}
	}
	mounted, err := s.mounted()
	for _, c := range mounted {
		needed[c] = true
	}
	return needed, err
}

// own tells whether the store is ours alone. Engines keep layers that belong to
// no image (build caches, containers); this program does not.
func (s *Store) own() bool {
	return s.root.IsDir(ownDir) && !s.root.IsDir("buildkit") && !s.root.IsDir("containers")
}

// byDepth returns the layers that there are, from the top.
func (s *Store) byDepth() []digest.Digest {
	names, err := s.root.List(overlay2.layers)
	if err != nil {
		return nil
	}
	depth := map[digest.Digest]int{}
	for _, n := range names {
		if store.IsHex64(n) {
			depth[digest.NewDigestFromEncoded(digest.SHA256, n)] = 0
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
