package fusefs

import (
	"testing"

	"imagefs/overlay"
)

// What is pushed grows with a reader who reads on, follows him elsewhere a few
// times, and is nothing for one who reads here and there.
func TestReadingOn(t *testing.T) {
	type step struct {
		read overlay.Ino
		from overlay.Ino
		n    int
	}
	for name, steps := range map[string][]step{
		"on":             {{10, 0, 0}, {11, 12, 8}, {20, 21, 16}, {37, 38, 32}, {70, 71, 64}, {135, 136, 128}, {264, 265, 128}},
		"over some":      {{10, 0, 0}, {10 + aheadSkip, 11 + aheadSkip, 8}},
		"too far":        {{10, 0, 0}, {12 + aheadSkip, 0, 0}, {13 + aheadSkip, 14 + aheadSkip, 8}},
		"here and there": {{100, 0, 0}, {50, 0, 0}, {500, 0, 0}, {3, 0, 0}, {50, 0, 0}},
		"elsewhere":      {{10, 0, 0}, {11, 12, 8}, {500, 501, 8}, {5, 6, 8}, {300, 301, 8}, {200, 201, 8}, {100, 0, 0}, {101, 102, 8}},
		"twice":          {{10, 0, 0}, {10, 0, 0}, {11, 12, 8}},
	} {
		t.Run(name, func(t *testing.T) {
			var a ahead
			l := &layerSlot{}
			for _, s := range steps {
				r, from, n, jumps := a.read(l, s.read, true)
				if n != s.n || n > 0 && from != s.from {
					t.Fatalf("after %d: %d from %d, want %d from %d", s.read, n, from, s.n, s.from)
				}
				if l.readOn.Load() != (n >= 2*aheadLong) {
					t.Errorf("after %d: reads on: %v", s.read, l.readOn.Load())
				}
				if n == 0 {
					continue
				}
				a.pushed(r, jumps, from+overlay.Ino(n), n, n*100)
			}
		})
	}
}

// Two readers of one layer do not push at the same time.
func TestOnePushAtATime(t *testing.T) {
	var a ahead
	l := &layerSlot{}
	a.read(l, 10, true)
	r, _, n, jumps := a.read(l, 11, true)
	if n == 0 {
		t.Fatal("nothing is pushed")
	}
	if _, _, n, _ := a.read(l, 12, true); n != 0 {
		t.Error("two push")
	}
	a.pushed(r, jumps, 20, 7, 0)
	if _, from, n, _ := a.read(l, 13, true); n == 0 || from != 20 {
		t.Errorf("then %d from %d", n, from)
	}
	a.read(l, 500, true)
	a.pushed(r, jumps, 40, 9, 0) // began before the reader went elsewhere
	if _, from, _, _ := a.read(l, 501, true); from != 502 {
		t.Errorf("elsewhere from %d", from)
	}
}

// Where nobody waits for a push, there is none until it is clear that the reader reads on.
func TestReadingOnWithoutWaiting(t *testing.T) {
	var a ahead
	l := &layerSlot{}
	for _, s := range []struct {
		read overlay.Ino
		n    int
	}{{10, 0}, {11, 8}, {500, 0}, {501, 8}, {502, 16}, {5, 0}, {6, 8}} {
		r, from, n, jumps := a.read(l, s.read, false)
		if n != s.n {
			t.Fatalf("after %d: %d, want %d", s.read, n, s.n)
		}
		if n > 0 {
			a.pushed(r, jumps, from, n, 0)
		}
	}
}
