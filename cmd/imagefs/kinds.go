package main

import (
	"context"
	"log/slog"
	"path/filepath"

	"imagefs/store"
	"imagefs/store/archive"
	"imagefs/store/containerd"
	"imagefs/store/containers"
	"imagefs/store/docker"
)

// openOptions are what every kind of store can be told.
type openOptions struct {
	readOnly bool
	memory   int64  // bytes of decompressed data kept in memory, 0: the kind's default
	disk     int64  // bytes of it kept in cache, 0: the kind's default, less than 0: none
	create   bool   // make an empty store where there is none
	cache    string // directory for what is derived from stores that are not written
	lazy     bool   // do not wait for what is derived; make it meanwhile
	log      *slog.Logger

	dockerHosts []string // where a Docker daemon that runs on a store is asked; nil: the usual places
}

// kind is a kind of store.
type kind struct {
	name string   // goes before ":" in --store
	also []string // other names for it
	what string
	// places are where such a store lies if nobody chose otherwise
	places []place
	// is tells whether a store of this kind lies at a path, not below it, without opening it
	is func(path string) bool
	// open opens the store at a path; store.ErrNotFound if there is none of this kind
	open func(path string, o openOptions) (store.Store, error)
}

// place is where a store usually lies.
type place struct {
	name   string // of the store, in the tree
	system string // of the machine
	user   string // of an ordinary user, below $XDG_DATA_HOME
}

// embedded is the name of the store that needs no other program.
const embedded = "imagefs"

// kinds are the kinds of store. Their order, and that of their places, is the
// one in which stores are looked for and in which they go before each other.
var kinds = []kind{
	{
		name:   "docker",
		what:   "Docker's data root, the embedded store included; with the driver overlay2, older ones read-only",
		places: []place{{embedded, "/var/lib/imagefs", "imagefs"}, {"docker", "/var/lib/docker", "docker"}},
		is:     docker.Is,
		open: func(path string, o openOptions) (store.Store, error) {
			st, err := docker.Open(path, docker.Options{ReadOnly: o.readOnly, Create: o.create, Cache: o.cache, Lazy: o.lazy, Log: o.log, Hosts: o.dockerHosts})
			if err != nil {
				return nil, err
			}
			warnMoved(st.Root(), o.log)
			return st, nil
		},
	},
	{
		name:   "containerd",
		what:   "containerd's root, which Docker 29 and later keep their images in too; changed by Docker only",
		places: []place{{"docker", "/var/lib/docker", "docker"}, {"containerd", "/var/lib/containerd", "containerd"}},
		is:     containerd.Is,
		open: func(path string, o openOptions) (store.Store, error) {
			return containerd.Open(path, containerd.Options{Cache: o.cache, Memory: o.memory, Disk: o.disk, Lazy: o.lazy, ReadOnly: o.readOnly, Log: o.log, Hosts: o.dockerHosts})
		},
	},
	{
		name:   "podman",
		what:   "podman's, buildah's and CRI-O's storage with the overlay or vfs driver, read-only",
		places: []place{{"podman", systemStorage, "containers/storage"}},
		is:     containers.Is,
		open: func(path string, o openOptions) (store.Store, error) {
			var more []string
			if containers.Is(path) { // else this is only a try, and podman's configuration is nobody's business
				more = additionalStores(path, o.log)
			}
			return containers.Open(path, containers.Options{Additional: more, Cache: o.cache, Lazy: o.lazy, Log: o.log})
		},
	},
	{
		name: "archive",
		also: targetNames(),
		what: "an archive of docker save or OCI, compressed or not, or an OCI layout directory; read-only",
		is:   archive.Is,
		open: func(path string, o openOptions) (store.Store, error) {
			return archive.Open(path, archive.StoreOptions{Cache: o.cache, Memory: o.memory, Disk: o.disk, Lazy: o.lazy, Log: o.log})
		},
	},
}

// warnMoved tells of images that Docker has in a containerd's store below its
// data root, beside those of a storage driver: it shows one kind, and since
// Docker 29 it is mostly the former.
func warnMoved(dataRoot string, log *slog.Logger) {
	own := filepath.Join(dataRoot, containerd.Own)
	if !containerd.Is(own) {
		return
	}
	st, err := containerd.Open(own, containerd.Options{ReadOnly: true})
	if err != nil {
		return // nobody asked for it
	}
	if ids, err := st.IDs(context.Background()); err == nil && len(ids) > 0 {
		log.Warn("the data root has images in containerd's store too; open that to see them", "path", own)
	}
	_ = st.Close()
}
