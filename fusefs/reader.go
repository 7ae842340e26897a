package fusefs

import (
	"io"
	"sync"
	"time"

	"imagefs/store"
)

// A read-only mount is served without OPEN: the kernel learns once that there
// is none, and then opens, closes and reads what it has cached without asking.
// Nothing tells then which files are open, so their readers are kept for a while.

const (
	// maxReaders is how many readers are kept that nobody is using.
	maxReaders = 64
	// idleReader is how long.
	idleReader = 10 * time.Second
)

// reader is the content of a file that READ came for.
type reader struct {
	h     *handle
	err   error
	ready chan struct{} // closed when h or err is set
	uses  int
	last  time.Time // of the latest use
	gone  bool      // out of the map: the last user closes it
}

// readers keeps them by node.
type readers struct {
	mu       sync.Mutex // guards what follows
	files    map[nodeID]*reader
	sweeping bool // a timer runs: while something is kept that nobody uses

	idle time.Duration // 0: idleReader
}

// small returns the layer and the size of a file that is opened for each READ
// and not kept: the kernel asks once for all of it, if at all.
func (f *fsys) small(id nodeID) (l *layerSlot, size int64, ok bool) {
	if id.kind() != kindFile {
		return nil, 0, false
	}
	l = f.layers.get(id.layer())
	if l == nil || int(id.ino()) >= l.index.Inodes() {
		return nil, 0, false
	}
	if n := l.index.Stat(id.ino()).Size; n < passthroughSize && !id.opaque() {
		return l, int64(n), true
	}
	return nil, 0, false
}

// read serves READ without a handle. alone says that nothing else waits for the
// thread that it runs on: it may take longer.
func (f *fsys) read(id nodeID, buf []byte, off int64, alone bool) (n int, err error) {
	if l, size, ok := f.small(id); ok {
		if off >= size {
			return 0, nil
		}
		buf = buf[:min(int64(len(buf)), size-off)]
		l.asked(id.ino())
		defer func() {
			if off == 0 && err == nil {
				f.ahead.note(f, l, id.ino(), alone)
			}
		}()
		if int64(len(buf)) == size && l.direct.Load() {
			if err = store.ReadWhole(f.life, l.l, id.ino(), buf); err == nil {
				n = len(buf)
			}
			return n, err
		}
	}
	err = f.use(id, func(c store.File) error {
		n, err = c.ReadAt(buf, off)
		return err
	})
	if err == io.EOF {
		err = nil
	}
	return n, err
}

// use calls do with the content of a file that has no handle.
func (f *fsys) use(id nodeID, do func(store.File) error) error {
	if l, _, ok := f.small(id); ok {
		file, err := l.l.Open(f.life, id.ino())
		if err != nil {
			return err
		}
		defer file.Close()
		l.opened(file)
		return do(file)
	}
	r, err := f.reader(id)
	if err != nil {
		return err
	}
	defer f.readers.put(f, r)
	return do(r.h.content())
}

// reader returns the reader of a file; readers.put gives it back.
func (f *fsys) reader(id nodeID) (*reader, error) {
	t := &f.readers
	t.mu.Lock()
	r, ok := t.files[id]
	if ok {
		r.uses++
		t.mu.Unlock()
		<-r.ready
	} else {
		r = &reader{uses: 1, ready: make(chan struct{})}
		if t.files == nil {
			t.files = map[nodeID]*reader{}
		}
		t.files[id] = r
		t.mu.Unlock()
		r.err = f.guard("open", func() (err error) {
			r.h, err = f.openNode(id)
			return err
		})
		close(r.ready)
	}
	if r.err != nil {
		t.mu.Lock()
		if t.files[id] == r {
			delete(t.files, id)
		}
		t.mu.Unlock()
		return nil, r.err
	}
	return r, nil
}

// put ends a use. The reader is kept for a while, and another may go for it.
func (t *readers) put(f *fsys, r *reader) {
	t.mu.Lock()
	var old *reader
	r.uses--
	r.last = time.Now()
	switch {
	case r.uses > 0:
	case r.gone:
		old = r
	default:
		old = t.beyond()
		t.sweepIn(f, t.idleTime())
	}
	t.mu.Unlock()
	if old != nil {
		f.closeHandle(old.h)
	}
}

func (t *readers) idleTime() time.Duration {
	if t.idle > 0 {
		return t.idle
	}
	return idleReader
}

// beyond takes out the reader that was not used for longest if there are too many,
// nil if there are not; t.mu is held.
func (t *readers) beyond() *reader {
	if len(t.files) <= maxReaders {
		return nil
	}
	var oldest nodeID
	for id, r := range t.files {
		if o := t.files[oldest]; r.uses == 0 && (o == nil || r.last.Before(o.last)) {
			oldest = id
		}
	}
	r := t.files[oldest]
	delete(t.files, oldest)
	return r
}

// sweepIn lets sweep be called, if it is not to be already; t.mu is held.
func (t *readers) sweepIn(f *fsys, after time.Duration) {
	if !t.sweeping {
		t.sweeping = true
		f.later(after, "close files", func() { t.sweep(f) })
	}
}

// sweep takes out what is idle for too long, and comes again for the rest of what is idle.
func (t *readers) sweep(f *fsys) {
	t.mu.Lock()
	now := time.Now()
	var old []*reader
	next := time.Duration(-1)
	for id, r := range t.files {
		if r.uses > 0 {
			continue
		}
		left := t.idleTime() - now.Sub(r.last)
		if left <= 0 {
			delete(t.files, id)
			old = append(old, r)
		} else if next < 0 || left < next {
			next = left
		}
	}
	if t.sweeping = false; next >= 0 {
		t.sweepIn(f, next)
	}
	t.mu.Unlock()
	for _, r := range old {
		f.closeHandle(r.h)
	}
}

// drop takes out the readers of nodes that were removed.
func (t *readers) drop(f *fsys, gone func(nodeID) bool) {
	t.mu.Lock()
	var old []*reader
	for id, r := range t.files {
		if !gone(id) {
			continue
		}
		delete(t.files, id)
		if r.gone = true; r.uses == 0 {
			old = append(old, r)
		}
	}
	t.mu.Unlock()
	for _, r := range old {
		f.closeHandle(r.h)
	}
}
