package archive

import (
	"io"
	"runtime"
	"slices"
	"sync"
	"weak"

	"imagefs/store"
	blobs "imagefs/store/blob"
)

// held is what a snapshot keeps open. Whoever has an image, a layer or a file of
// a snapshot has the snapshot: when nobody has any more, which the garbage
// collector finds out, its held ends. So held refers to nothing of the snapshot's.
type held struct {
	mu     sync.Mutex // guards what follows
	files  []io.Closer
	closed bool
	ended  bool
}

// hold lets a held end with a snapshot.
func hold(n *snapshot) { runtime.AddCleanup(n, (*held).end, n.held) }

// add takes a file that was opened for the snapshot. One that is closed has no more.
func (h *held) add(f io.Closer) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		f.Close()
		return errClosed
	}
	h.files = append(h.files, f)
	return nil
}

// close closes the files; reads from then on fail.
func (h *held) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, f := range slices.Backward(h.files) {
		f.Close()
	}
	h.files, h.closed = nil, true
}

// end is close when nobody has the snapshot any more.
func (h *held) end() {
	h.close()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ended = true
}

func (h *held) over() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.ended
}

// former is a snapshot of what the archive held before: of the store's no longer,
// but of those who still read it.
type former struct {
	snapshot weak.Pointer[snapshot]
	held     *held
}

// retire makes the snapshot that is shown a former one; s.mu is held.
func (s *Store) retire() {
	s.old = slices.DeleteFunc(s.old, func(o former) bool { return o.held.over() })
	if s.now != nil {
		s.old = append(s.old, former{weak.Make(s.now), s.now.held})
	}
	s.now = nil
}

var _ store.Forgetter = (*Store)(nil)

// Forget implements store.Forgetter. It lets go of what is mapped for a layer of a
// former snapshot; the rest goes at that one's end without being told.
func (s *Store) Forget(l store.Layer) {
	of, ok := l.(*blobs.Layer)
	if !ok {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.now != nil {
		for _, there := range s.now.layers {
			if there.Key() == of.Key() {
				return // other images may have it
			}
		}
	}
	for _, o := range s.old {
		n := o.snapshot.Value()
		if n == nil {
			continue
		}
		for _, was := range n.layers {
			if was == of {
				of.Forget()
				return
			}
		}
	}
}
