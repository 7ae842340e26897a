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
	mu    sync.Mutex
	files map[nodeID]*reader
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

// put ends a use, and lets go of readers that were not used for long.
func (t *readers) put(f *fsys, r *reader) {
	t.mu.Lock()
	var old []*reader
	r.uses--
	r.last = time.Now()
	if r.gone && r.uses == 0 {
		old = append(old, r)
	}
	if len(t.files) > 1 {
		old = append(old, t.expire(r.last)...)
	}
	t.mu.Unlock()
	for _, o := range old {
		f.closeHandle(o.h)
	}
}

// expire takes out what is idle for too long, and the oldest beyond the limit; t.mu is held.
func (t *readers) expire(now time.Time) []*reader {
	var out []*reader
	var oldest nodeID
	for id, r := range t.files {
		if r.uses > 0 {
			continue
		}
		if now.Sub(r.last) > idleReader {
			delete(t.files, id)
			out = append(out, r)
		} else if o := t.files[oldest]; o == nil || r.last.Before(o.last) {
			oldest = id
		}
	}
	if r := t.files[oldest]; r != nil && len(t.files) > maxReaders {
		delete(t.files, oldest)
		out = append(out, r)
	}
	return out
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
