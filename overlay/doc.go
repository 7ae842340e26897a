// Package overlay merges the layers of a container image into one tree.
//
// It is pure: it knows no file system, no archive and no store. A Builder
// takes the records of one layer in any order and encodes them as an Index; an
// Index is a Layer; Merge stacks Layers to a Tree, which is what a kernel
// overlay mount of them would show, after the layer rules of the OCI image spec
// (layer.md, "Applying Changesets").
//
// # The index
//
// One block of bytes, little endian, made to be mapped from a file:
//
//	 0        8         12        16       20        24      28       32      36      48
//	┌────────┬─────────┬─────────┬────────┬─────────┬───────┬────────┬───────┬───────┐
//	│ magic  │ format  │ CRC-32C │ inodes │ entries │ arena │ xattrs │ meta  │ zero  │
//	│ 8      │ 4       │ 4       │ count  │ count   │ bytes │ bytes  │ bytes │ 12    │
//	└────────┴─────────┴─────────┴────────┴─────────┴───────┴────────┴───────┴───────┘
//	┌─────────┬──────────┬───────┬────────┬───────────┬──────┐
//	│ inodes  │ entries  │ arena │ xattrs │ checksums │ meta │
//	└─────────┴──────────┴───────┴────────┴───────────┴──────┘
//
//	The first four sections together are the body. checksums has the CRC-32C of
//	each 64 KiB of it (4); the CRC in the header covers what is behind it in the
//	header, checksums and meta. Format 1, which is still read, has no checksums,
//	and the CRC in its header covers all behind it.
//
//	an inode, 80 bytes                        a directory entry, 12 bytes
//	 0 mode   4 nlink  8 uid   12 gid          0 offset of the name in the arena
//	16 rdev  20 nsec  24 sec (8)               4 inode
//	32 size (8)       40 blocks (8)            8 length of the name (2)
//	48 ref (8)        56 flags                10 flags: 1 whiteout, 0
//	60 directory: first entry; link: offset of the target in the arena
//	64 directory: entries;     link: length of the target
//	68 offset of the xattr set + 1, or 0
//	72 directory that it is in
//	76 entry that names it (the first of several)
//
//	an xattr set: count (2), then for each: name length (2), value length (4), name, value
//
// Inodes are numbered breadth first from the root, 0: the entries of a
// directory lie together, sorted bytewise, and everything in a directory that
// is itself a directory has a larger number. So one pass proves that an index
// has no loop and that no offset leaves its section; after OpenIndex nothing
// can fail. The pass can be made bit by bit: after OpenIndexLazily it goes as far
// as somebody looks, and nothing is shown that was not checked. The same records
// give the same bytes.
package overlay
