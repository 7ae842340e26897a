// Package fusefs serves a container image store as a FUSE file system: the tree
// of views of package overlay, images and names, turned into FUSE replies. It
// knows no concrete store.
//
// It implements go-fuse's raw interface: the kernel's node IDs are made by
// construction, so nothing is counted, forgotten or looked up in a table, and a
// LOOKUP, GETATTR or READDIRPLUS below an image's rootfs is answered from the
// layers' indexes without locks or allocation.
//
// # Node IDs
//
// A node ID is the inode number too. The top four bits stay clear, which is
// what overlayfs needs of a lower layer's inode numbers to make its own of them.
//
//	 59 58   57 … 38     37       36 … 28   27 … 0
//	┌─────┬───────────┬────────┬──────────┬─────────┐
//	│  1  │ view      │ merged │ layer    │ inode   │  directory of a view: one rootfs, or one layer's diff
//	├─────┼───────────┼────────┼──────────┼─────────┤
//	│  3  │ view      │ merged │ layer    │ inode   │  directory of a view that shows some paths only: added/ …
//	├─────┼───────────┴────────┴──────────┼─────────┤
//	│  2  │ opaque (1) │ layer slot (29)  │ inode   │  anything else of a layer, in every view that shows it
//	├─────┼────────────┴─────┬────────────┴─────────┤
//	│  0  │ type (6)         │ slot (36)  file (16) │  everything that is not of a layer
//	└─────┴──────────────────┴──────────────────────┘
//
// merged, layer and inode are those of overlay.NodeID. Views, layers, images,
// directories of images/, stores, pairs and links each have slots that are given out when they
// are first looked up and never used twice during a mount, but for views of kind 3: those
// of a pair are given out again once the kernel has forgotten the pair's directory, and with
// it all below. Their directories have a generation that tells the one from the other, to
// a kernel that keeps a bare inode (under inotify) or gets a file handle from before.
//
// # Caching
//
// What is below an image's directory never changes, so the kernel keeps it for
// ever; when the image is removed, its entry in ids/ is invalidated and with it
// all below. Names (images/, digests/) are links that the kernel keeps for a
// second, and which are invalidated as soon as the store is seen to change.
//
// # Changing names
//
// SYMLINK, RENAME, UNLINK, MKDIR and RMDIR in a directory of names are commands of
// package ctl. The kernel has the directories locked until they are answered, so
// notices to those wait (see notices), and of the name itself the kernel knows by
// the answer. A renamed link keeps its node, which leads from its new place from
// then on; names in forms that need not be listed (":1.25", "nginx:1.25") are looked
// up each time, since no answer tells of them.
//
// # Locks
//
// Readers of the tables of slots take no lock. fsys.refreshing is taken before
// an image's or a pair's mu, those before fsys.using, that before a table's,
// that before opens.mu and results.mu; none but the first is held while the
// store does work: that is a flight, which has a goroutine of its own.
//
// What belonged to a removed image is let go a minute later, and not before its
// files are closed: replies refer to the memory of its layers' indexes.
package fusefs
