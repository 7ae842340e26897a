// Package unpacked serves layers that an engine has unpacked into directories:
// what kinds of store that are read in place have in common. A kind says, as a
// Source, where a layer's directory and its tar-split are and how the directory
// is to be read; the package keeps the layer's index, in memory, in a file of
// the store or in the cache directory, and gives the tar back.
//
//	kind ── Source ─▶ Layer ─▶ index of the store, or cached, or built now
//	                    │   └▶ layer.Lazy while there is none, the index later
//	                    └────▶ the tar, one map for all who read it
//
// Locks: a Layer's own guards its memory; it is held while its index is built,
// and so while those of layers below are. The tar-split, which can be as long as
// the layer has files, is read without it, in a turn that is taken before it and
// for which nobody waits longer than their context lasts.
package unpacked
