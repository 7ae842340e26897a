package fusefs

import (
	"slices"

	"imagefs/store"
)

// A layer's tar is put together of files that somebody may have replaced. That
// shows when the whole of such a file was read, and what the kernel has in its
// cache is not read again. So what it has of a tar stays there only if all that
// was read of it is known to be right: otherwise the next who opens it reads anew.

// tarReads is who reads a layer.tar or image.tar.
type tarReads struct {
	open  []*handle
	parts bool // one that was closed was read in parts
}

// inParts tells whether the kernel may have some of a tar that nobody knows to be right.
func (h *handle) inParts() bool {
	p, ok := h.file.(store.PartReader)
	return ok && p.InParts()
}

// openTar returns the handle of a tar that was opened, of a node of the image.
func (im *image) openTar(id nodeID, file store.File) *handle {
	h := &handle{file: file, im: im, tar: id}
	im.open.Add(1)
	im.mu.Lock()
	defer im.mu.Unlock()
	r := im.tars[id]
	if r == nil {
		r = &tarReads{}
		if im.tars == nil {
			im.tars = map[nodeID]*tarReads{}
		}
		im.tars[id] = r
	}
	r.open = append(r.open, h)
	h.anew = r.parts || slices.ContainsFunc(r.open, (*handle).inParts)
	r.parts = false
	return h
}

// closeTar closes a tar. It tells whether the kernel may have some of it that
// nobody knows to be right.
func (h *handle) closeTar() (parts bool) {
	h.im.mu.Lock()
	r := h.im.tars[h.tar]
	r.parts = r.parts || h.inParts()
	r.open = slices.DeleteFunc(r.open, func(o *handle) bool { return o == h })
	if parts = r.parts; !parts && len(r.open) == 0 {
		delete(h.im.tars, h.tar)
	}
	h.im.mu.Unlock()
	h.file.Close()
	h.im.open.Add(-1)
	return parts
}
