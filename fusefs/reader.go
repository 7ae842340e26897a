package fusefs

import (
	"io"
	"sync"
	"syscall"
	"time"
)

// A read-only mount is served without OPEN: the kernel learns once that there
// is none, and then opens, closes and reads what it has cached without asking.
// Nothing tells then which files are open, so their readers are kept for a while.

const (
	// maxReaders is how many readers are kept that nobody is using.
	maxReaders = 64
	// idleReader is how long.
	idleReader = 10 * time.Second
	// wholeRead is the size in bytes up to which a file is opened for its one READ and not kept.
	wholeRead = 128 << 10
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

// read serves READ without a handle.
func (f *fsys) read(id nodeID, buf []byte, off int64) (int, error) {
	if id.kind() == kindFile {
		if n, done, err := f.readWhole(id, buf, off); done {
			return n, err
		}
	}
	r, err := f.reader(id)
	if err != nil {
		return 0, err
	}
	defer f.readers.put(f, r)
	n, err := r.h.content().ReadAt(buf, off)
	if err == io.EOF {
		err = nil
	}
	return n, err
}

// readWhole reads a small file in one go; done is false if that is not how to read it.
func (f *fsys) readWhole(id nodeID, buf []byte, off int64) (n int, done bool, err error) {
	l := f.layers.get(id.layer())
	if l == nil {
		return 0, true, syscall.ESTALE
	}
	a := l.index.Stat(id.ino())
	if id.opaque() || off >= int64(a.Size) {
		return 0, true, nil
	}
	if off != 0 || a.Size > wholeRead || a.Size > uint64(len(buf)) {
		return 0, false, nil
	}
	file, err := l.l.Open(f.life, id.ino())
	if err != nil {
		return 0, true, err
	}
	defer file.Close()
	n, err = file.ReadAt(buf[:a.Size], 0)
	if err == io.EOF {
		err = nil
	}
	f.ahead.note(f, l, id.ino())
	return n, true, err
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
