package events

import (
	"slices"
	"sort"
	"sync"
	"time"
)

const (
	// maxBytes bounds what the log keeps, whoever reads it.
	maxBytes = 1 << 20
	// maxLine bounds a line in bytes. No name of an image is as long.
	maxLine = 4096
)

// line is a line of the log.
type line struct {
	at   int64 // offset of its first byte
	text []byte
}

// Log keeps the latest events. Safe for concurrent use.
type Log struct {
	mu      sync.Mutex
	lines   []line // oldest first, never empty
	size    int64  // of all that were ever written
	dropped int64  // lines that are no longer kept
	kept    int    // bytes of lines
	last    time.Time
	changed chan struct{} // closed when there is more, or no more to come
	closed  bool
	let     int64 // how often those who waited were let go
	wakers  map[*Reader]func()
}

// NewLog returns a log that begins with a line that says so.
func NewLog() *Log {
	l := &Log{changed: make(chan struct{}), wakers: map[*Reader]func(){}}
	l.Add(Event{Op: Mount})
	return l
}

// Add writes events, as of now.
func (l *Log) Add(events ...Event) {
	if len(events) == 0 {
		return
	}
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return
	}
	l.last = time.Now().UTC()
	for _, e := range events {
		e.Time = l.last
		text := e.line()
		if len(text) > maxLine {
			e.Ref = ""
			text = e.line()
		}
		l.lines = append(l.lines, line{l.size, text})
		l.size += int64(len(text))
		l.kept += len(text)
	}
	n := 0
	for l.kept > maxBytes && n < len(l.lines)-1 {
		l.kept -= len(l.lines[n].text)
		n++
	}
	if n > 0 {
		clear(l.lines[:n]) // lets go of their text
		if l.lines = l.lines[n:]; n > len(l.lines) {
			l.lines = slices.Clone(l.lines) // and of the room for so many
		}
	}
	l.dropped += int64(n)
	l.wake()
}

// wake tells those who wait; it unlocks l.mu.
func (l *Log) wake() {
	close(l.changed)
	l.changed = make(chan struct{})
	wakers := l.wakers
	l.wakers = map[*Reader]func(){}
	l.mu.Unlock()
	for _, w := range wakers {
		w()
	}
}

// Close ends the log: who waits, and who has read all, gets io.EOF.
func (l *Log) Close() {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return
	}
	l.closed = true
	l.wake()
}

// Release lets go of those who wait now: they get io.EOF, as if the log were closed.
func (l *Log) Release() {
	l.mu.Lock()
	l.let++
	l.wake()
}

// Stat returns the log's size in bytes and when it was last written to.
func (l *Log) Stat() (size int64, last time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.size, l.last
}

// find returns the line that has the byte at pos, l.lines' length at the end; l.mu is held.
func (l *Log) find(pos int64) int {
	return sort.Search(len(l.lines), func(i int) bool { return l.lines[i].at+int64(len(l.lines[i].text)) > pos })
}

// copy fills buf with what is kept from pos on, in whole lines if the first fits; l.mu is held.
func (l *Log) copy(buf []byte, pos int64) int {
	n := 0
	for i := l.find(pos); i < len(l.lines); i++ {
		text := l.lines[i].text[pos+int64(n)-l.lines[i].at:]
		if n > 0 && len(text) > len(buf)-n {
			break
		}
		n += copy(buf[n:], text)
		if n == len(buf) {
			break
		}
	}
	return n
}
