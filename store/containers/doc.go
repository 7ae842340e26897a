// Package containers reads a store of containers/storage, the one of podman,
// buildah, skopeo and CRI-O: of root (/var/lib/containers/storage), of an
// ordinary user (~/.local/share/containers/storage), or a copy of either. It
// is never written.
//
//	<driver>-images/
//	  images.json            ID, names, digests, top layer, keys of the data
//	  <image ID>/<key>       manifest, config (sha256:<ID>), signatures
//	<driver>-layers/
//	  layers.json            ID, parent, diff ID, sizes, ID maps
//	  volatile-layers.json   the same, of layers that need not survive
//	  <layer ID>.tar-split.gz
//	overlay/
//	  .has-mount-program       "true": for fuse-overlayfs
//	overlay/<layer ID>/
//	  diff/                  the layer, in overlayfs's form
//	  link, lower            for the engine to mount it with: not needed here
//	  composefs-data/        only with composefs: then diff/ has contents without names
//	vfs/dir/<layer ID>/      the layer with everything below it
//
// A key that is not all lower case letters, digits and dots is the name of a
// file after "=" in base64.
//
// Drivers are overlay and vfs; a root may have both. The files are replaced by
// renaming, so they are read without the engine's locks.
package containers
