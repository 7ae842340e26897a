// Package docker reads and writes a store in Docker's own layout, with the
// overlay2 driver: the data root of a live daemon, of a dead one, a copy of
// one from another machine, or the embedded store, which a dockerd can adopt.
// It reads those of the drivers fuse-overlayfs, aufs, overlay and vfs as well.
//
//	image/overlay2/
//	  repositories.json                  references → image ID, one line of JSON
//	  imagedb/content/sha256/<image ID>  the config, whose SHA-256 is the ID
//	  imagedb/metadata/sha256/<ID>/      parent, lastUpdated
//	  layerdb/sha256/<chain ID>/         cache-id, diff, size, parent, tar-split.json.gz
//	  layerdb/mounts/<container>/        parent: the chain that a container stands on
//	  distribution/                      blob digest ⇄ diff ID, after a pull or push
//	overlay2/
//	  <cache-id>/{diff,link,lower,work,committed}
//	  l/<link>                           -> ../<cache-id>/diff
//	containers/<id>/config.v2.json       which image a container uses
//	imagefs/                             our own, ignored by every engine
//	  lock                               flock(2), held while the store is written
//	  journal/<n>.json                   what is being done: see below
//	  stage/<random>/                    layers being unpacked; flock on its file "lock"
//	  index/<chain>-<cache-id>           the layer's index (package overlay)
//	  spill/<chain>-<cache-id>           content that only the tar has (package store/layer)
//
// The other drivers have the same image/<driver>, and layers' content at
//
//	fuse-overlayfs/<cache-id>/diff     as overlay2, with link and lower; deletions may be names (.wh.*)
//	aufs/diff/<cache-id>               the layer's archive, deletions as names
//	aufs/layers/<cache-id>             the cache IDs of the layers below, nearest first
//	overlay/<cache-id>/root            the whole tree so far, hard links to the one of the layer below
//	vfs/dir/<cache-id>                 the whole tree so far, a copy
//
// What of a whole tree is the layer's own is in its tar-split; without one, it
// is what differs from the tree of the layer below (package store/layer).
//
// # Writing
//
// While a daemon lives on the store it makes the changes (package api), and
// nothing below the root is written. The rest of this is about a store without one.
//
// A load unpacks into stage/ without the lock. Commit takes the lock, makes all
// staged data durable with one syncfs(2), and writes a journal record of the
// steps that are left: renames into overlay2 and layerdb, links, configs, names
// last. From then on the load happens: every step can be repeated, and whoever
// next opens the store for writing repeats those of a process that died. Before
// the record it has not happened, and the stage directory, whose lock nobody
// holds any more, is removed. Removing an image works the same way, in Docker's
// order: names, metadata, config, layers from the top. A single name is changed
// by replacing repositories.json.
//
// A record may be repeated long after it was written, by another process, when an
// engine has used the store in between. So a removal is of a name only while that
// leads where it did, of an image only while it has no other name, and of a layer
// only while nothing else stands on it. A load whose stage is gone was over.
//
// Locks are taken in this order: Store.writing, the lock file, a daemon's
// databases. Store.mu and a layer's mu guard memory only; no lock is taken and
// no store is written while one is held, but an index may be built under a layer's.
package docker
