package docker

import (
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

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
	Untag  map[string]digest.Digest `json:"untag,omitempty"` // to take away while they lead there
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

func isStageName(s string) bool {
	return len(s) == 16 && isMade(s, 16, func(c byte) bool { return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' })
}

func isLinkName[S string | []byte](s S) bool {
	return isMade(s, 64, func(c byte) bool { return c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' })
}

// valid refuses a record that this program would not write: a store may come from a stranger.
func (r record) valid() error {
	bad := func(what, v string) error {
		return fmt.Errorf("journal: %s %.80q: %w", what, v, store.ErrCorrupt)
	}
	if r.Op != opLoad && r.Op != opUnload && r.Op != opRemove {
		return bad("operation", r.Op)
	}
	if r.Stage != "" && !isStageName(r.Stage) {
		return bad("stage", r.Stage)
	}
	for _, l := range r.Layers {
		switch {
		case !store.IsID(l.Chain):
			return bad("chain ID", string(l.Chain))
		case l.Parent != "" && !store.IsID(l.Parent):
			return bad("parent", string(l.Parent))
		case !isCacheID(l.Cache) || l.Cache == "l":
			return bad("cache ID", l.Cache)
		case l.Link != "" && !isLinkName(l.Link):
			return bad("link", l.Link)
		}
		if _, err := strconv.ParseUint(l.Dir, 10, 32); err != nil && l.Dir != "" {
			return bad("directory", l.Dir)
		}
	}
	for _, i := range r.Images {
		if !store.IsID(i.ID) || i.Parent != "" && !store.IsID(i.Parent) {
			return bad("image ID", string(i.ID))
		}
	}
	for ref, id := range r.Names {
		if f, err := store.FamiliarTag(ref); err != nil || f != ref || !store.IsID(id) {
			return bad("name", ref)
		}
	}
	for ref, id := range r.Untag {
		if !store.IsID(id) {
			return bad("image ID of "+ref, string(id))
		}
	}
	return nil
}

// begin makes a record durable; from here on it will be done.
func (s *Store) begin(r record) (file string, err error) {
	file = fmt.Sprintf("%s/%020d-%s.json", journalDir, time.Now().UnixNano(), beneath.Random(4))
	if err := s.writeRecord(file, r); err != nil {
		_ = s.root.Remove(file) // it may be there: what is said to have failed is not done later
		return "", err
	}
	return file, nil
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
	names, err := s.list(journalDir)
	if err != nil {
		return err
	}
	for _, n := range names {
		if !strings.HasSuffix(n, ".json") || strings.HasPrefix(n, ".") {
			continue
		}
		file := journalDir + "/" + n
		r, err := s.readRecord(file)
		if isDamaged(err) {
			if err := s.setAside(file, err); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		s.log.Info("finishing what an interrupted process began", "op", r.Op)
		if err := s.redo(file, r); err != nil {
			return fmt.Errorf("finish the interrupted %s in %s (or delete that file, and see what check says): %w", r.Op, path.Join(s.path, file), err)
		}
	}
	return nil
}

func (s *Store) readRecord(file string) (r record, err error) {
	b, err := s.root.Read(file, 64<<20)
	if err != nil {
		return r, classify(err)
	}
	if err := json.Unmarshal(b, &r); err != nil {
		return r, fmt.Errorf("%s: %w: %w", file, store.ErrCorrupt, err)
	}
	if err := r.valid(); err != nil {
		return r, fmt.Errorf("%s: %w", file, err)
	}
	return r, nil
}

// isDamaged tells whether an error says that something is not what it should be,
// as opposed to that it could not be read now.
func isDamaged(err error) bool {
	for _, e := range []error{store.ErrCorrupt, store.ErrTooLarge, beneath.ErrNotRegular, unix.ELOOP, unix.ENOTDIR} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// damaged ends the name of a record that was set aside.
const damaged = ".damaged"

// setAside keeps a record that nobody can read from being in the way. Every
// change is made in such an order that no image is lost where it stops: what
// is left of it belongs to no image, and check finds it.
func (s *Store) setAside(file string, why error) error {
	s.log.Warn("the record of an interrupted change is damaged and was set aside; check tells what the change left behind", "file", path.Join(s.path, file+damaged), "err", why)
	if err := s.root.Rename(file, file+damaged); err != nil {
		return err
	}
	return s.root.SyncDir(journalDir)
}

// redo finishes one record. A load that cannot be finished is taken back.
func (s *Store) redo(file string, r record) error {
	if r.Op == opLoad && r.Stage != "" && !s.root.Exists(stageDir+"/"+r.Stage) {
		return s.end(file) // the stage goes last: what others have done since stays
	}
	r, err := s.harmless(r)
	if err != nil {
		return err
	}
	err = s.do(r)
	if err != nil && r.Op == opLoad {
		s.log.Warn("an interrupted load cannot be finished and is taken back", "err", err)
		return s.takeBack(file, r)
	}
	return s.finish(file, r, err)
}

// finish forgets a record that was done with that result. If something is still
// on disk, what remains of the record is that: names and images that are made
// from here on are others.
func (s *Store) finish(file string, r record, err error) error {
	if errors.Is(err, errLeft) {
		s.log.Warn("what was removed is still on disk", "err", err)
		rest := record{Op: opRemove, Layers: r.Layers}
		if r.Op == opUnload { // its layers are listed from the bottom
			rest.Layers = slices.Clone(r.Layers)
			slices.Reverse(rest.Layers)
		}
		if s.writeRecord(file, rest) == nil {
			return nil
		}
		// Better to leave it to check than to remove again what has come since.
		return s.end(file)
	}
	if err != nil {
		return err
	}
	return s.end(file)
}

// takeBack undoes a load whose steps failed, for want of space above all.
func (s *Store) takeBack(file string, r record) error {
	r.Op = opUnload
	r, err := s.harmless(r)
	if err != nil {
		return err
	}
	// If the record cannot be changed, it must at least not be done again.
	if err := s.writeRecord(file, r); err != nil {
		if err := s.root.Remove(file); err != nil {
			return err
		}
	}
	return s.finish(file, r, s.doUnload(r))
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
