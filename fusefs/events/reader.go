package events

import (
	"io"
	"syscall"
)

// Reader reads a log from one open file. One read at a time gets what is next;
// several at once each get something.
type Reader struct {
	l *Log
	// What follows is guarded by l.mu.

	file   bool  // offsets are those of the log, and it has an end
	delta  int64 // a position in the log, less the reader's offset of the same byte
	next   int64 // the reader's offset after what was read last
	again  bool  // what is read now was read before
	middle bool  // what was read last did not end with its line
	seen   int64 // lines of the log, from its first on, that were read or are known to be lost
	// A line that the log does not have was read at inserted.
	insert   []byte
	inserted int64
}

// Reader returns a reader of what comes from now on.
func (l *Log) Reader() *Reader {
	l.mu.Lock()
	defer l.mu.Unlock()
	return &Reader{l: l, delta: l.size, seen: l.dropped + int64(len(l.lines))}
}

// End makes it a reader of a file that grows, and is called when the file's end is asked for.
func (r *Reader) End() {
	r.l.mu.Lock()
	defer r.l.mu.Unlock()
	if !r.file {
		r.file, r.delta, r.insert, r.next = true, 0, nil, -1
	}
}

// Read reads at an offset of the reader. It waits until there is something, or
// cancel is closed: EINTR. With block false it does not wait: EAGAIN. io.EOF
// after the log was closed, and at the end of a file that grows.
func (r *Reader) Read(cancel <-chan struct{}, buf []byte, off int64, block bool) (int, error) {
	l := r.l
	for let := int64(-1); ; {
		l.mu.Lock()
		if let < 0 {
			let = l.let
		}
		n := r.read(buf, off)
		changed, end := l.changed, l.closed || r.file || l.let > let
		l.mu.Unlock()
		switch {
		case n > 0 || len(buf) == 0:
			return n, nil
		case end:
			return 0, io.EOF
		case !block:
			return 0, syscall.EAGAIN
		}
		select {
		case <-changed:
		case <-cancel:
			return 0, syscall.EINTR
		}
	}
}

// read copies what there is; l.mu is held.
func (r *Reader) read(buf []byte, off int64) int {
	r.seek(off)
	if in := off - r.inserted; r.insert != nil && in >= 0 && in < int64(len(r.insert)) {
		return r.took(buf, off, copy(buf, r.insert[in:]))
	}
	l := r.l
	pos := off + r.delta
	if start := l.lines[0].at; pos < start {
		if r.again = r.again && !r.file; !r.again {
			r.lose(off, start)
			return r.took(buf, off, copy(buf, r.insert))
		}
		pos = start // what it wants to read again is gone
	}
	n := l.copy(buf, pos)
	if n > 0 && !r.again {
		r.seen = l.dropped + int64(l.find(pos+int64(n)))
	}
	return r.took(buf, off, n)
}

// seek tells what an offset means that is not the next one.
func (r *Reader) seek(off int64) {
	r.again = false
	switch {
	case off == r.next:
	case r.file:
		r.delta, r.insert, r.seen, r.middle = 0, nil, 0, false
	case off > r.next:
		// A stream has nothing that could be left out.
		r.delta += r.next - off
		r.insert = nil
	default:
		r.again = true
	}
}

func (r *Reader) took(buf []byte, off int64, n int) int {
	if n > 0 {
		r.middle = buf[n-1] != '\n'
	}
	r.next = off + int64(n)
	return n
}

// lose lets what is no longer kept be followed by a line that says so, and goes on at start.
func (r *Reader) lose(off, start int64) {
	r.insert = Event{Time: r.l.last, Op: Lost, Count: max(r.l.dropped-r.seen, 1)}.line()
	if r.middle {
		r.insert = append([]byte("\n"), r.insert...)
	}
	r.inserted, r.seen = off, r.l.dropped
	r.delta = start - off - int64(len(r.insert))
}

// Poll tells whether a Read would return at once. Whether or not, wake is called,
// once, when there is more to read or no more to come: who waits for a change
// only (EPOLLET) asks again after it. wake replaces the one before, but nil does not.
func (r *Reader) Poll(wake func()) bool {
	l := r.l
	l.mu.Lock()
	defer l.mu.Unlock()
	ready := r.file || l.closed || r.next+r.delta < l.size ||
		r.insert != nil && r.next < r.inserted+int64(len(r.insert))
	if wake != nil {
		l.wakers[r] = wake
	}
	return ready
}

// Close forgets the reader.
func (r *Reader) Close() {
	r.l.mu.Lock()
	defer r.l.mu.Unlock()
	delete(r.l.wakers, r)
}
