package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"imagefs/store"
	"imagefs/store/containerd"
	"imagefs/store/union"
)

// isRoot tells whether the machine's own directories are this user's. Those of an
// ordinary user who is root in a namespace (unshare -r) are at home, as before.
func isRoot() bool {
	return os.Geteuid() == 0 && !errors.Is(unix.Access(systemRoot+"/var/lib", unix.W_OK), unix.EACCES)
}

// defaultStore is where the embedded store lies.
func defaultStore() string {
	if isRoot() {
		return systemRoot + "/var/lib/imagefs"
	}
	return xdg("XDG_DATA_HOME", ".local/share")
}

// cacheDir keeps the indexes of layers of other programs' stores.
func cacheDir() string {
	if isRoot() {
		return "/var/cache/imagefs"
	}
	return xdg("XDG_CACHE_HOME", ".cache")
}

// xdg returns this program's directory by the XDG Base Directory
// Specification, which has relative paths ignored.
func xdg(variable, below string) string {
	if d := os.Getenv(variable); filepath.IsAbs(d) {
		return filepath.Join(d, "imagefs")
	}
	home, err := os.UserHomeDir()
	if err != nil {
		home = "/nonexistent"
	}
	return filepath.Join(home, below, "imagefs")
}

// openStore opens the store that the user means, several as one. The caller
// closes it. Nobody's wish is the stores of this machine; for a command that
// makes stores it is the embedded one.
func (a *app) openStore(o openOptions) (store.Store, error) {
	o = a.complete(o)
	specs, err := a.named()
	switch {
	case err != nil:
		return nil, err
	case len(specs) == 1:
		a.reading(specs[0].path)
		st, kind, err := openSpec(specs[0], o)
		a.kind = kind
		if o.create && errors.Is(err, store.ErrNotFound) && !isDataRoot(specs[0].path) {
			return nil, advised{err, "choose an empty directory, or one that is not there yet"}
		}
		return st, adviseStore(err, specs[0].path)
	case len(specs) > 1:
		for _, s := range specs {
			a.reading(s.path)
		}
		return openNamed(specs, o)
	case o.create:
		return openEmbedded(o)
	}
	found := findStores(o)
	for _, s := range found {
		a.reading(s.path)
	}
	return openFound(found, o)
}

// complete adds what is the same for every store of a run.
func (a *app) complete(o openOptions) openOptions {
	if o.log == nil {
		o.log = a.log(slog.LevelWarn)
	}
	o.cache = cacheDir()
	o.memory, o.disk = a.memory.n, a.disk.n
	o.dockerHosts = a.dockerHosts()
	if o.memory < 0 {
		o.memory = 1 // as good as nothing
	}
	return o
}

// dockerHosts returns where the user says that a Docker daemon is asked, nil if
// that is to be found out.
func (a *app) dockerHosts() []string {
	for _, h := range []string{a.docker, os.Getenv("IMAGEFS_DOCKER_HOST")} {
		if h != "" {
			return []string{h}
		}
	}
	return nil
}

// adviseStore adds to the error of a store that is not there what to do: at the
// path that was named, "" if none was.
func adviseStore(err error, path string) error {
	if errors.Is(err, store.ErrNotFound) {
		return advised{err, noStoreAdvice(path)}
	}
	return err
}

func openEmbedded(o openOptions) (store.Store, error) {
	st, _, err := openSpec(spec{kind: kinds[0].name, path: defaultStore()}, o)
	return st, adviseStore(err, "")
}

// openNamed opens several stores that were named: all of them, or none.
func openNamed(specs []spec, o openOptions) (store.Store, error) {
	specs, err := nameAll(specs)
	if err != nil {
		return nil, err
	}
	o.create = false
	into := ""
	var parts []store.Part
	for _, s := range specs {
		st, kind, err := openSpec(s, o)
		if err != nil {
			closeParts(parts)
			return nil, adviseStore(fmt.Errorf("store %s: %w", s.name, err), s.path)
		}
		if s.path == defaultStore() {
			into = s.name
		}
		parts = append(parts, store.Part{Name: s.name, Kind: kind, Path: s.path, Store: st})
	}
	return newUnion(parts, union.Options{Into: into, Log: o.log})
}

// openFound opens the stores of this machine: those that can be opened. Only
// the embedded one is ever changed; it is made by the first load if it is not there.
func openFound(specs []spec, o openOptions) (store.Store, error) {
	specs, err := nameAll(specs)
	if err != nil {
		return nil, err
	}
	var parts []store.Part
	var first error
	own := false
	for _, s := range specs {
		po := o
		p := store.Part{Name: s.name, Kind: s.kind, Path: s.path}
		if own = own || s.path == defaultStore(); s.path != defaultStore() {
			po.readOnly = true
			p.Fixed = "it was found, not named: --store " + spec{kind: s.kind, path: s.path}.String() + " is to change it"
		}
		st, _, err := openSpec(s, po)
		if err != nil {
			if first == nil {
				first = fmt.Errorf("store %s: %w", s.name, err)
			}
			o.log.Warn("a store cannot be opened and is left out", "store", s.name, "path", s.path, "err", err)
			continue
		}
		p.Store = st
		parts = append(parts, p)
	}
	switch {
	case len(parts) == 0 && first != nil:
		return nil, first
	case len(parts) == 0:
		return openEmbedded(o) // which says what there is to do
	case len(parts) == 1 && own:
		return parts[0].Store, nil
	}
	u := union.Options{Into: embedded, Log: o.log}
	if !o.readOnly {
		u.Make = func() (store.Part, error) {
			o.create = true
			st, err := openEmbedded(o)
			return store.Part{Name: embedded, Kind: kinds[0].name, Path: defaultStore(), Store: st}, err
		}
	}
	return newUnion(parts, u)
}

func newUnion(parts []store.Part, o union.Options) (store.Store, error) {
	st, err := union.New(parts, o)
	if err != nil {
		closeParts(parts)
	}
	return st, err
}

func closeParts(parts []store.Part) {
	for _, p := range parts {
		p.Store.Close()
	}
}

// roots returns where a store lies on disk, or the stores that it is made of.
func roots(st store.Store) []string {
	p, ok := st.(store.Parter)
	if !ok {
		return []string{st.Root()}
	}
	var out []string
	for _, part := range p.Parts() {
		out = append(out, part.Store.Root())
	}
	return out
}

func noStoreAdvice(path string) string {
	if isDataRoot(path) {
		const moved = "it is a data root of Docker, which has its images in containerd's store since Docker 29: name that"
		if beside := filepath.Join(filepath.Dir(path), "containerd"); containerd.Is(beside) {
			return moved + ", --store " + beside
		}
		return moved + "; mostly it is /var/lib/containerd"
	}
	if path != "" {
		return "make one with 'imagefs --store " + shellWord(path) + " load -i ARCHIVE'"
	}
	return "make one with 'imagefs load -i ARCHIVE', or name one with --store"
}

// isDataRoot tells whether a directory looks like a Docker daemon's data root,
// wherever that has its images.
func isDataRoot(path string) bool {
	return path != "" && exists(filepath.Join(path, "containers")) && exists(filepath.Join(path, "volumes")) && exists(filepath.Join(path, "network"))
}
