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
				p, ok := a.read(l, s.read, true)
				if ok != (s.n > 0) || ok && (p.n != s.n || p.next != s.from) {
					t.Fatalf("after %d: %+v, want %d from %d", s.read, p, s.n, s.from)
				}
				if l.readOn.Load() != (ok && p.n >= 2*aheadLong) {
					t.Errorf("after %d: reads on: %v", s.read, l.readOn.Load())
				}
				if !ok {
					continue
				}
				p.next += overlay.Ino(p.n)
				p.files, p.size = p.n, p.n*100
				a.pushed(p)
			}
		})
	}
}

// Two readers of one layer do not push at the same time.
func TestOnePushAtATime(t *testing.T) {
	var a ahead
	l := &layerSlot{}
	a.read(l, 10, true)
	p, ok := a.read(l, 11, true)
	if !ok {
		t.Fatal("nothing is pushed")
	}
	if again, ok := a.read(l, 12, true); ok || again != p {
		t.Error("two push")
	}
	p.next = 20
	p.files = 7
	a.pushed(p)
	p, ok = a.read(l, 13, true)
	if !ok || p.next != 20 {
		t.Errorf("then %+v", p)
	}
	if p, ok := a.read(l, 500, true); ok || p != nil {
		t.Errorf("elsewhere, while one is under way: %+v", p)
	}
	p.next = 40
	p.files = 9
	a.pushed(p) // began before the reader went elsewhere
	if p, _ := a.read(l, 501, true); p.next != 502 {
		t.Errorf("elsewhere from %d", p.next)
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
		p, ok := a.read(l, s.read, false)
		if ok != (s.n > 0) || ok && p.n != s.n {
			t.Fatalf("after %d: %+v, want %d", s.read, p, s.n)
		}
		if ok {
			a.pushed(p)
		}
	}
}

// A reader whose next files the kernel has not looked up, once and again, is left
// alone more and more; one push that is wanted, and he is as any other.
func TestNotWanted(t *testing.T) {
	var a ahead
	l := &layerSlot{}
	i := overlay.Ino(10)
	a.read(l, i, true)
	pushes := func(reads int, missed bool) (n int) {
		for range reads {
			i++
			if p, ok := a.read(l, i, true); ok {
				n++
				p.missed = missed
				a.pushed(p)
			}
		}
		return n
	}
	if n := pushes(1000, true); n < 7 || n > 25 {
		t.Errorf("%d of 1000 files are pushed in vain", n)
	}
	pushes(1<<aheadRest, false)
	if n := pushes(10, false); n != 10 {
		t.Errorf("then %d pushes after 10 files", n)
	}
}
