//go:build race

package storetest

import "testing"

// Race tells whether the race detector is on, which makes work on bytes ten
// times as slow: tests that do much of it take a part of their cases then. `make
// unit` runs the packages that have such tests once more without it.
const Race = true

// NoRace leaves a test out that works on bytes in one goroutine, and nothing else.
func NoRace(t testing.TB) {
	t.Helper()
	t.Skip("slow with the race detector, which finds nothing here; it runs without")
}
