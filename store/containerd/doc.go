// Package containerd reads containerd's image store in place: the root directory
// of a live containerd, of a dead one, or a copy of one. Docker 29 and later
// keep their images there too (namespace "moby", in /var/lib/containerd or below
// their own root in containerd/daemon). Nothing is ever written: a Docker daemon
// that has its images here is asked for changes (package store/daemon).
//
//	io.containerd.metadata.v1.bolt/meta.db          a bolt database:
//	  v1/<namespace>/images/<name>/target/…         name → digest, media type, size
//	  v1/<namespace>/images/<name>/labels/…         of these the parent that Docker's classic builder notes
//	  v1/<namespace>/snapshots/overlayfs/<key>/…    chain ID → name, parent
//	io.containerd.content.v1.content/
//	  blobs/<algorithm>/<hex>                       indexes, manifests, configs, layers
//	io.containerd.snapshotter.v1.overlayfs/
//	  metadata.db                                   v1/snapshots/<name>/{id,kind,parent,size}
//	  snapshots/<id>/fs                             a layer, unpacked as overlayfs has it
//
// An image is a manifest whose config is here; its ID is the digest of the
// config. An image name leads to a manifest, or to an index with a manifest for
// each platform, of which only some need be here. A layer is read from its
// snapshot, as Docker's are from their diff directories; one that was not
// unpacked from its compressed blob (package store/blob).
//
// Both databases are read as package store/containerd/bolt has it, without the
// lock that a living daemon holds. Indexes, manifests and configs are verified
// by their digests each time they are read from disk.
//
// Locks: Store.build is held while the databases are read and is taken before
// Store.mu, which guards memory only.
package containerd
