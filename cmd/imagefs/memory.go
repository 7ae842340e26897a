package main

import (
	"runtime/debug"
	"time"
)

// How the collector of garbage is set. The defaults suit programs that allocate
// steadily; this one does at its start, and in a load.
const (
	startPercent = 400      // until the tree is ready: a few megabytes more, for a moment
	servePercent = 50       // afterwards hardly anything is allocated, so it costs nothing to keep little
	loadLimit    = 40 << 20 // from this size of the heap on, a load collects what it can
	copyMemory   = 4 << 20  // what a copy keeps of decompressed data: it reads each layer from its start
)

// settled is how long after the tree is ready the start counts as over.
const settled = 250 * time.Millisecond

// collectRarely is for the start of a mount.
func collectRarely() { debug.SetGCPercent(startPercent) }

// collectOften is for the time after it.
func collectOften() { debug.SetGCPercent(servePercent) }

// limitMemory keeps what a load has in memory near a limit, if the user has set no other.
func limitMemory() {
	if debug.SetMemoryLimit(-1) > 1<<40 {
		debug.SetMemoryLimit(loadLimit)
	}
}
