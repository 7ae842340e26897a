//go:build !race

package storetest

import "testing"

// Race tells whether the race detector is on.
const Race = false

// NoRace leaves a test out if the race detector is on.
func NoRace(testing.TB) {}
