// Package bolt reads a bolt database (go.etcd.io/bbolt) that another process
// may hold locked and write to, or that a stranger made. It takes no lock, maps
// nothing, and reads with pread(2) the pages that are asked for:
//
//	page 0, 1   meta: magic, version, page size, root bucket, txid, FNV-1a of it
//	page n      header (id, flags, count, overflow), then count elements:
//	  branch    offset and length of the lowest key, page of the subtree
//	  leaf      flags, offset of the key, lengths of key and value
//	bucket      a leaf's value: page of its root, sequence; root 0: a leaf page
//	            follows in the value itself
//
// A writer never changes a page that the newest meta page leads to, and writes
// a meta page last. So what was read is one state of the database if the newest
// meta page is the same before and after; otherwise View reads again.
//
// Each page, element and key is checked before it is used; a page that is twice
// in one tree, a tree too deep and a file cut short are store.ErrCorrupt.
package bolt
