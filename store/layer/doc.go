// Package layer handles one layer of an image on disk: unpacking its tar,
// indexing it, and giving the tar back byte for byte.
//
// Unpack reads a tar once. On the way it is hashed (the diff ID), split
// (github.com/vbatts/tar-split: everything that is not the content of a file,
// so that the tar can be put together again from the diff directory), written
// out as a diff directory in the form of the kernel's overlayfs, and indexed:
//
//	tar ─▶ hashing ─▶ recorder ─▶ archive/tar ─┬▶ diff directory
//	       goroutine      │                    └▶ overlay.Builder ─▶ index
//	                      └▶ tar-split (headers, padding, odd content)
//
// Settle then does what needs the layers below, which an archive in a pipe
// names last. Scan, ScanForm, ScanSplit and, for whole trees, ScanSplitTree and
// ScanTree index a layer that somebody else unpacked, and OpenTar serves its tar,
// whose files it compares with the sums that the tar-split has of them.
//
// Everything below a layer's directory is reached through directory file
// descriptors and never through a symbolic link.
package layer
