package docker

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	digest "github.com/opencontainers/go-digest"

	"imagefs/store"
	"imagefs/store/beneath"
)

// The operations of a journal record.
const (
	opLoad   = "load"   // put staged layers, configs and names in place
	opUnload = "unload" // take back a load that failed half way
	opRemove = "remove" // take away names, images and layers
)

// record says what is being done to the store, so that it can be finished by
// another process. Every step it stands for can be repeated.
type record struct {
	Op     string                   `json:"op"`
	Stage  string                   `json:"stage,omitempty"`
	Layers []recordLayer            `json:"layers,omitempty"` // load: bottom first; remove: top first
	Images []recordImage            `json:"images,omitempty"`
	Names  map[string]digest.Digest `json:"names,omitempty"` // to set
	Untag  []string                 `json:"untag,omitempty"`
}

type recordLayer struct {
	Chain  digest.Digest `json:"chain"`
	Parent digest.Digest `json:"parent,omitempty"`
	Cache  string        `json:"cache"`
	Link   string        `json:"link,omitempty"`
	Dir    string        `json:"dir,omitempty"` // in the stage
}

type recordImage struct {
	ID     digest.Digest `json:"id"`
	Parent digest.Digest `json:"parent,omitempty"`
}

var (
	stageName = regexp.MustCompile(`^[0-9a-f]{16}$`)
	linkName  = regexp.MustCompile(`^[0-9A-Z]{1,64}$`)
)

// valid refuses a record that this program would not write: a store may come from a stranger.
func (r record) valid() error {
	bad := func(what, v string) error {
		return fmt.Errorf("journal: %s %.80q: %w", what, v, store.ErrCorrupt)
	}
	if r.Op != opLoad && r.Op != opUnload && r.Op != opRemove {
		return bad("operation", r.Op)
	}
	if r.Stage != "" && !stageName.MatchString(r.Stage) {
		return bad("stage", r.Stage)
	}
	for _, l := range r.Layers {
		switch {
		case !isID(l.Chain):
			return bad("chain ID", string(l.Chain))
		case l.Parent != "" && !isID(l.Parent):
			return bad("parent", string(l.Parent))
		case !cacheID.MatchString(l.Cache) || l.Cache == "l":
			return bad("cache ID", l.Cache)
		case l.Link != "" && !linkName.MatchString(l.Link):
			return bad("link", l.Link)
		}
		if _, err := strconv.ParseUint(l.Dir, 10, 32); err != nil && l.Dir != "" {
			return bad("directory", l.Dir)
		}
	}
	for _, i := range r.Images {
		if !isID(i.ID) || i.Parent != "" && !isID(i.Parent) {
			return bad("image ID", string(i.ID))
		}
	}
	for ref, id := range r.Names {
		if f, err := store.FamiliarTag(ref); err != nil || f != ref || !isID(id) {
			return bad("name", ref)
		}
	}
	return nil
}

// begin makes a record durable; from here on it will be done.
func (s *Store) begin(r record) (file string, err error) {
	file = fmt.Sprintf("%s/%020d-%s.json", journalDir, time.Now().UnixNano(), beneath.Random(4))
	return file, s.writeRecord(file, r)
}

func (s *Store) writeRecord(file string, r record) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return readOnly(s.root.Write(file, b, 0o600))
}

// end forgets a record that is done.
func (s *Store) end(file string) error {
	if err := s.root.Remove(file); err != nil {
		return err
	}
	return s.root.SyncDir(journalDir)
}

// redoAll finishes the records that are there. The lock is held.
func (s *Store) redoAll() error {
	names, err := s.root.List(journalDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, n := range names {
		if !strings.HasSuffix(n, ".json") || strings.HasPrefix(n, ".") {
			continue
		}
		file := journalDir + "/" + n
		b, err := s.root.Read(file, 64<<20)
		if err != nil {
			return classify(err)
		}
		var r record
		if err := json.Unmarshal(b, &r); err != nil {
			return fmt.Errorf("%s: %w: %w", file, store.ErrCorrupt, err)
		}
		if err := r.valid(); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		s.log.Info("finishing what an interrupted process began", "op", r.Op)
		if err := s.do(r); err != nil {
			return fmt.Errorf("finish interrupted %s: %w", r.Op, err)
		}
		if err := s.end(file); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) do(r record) error {
	switch r.Op {
	case opLoad:
		return s.doLoad(r)
	case opUnload:
		return s.doUnload(r)
	default:
		return s.doRemove(r)
	}
}

// doLoad puts everything in place: layers bottom first, configs, names.
func (s *Store) doLoad(r record) error {
	for _, l := range r.Layers {
		if err := s.placeLayer(r.Stage, l); err != nil {
			return err
		}
	}
	if len(r.Layers) > 0 {
		for _, d := range []string{overlayDir, linkDir, indexDir, spillDir, layerDir} {
			if err := s.root.SyncDir(d); err != nil {
				return err
			}
		}
	}
	for _, i := range r.Images {
		if err := s.move(stageDir+"/"+r.Stage+"/config-"+i.ID.Encoded(), contentDir+"/"+i.ID.Encoded()); err != nil {
			return err
		}
		step("config")
		if i.Parent != "" {
			d := metadataDir + "/" + i.ID.Encoded()
			if err := s.root.Mkdir(d, 0o700); err != nil {
				return err
			}
			if err := s.root.Write(d+"/parent", []byte(i.Parent), 0o600); err != nil {
				return err
			}
		}
	}
	if len(r.Images) > 0 {
		if err := s.root.SyncDir(contentDir); err != nil {
			return err
		}
	}
	if len(r.Names) > 0 {
		step("names")
		if err := s.changeNames(r.Names, nil); err != nil {
			return err
		}
	}
	step("clear")
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
	if err := s.move(from+"/overlay", overlayDir+"/"+l.Cache); err != nil {
		return err
	}
	step("overlay2")
	if !s.root.Exists(linkDir + "/" + l.Link) {
		if err := s.root.Symlink("../"+l.Cache+"/diff", linkDir+"/"+l.Link); err != nil {
			return err
		}
	}
	step("link")
	if l.Parent != "" {
		if up, err := s.root.Read(layerDir+"/"+l.Parent.Encoded()+"/cache-id", maxSmall); err == nil && cacheID.Match(up) {
			f, err := s.root.OpenFile(overlayDir+"/"+string(up)+"/committed", os.O_WRONLY|os.O_CREATE, 0o600)
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
	step("index")
	if s.root.Exists(from + "/layerdb") {
		// What is there in its place is broken, or the layer would not have been staged.
		if err := s.root.RemoveAll(layerDir + "/" + l.Chain.Encoded()); err != nil {
			return err
		}
	}
	if err := s.move(from+"/layerdb", layerDir+"/"+l.Chain.Encoded()); err != nil {
		return err
	}
	step("layerdb")
	return nil
}

// doUnload takes back what doLoad has done so far. Names come last in a load
// and are one step, so there are none to take back.
func (s *Store) doUnload(r record) error {
	var errs []error
	for _, i := range r.Images {
		errs = append(errs, s.root.Remove(contentDir+"/"+i.ID.Encoded()), s.root.RemoveAll(metadataDir+"/"+i.ID.Encoded()))
	}
	for n := len(r.Layers) - 1; n >= 0; n-- {
		errs = append(errs, s.dropLayer(r.Layers[n]))
	}
	if r.Stage != "" {
		errs = append(errs, s.root.RemoveAll(stageDir+"/"+r.Stage))
	}
	return errors.Join(errs...)
}

// doRemove takes names, configs and layers away, in the order in which a dockerd does.
func (s *Store) doRemove(r record) error {
	if len(r.Untag) > 0 {
		if err := s.changeNames(nil, r.Untag); err != nil {
			return err
		}
		step("names")
	}
	for _, i := range r.Images {
		if err := s.root.RemoveAll(metadataDir + "/" + i.ID.Encoded()); err != nil {
			return err
		}
		step("metadata")
		if err := s.root.Remove(contentDir + "/" + i.ID.Encoded()); err != nil {
			return err
		}
		step("config")
	}
	if len(r.Images) > 0 {
		if err := s.root.SyncDir(contentDir); err != nil {
			return err
		}
	}
	for _, l := range r.Layers {
		if err := s.dropLayer(l); err != nil {
			return err
		}
	}
	return nil
}

// dropLayer removes a layer, unless its chain ID now stands for another directory.
func (s *Store) dropLayer(l recordLayer) error {
	chain, gone := layerDir+"/"+l.Chain.Encoded(), layerDir+"/"+l.Chain.Encoded()+"-"+l.Cache+"-removing"
	if id, err := s.root.Read(chain+"/cache-id", maxSmall); err == nil && string(id) == l.Cache {
		if err := s.root.Rename(chain, gone); err != nil {
			return err
		}
		if err := s.root.SyncDir(layerDir); err != nil {
			return err
		}
	}
	step("layerdb")
	link := l.Link
	if link == "" {
		if b, err := s.root.Read(overlayDir+"/"+l.Cache+"/link", maxSmall); err == nil {
			link = strings.TrimSpace(string(b))
		}
	}
	if linkName.MatchString(link) {
		if err := s.root.Remove(linkDir + "/" + link); err != nil {
			return err
		}
	}
	step("link")
	for _, p := range []string{overlayDir + "/" + l.Cache, indexDir + "/" + l.Chain.Encoded() + "-" + l.Cache, spillDir + "/" + l.Chain.Encoded() + "-" + l.Cache, gone} {
		if err := s.root.RemoveAll(p); err != nil {
			return err
		}
		step("tree")
	}
	s.forget(l)
	return nil
}

// forget drops a removed layer's record; trees that still use its index keep it.
func (s *Store) forget(l recordLayer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := l.Chain.Encoded() + "-" + l.Cache
	if rec, ok := s.layers[key]; ok {
		delete(s.layers, key)
		rec.close()
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
	return readOnly(s.root.Write(reposFile, b, 0o600))
}

// repoOf returns the repository of a familiar reference.
func repoOf(ref string) string {
	if i := strings.IndexByte(ref, '@'); i >= 0 {
		return ref[:i]
	}
	return ref[:max(strings.LastIndexByte(ref, ':'), 0)]
}
