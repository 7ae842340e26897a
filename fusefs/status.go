package fusefs

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"time"

	"imagefs/store"
)

// mountStatus is what ctl/status tells. README.md explains each field.
type mountStatus struct {
	Version   string        `json:"version,omitempty"`
	PID       int           `json:"pid"`
	UID       uint32        `json:"uid"`
	Started   time.Time     `json:"started"`
	Uptime    float64       `json:"uptime"`
	Transport Transport     `json:"transport"`
	Options   statusOptions `json:"options"`
	Stores    []storeStatus `json:"stores"`
	Images    int           `json:"images"`
	Broken    int           `json:"broken"`
	Tags      int           `json:"tags"`
	Digests   int           `json:"digests"`
	OpenFiles int           `json:"open_files"`
	Commands  statusCounts  `json:"commands"`
	Indexes   statusIndexes `json:"indexes"`
}

type statusOptions struct {
	AllowOther  bool `json:"allow_other"`
	Passthrough bool `json:"passthrough"`
	ListOrigin  bool `json:"list_origin"`
	Suid        bool `json:"suid"`
	Dev         bool `json:"dev"`
	Debug       bool `json:"debug"`
}

// storeStatus is the state of one of the stores.
type storeStatus struct {
	Name     string `json:"name,omitempty"`
	Kind     string `json:"kind,omitempty"`
	Path     string `json:"path"`
	Writable bool   `json:"writable"`
	Why      string `json:"why,omitempty"`
	Daemon   *bool  `json:"daemon,omitempty"`
	Images   int    `json:"images"`
	Tags     int    `json:"tags"`
	Error    string `json:"error,omitempty"`
}

type statusCounts struct {
	Run    int64 `json:"run"`
	Failed int64 `json:"failed"`
}

type statusIndexes struct {
	Layers int   `json:"layers"`
	Files  int   `json:"files"`
	Bytes  int64 `json:"bytes"`
}

// statusText is the content of ctl/status.
func (f *fsys) statusText() []byte {
	f.refresh()
	s := f.snap.Load()
	st := mountStatus{
		Version: f.o.Version, PID: os.Getpid(), UID: f.uid, Started: f.started.UTC(),
		Uptime: time.Since(f.started).Seconds(), Transport: f.over,
		Options: statusOptions{f.o.AllowOther, !f.o.ReadOnly || f.o.Passthrough, f.o.ListOrigin, f.o.Suid, f.o.Dev, f.o.Debug},
		Images:  len(s.ids), Broken: f.broken(s), Tags: len(s.names.Tags), Digests: len(s.names.Digests),
		OpenFiles: f.openFiles(), Indexes: f.indexes(),
	}
	for _, p := range f.storeParts() {
		st.Stores = append(st.Stores, f.storeState(p))
	}
	st.Commands.Run, st.Commands.Failed = f.ctl.Counts()
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(st); err != nil {
		f.ctl.Note("status", "", err)
	}
	return b.Bytes()
}

// storeParts returns the stores that there are, one at least.
func (f *fsys) storeParts() []store.Part {
	if p, ok := f.st.(store.Parter); ok {
		return p.Parts()
	}
	return []store.Part{{Kind: f.o.Kind, Path: f.st.Root(), Store: f.st}}
}

// storeState asks one store.
func (f *fsys) storeState(p store.Part) storeStatus {
	s := storeStatus{Name: p.Name, Kind: p.Kind, Path: p.Path}
	if s.Path == "" {
		s.Path = p.Store.Root()
	}
	ids, err := p.Store.IDs(f.life)
	names, nerr := p.Store.Names(f.life)
	s.Images, s.Tags = len(ids), len(names.Tags)
	if err == nil {
		err = nerr
	}
	if err != nil {
		s.Error = oneLine(err)
	}
	s.Writable, s.Why = true, ""
	if st, ok := p.Store.(store.Stater); ok {
		state := st.State()
		s.Daemon = &state.Daemon
		if state.Fixed != nil {
			s.Writable, s.Why = false, oneLine(state.Fixed)
		}
	} else if _, ok := p.Store.(store.Tagger); !ok {
		s.Writable, s.Why = false, "this kind of store is only read"
	}
	if p.Fixed != "" {
		s.Writable, s.Why = false, "the store is only read; "+p.Fixed
	}
	return s
}

func oneLine(err error) string { return strings.Join(strings.Fields(err.Error()), " ") }

// broken counts the images that cannot be read whole.
func (f *fsys) broken(s *snapshot) (n int) {
	for _, id := range s.ids {
		if img, err := f.st.Image(f.life, id); err != nil || img.Err() != nil {
			n++
		}
	}
	return n
}

// openFiles counts the files of images, and of their layers, that are open.
func (f *fsys) openFiles() int {
	var n int64
	for slot := range f.layers.size() {
		if l := f.layers.get(slot); l != nil {
			n += l.open.Load()
		}
	}
	for slot := range f.images.size() {
		if im := f.images.get(slot); im != nil {
			n += im.open.Load()
		}
	}
	return int(n)
}

// indexes tells what is mapped of the layers' indexes.
func (f *fsys) indexes() (s statusIndexes) {
	f.using.Lock()
	defer f.using.Unlock()
	for slot := range f.layers.size() {
		l := f.layers.get(slot)
		if l == nil {
			continue
		}
		s.Layers++
		s.Files += l.index.Inodes()
		if m, ok := l.index.(interface{ Size() int64 }); ok {
			s.Bytes += m.Size()
		}
	}
	return s
}
