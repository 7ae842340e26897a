package docker

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	digest "github.com/opencontainers/go-digest"

	"imagefs/store"
)

// doLoad puts everything in place: layers bottom first, configs, names.
func (s *Store) doLoad(r record) error {
	for _, l := range r.Layers {
		if err := s.placeLayer(r.Stage, l); err != nil {
			return err
		}
	}
	if len(r.Layers) > 0 {
		for _, d := range []string{overlay2.home, overlay2.links, indexDir, spillDir, overlay2.layers} {
			if err := s.root.SyncDir(d); err != nil {
				return err
			}
		}
	}
	for _, i := range r.Images {
		if err := s.move(stageDir+"/"+r.Stage+"/config-"+i.ID.Encoded(), overlay2.content+"/"+i.ID.Encoded()); err != nil {
			return err
		}
		if i.Parent != "" {
			d := overlay2.metadata + "/" + i.ID.Encoded()
			if err := s.root.Mkdir(d, 0o700); err != nil {
				return err
			}
			if err := s.root.WriteVia(stageDir, d+"/parent", []byte(i.Parent), 0o600); err != nil {
				return err
			}
		}
	}
	if len(r.Images) > 0 {
		if err := s.root.SyncDir(overlay2.content); err != nil {
			return err
		}
	}
	if len(r.Names) > 0 {
		if err := s.changeNames(r.Names, nil); err != nil {
			return err
		}
	}
	if r.Stage == "" {
		return nil
	}
	// The load is done; what is left of its stage is cleared at the next start at the latest.
	if err := s.root.RemoveAll(stageDir + "/" + r.Stage); err != nil {
		s.log.Warn("cannot clear the stage of a load", "err", err)
	}
	return nil
}

// move renames what is still at its old place.
func (s *Store) move(from, to string) error {
	if !s.root.Exists(from) {
		if !s.root.Exists(to) {
			return fmt.Errorf("%s is lost: %w", to, store.ErrCorrupt)
		}
		return nil
	}
	return s.root.Rename(from, to)
}

func (s *Store) placeLayer(stage string, l recordLayer) error {
	from := stageDir + "/" + stage + "/" + l.Dir
	key := l.Chain.Encoded() + "-" + l.Cache
	if err := s.move(from+"/overlay", overlay2.home+"/"+l.Cache); err != nil {
		return err
	}
	if !s.root.Exists(overlay2.links + "/" + l.Link) {
		if err := s.root.Symlink("../"+l.Cache+"/diff", overlay2.links+"/"+l.Link); err != nil {
			return err
		}
	}
	if l.Parent != "" {
		if up, err := s.root.Read(overlay2.layers+"/"+l.Parent.Encoded()+"/cache-id", maxSmall); err == nil && isCacheID(up) {
			f, err := s.root.OpenFile(overlay2.home+"/"+string(up)+"/committed", os.O_WRONLY|os.O_CREATE, 0o600)
			if err != nil {
				return err
			}
			f.Close()
		}
	}
	for _, m := range [][2]string{{"/index", indexDir}, {"/spill", spillDir}} {
		if s.root.Exists(from + m[0]) {
			if err := s.root.Rename(from+m[0], m[1]+"/"+key); err != nil {
				return err
			}
		}
	}
	if s.root.Exists(from + "/layerdb") {
		// What is there in its place is broken, or the layer would not have been staged.
		if err := s.root.RemoveAll(overlay2.layers + "/" + l.Chain.Encoded()); err != nil {
			return err
		}
	}
	if err := s.move(from+"/layerdb", overlay2.layers+"/"+l.Chain.Encoded()); err != nil {
		return err
	}
	return nil
}

// errLeft: what was to be removed is gone from the store, but something of it
// is still on disk. That is in nobody's way.
var errLeft = errors.New("not everything could be deleted, the rest is at the next start")

// doUnload takes back what doLoad has done so far. Names come last in a load
// and are one step; if even that was done, those of the load's new images go.
func (s *Store) doUnload(r record) error {
	now, err := s.readRepos()
	if err != nil {
		return err
	}
	var untag []string
	for ref, id := range now.names(nil).Tags {
		if r.Names[ref] == id && slices.ContainsFunc(r.Images, func(i recordImage) bool { return i.ID == id }) {
			untag = append(untag, ref)
		}
	}
	if len(untag) > 0 {
		if err := s.changeNames(nil, untag); err != nil {
			return err
		}
	}
	for _, i := range r.Images {
		err := errors.Join(s.root.Remove(overlay2.content+"/"+i.ID.Encoded()), s.root.RemoveAll(overlay2.metadata+"/"+i.ID.Encoded()))
		if err != nil {
			return err
		}
	}
	layers := slices.Clone(r.Layers)
	slices.Reverse(layers)
	err = s.dropLayers(layers)
	if r.Stage != "" && (err == nil || errors.Is(err, errLeft)) {
		if left := s.root.RemoveAll(stageDir + "/" + r.Stage); left != nil {
			err = fmt.Errorf("%w: %w", errLeft, left)
		}
	}
	return err
}

// doRemove takes names, configs and layers away, in the order in which a dockerd does.
func (s *Store) doRemove(r record) error {
	if len(r.Untag) > 0 {
		if err := s.changeNames(nil, slices.Collect(maps.Keys(r.Untag))); err != nil {
			return err
		}
	}
	for _, i := range r.Images {
		if err := s.root.RemoveAll(overlay2.metadata + "/" + i.ID.Encoded()); err != nil {
			return err
		}
		if err := s.root.Remove(overlay2.content + "/" + i.ID.Encoded()); err != nil {
			return err
		}
	}
	if len(r.Images) > 0 {
		if err := s.root.SyncDir(overlay2.content); err != nil {
			return err
		}
	}
	return s.dropLayers(r.Layers)
}

func removing(l recordLayer) string {
	return overlay2.layers + "/" + l.Chain.Encoded() + "-" + l.Cache + "-removing"
}

// dropLayers removes layers, top first: their records, after which they are
// gone, then their content; errLeft if some of that stays.
func (s *Store) dropLayers(layers []recordLayer) error {
	for _, l := range layers {
		chain := overlay2.layers + "/" + l.Chain.Encoded()
		// The chain ID may stand for another directory by now.
		if id, err := s.root.Read(chain+"/cache-id", maxSmall); err == nil && string(id) == l.Cache {
			if err := s.root.Rename(chain, removing(l)); err != nil {
				return err
			}
		}
	}
	if len(layers) > 0 {
		if err := s.root.SyncDir(overlay2.layers); err != nil {
			return err
		}
	}
	var left []error
	used := map[string]bool{}
	if len(layers) > 0 {
		var err error
		if used, err = s.cachesInUse(); err != nil {
			return err
		}
	}
	for _, l := range layers {
		if err := s.dropContent(l, used[l.Cache]); err != nil {
			left = append(left, err)
		}
		s.forget(l)
	}
	if len(left) > 0 {
		return fmt.Errorf("%w: %w", errLeft, errors.Join(left...))
	}
	return nil
}

// dropContent removes what belongs to a layer whose record is gone. The
// directory stays if others use it.
func (s *Store) dropContent(l recordLayer, used bool) error {
	key := l.Chain.Encoded() + "-" + l.Cache
	own := []string{indexDir + "/" + key, spillDir + "/" + key, removing(l)}
	if used {
		s.log.Warn("a layer's directory stays: another layer or a container has the same", "layer", l.Chain, "cache-id", l.Cache)
	} else {
		if err := s.dropLink(l); err != nil {
			return err
		}
		own = append([]string{overlay2.home + "/" + l.Cache}, own...)
	}
	for _, p := range own {
		if err := s.root.RemoveAll(p); err != nil {
			return err
		}
	}
	return nil
}

// dropLink removes the short name of a layer's directory.
func (s *Store) dropLink(l recordLayer) error {
	link := l.Link
	if link == "" {
		if b, err := s.root.Read(overlay2.home+"/"+l.Cache+"/link", maxSmall); err == nil {
			link = strings.TrimSpace(string(b))
		}
	}
	if !isLinkName(link) {
		return nil
	}
	if to, err := s.root.Readlink(overlay2.links + "/" + link); err != nil || to != "../"+l.Cache+"/diff" {
		return nil
	}
	return s.root.Remove(overlay2.links + "/" + link)
}

// forget drops a removed layer's record; trees that still use its index keep it.
func (s *Store) forget(l recordLayer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := l.Chain.Encoded() + "-" + l.Cache
	if rec, ok := s.layers[key]; ok {
		delete(s.layers, key)
		rec.Close()
	}
}

// changeNames sets and removes references in one step.
func (s *Store) changeNames(set map[string]digest.Digest, remove []string) error {
	r, err := s.readRepos()
	if err != nil {
		return err
	}
	for _, ref := range remove {
		for repo, refs := range r.Repositories {
			if _, ok := refs[ref]; ok {
				delete(refs, ref)
				if len(refs) == 0 {
					delete(r.Repositories, repo)
				}
			}
		}
	}
	for ref, id := range set {
		repo := repoOf(ref)
		if r.Repositories[repo] == nil {
			r.Repositories[repo] = map[string]digest.Digest{}
		}
		r.Repositories[repo][ref] = id
	}
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return readOnly(s.root.Write(overlay2.repos, b, 0o600))
}

// repoOf returns the repository of a familiar reference.
func repoOf(ref string) string {
	if i := strings.IndexByte(ref, '@'); i >= 0 {
		return ref[:i]
	}
	return ref[:max(strings.LastIndexByte(ref, ':'), 0)]
}
