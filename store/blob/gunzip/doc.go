// Package gunzip decompresses gzip (RFC 1951, RFC 1952), of one or more members,
// and can take it up again at places that it has passed.
//
// A State is such a place: between any two symbols of the compressed data, not
// only between blocks, so that one huge block is no obstacle.
//
//	member header │ block header │ symbols …            │ block header │ …
//	              ▲              ▲      ▲
//	              │              │      └ State.In: where to read on, in bits
//	              │              └ codes of the block, read again from State.Block
//	              └ between blocks, State.Block is -1
//
// with the 32 KiB of output before it, to which the symbols after it may refer.
//
// What it accepts and what comes out is exactly what package compress/gzip
// does, which is what the tests compare with. Memory is some 300 KiB whatever
// the input.
package gunzip
