package events

import (
	"fmt"
	"runtime"
	"testing"
)

// After a store with very many names came or went at once, the log is as small as ever.
func TestLogStaysSmall(t *testing.T) {
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	l := NewLog()
	before := heap()
	func() {
		var many []Event
		for n := range 200_000 {
			many = append(many, Event{Op: Tag, Ref: fmt.Sprintf("repository/with/a/name:%d", n)})
		}
		l.Add(many...)
	}()
	l.Add(Event{Op: Untag, Ref: "a:1"})
	if after := heap(); after > before+4*maxBytes {
		t.Errorf("the log of %d bytes takes %d", l.kept, after-before)
	}
	runtime.KeepAlive(l)
}
