// Package events tells what has changed in a store, by comparing what was there
// with what is, and keeps the latest of it for those who read. It knows no file
// system protocol.
//
// # The log
//
// An event is one line of JSON. The lines stand one after the other in a log
// that is as long as all that were ever written; the last of them are kept:
//
//	0              start                     size
//	├──── gone ────┼──── kept, ≤ maxBytes ────┤
//
// # Two ways to read
//
// A Reader starts where the log ends when it is made, so whatever the reader's
// own offset is, it gets what comes after, and waits for it: a stream, as cat
// reads it. An offset before the one that was read last reads again, which is
// what a shell's read does after it has read more than its line.
//
// A reader that asks for the end of the log (SEEK_END), as tail does, is one of
// a file that grows: its offsets are those of the log, and at the end it reads
// nothing.
//
// Either gets a line that says how many events it missed if what it was to read
// next is no longer kept.
package events
