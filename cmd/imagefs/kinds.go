package main

import (
	"errors"
	"log/slog"

	"imagefs/store"
	"imagefs/store/containerd"
	"imagefs/store/containers"
	"imagefs/store/docker"
)

// openOptions are what every kind of store can be told.
type openOptions struct {
	readOnly bool
	create   bool   // make an empty store where there is none
	cache    string // directory for what is derived from stores that are not written
	lazy     bool   // do not wait for what is derived; make it meanwhile
	log      *slog.Logger
}

// kinds are the kinds of store, in the order in which they are tried.
var kinds = []struct {
	name string
	what string
	open func(root string, o openOptions) (store.Store, error)
}{
	{"containerd", "containerd's root, which Docker 29 and later keep their images in too; read-only", func(root string, o openOptions) (store.Store, error) {
		return containerd.Open(root, containerd.Options{Cache: o.cache, Lazy: o.lazy, Log: o.log})
	}},
	{"docker", "Docker's data root with the overlay2 driver, the embedded store included", func(root string, o openOptions) (store.Store, error) {
		return docker.Open(root, docker.Options{ReadOnly: o.readOnly, Create: o.create, Cache: o.cache, Lazy: o.lazy, Log: o.log})
	}},
	{"podman", "podman's, buildah's and CRI-O's storage with the overlay or vfs driver, read-only", func(root string, o openOptions) (store.Store, error) {
		return containers.Open(root, containers.Options{Cache: o.cache, Lazy: o.lazy, Log: o.log})
	}},
}

// openKind opens the store at root with the first kind that finds one there. Of
// the errors of kinds that find none, the one counts that says most.
func openKind(root string, o openOptions) (store.Store, error) {
	var first error
	for _, k := range kinds {
		st, err := k.open(root, o)
		if err == nil {
			return st, nil
		}
		if first == nil || errors.Is(first, store.ErrNotFound) &&
			(!errors.Is(err, store.ErrNotFound) || len(err.Error()) > len(first.Error())) {
			first = err
		}
	}
	return nil, first
}
