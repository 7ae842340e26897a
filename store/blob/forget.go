package blob

import (
	"io"

	"golang.org/x/sys/unix"

	"imagefs/store/layer"
)

// Forget lets go of what the layer has in memory; nothing that came from its
// index may be used afterwards but by the layer itself. It returns the files that
// are mapped for it, to be closed once no Layer or file that has to do with it is
// used any more: work in the background may still read them. nil if there are
// none. A layer that is asked again after all opens anew.
func (l *Layer) Forget() io.Closer {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out mapped
	if l.index != nil {
		out.index = l.index
	}
	for _, b := range []body{l.tar, l.early} {
		if s, ok := b.(*stream); ok && s != nil {
			s.close()
			if s.ix.mapped != nil {
				out.seek = s.ix
			}
		}
	}
	l.index, l.tar, l.early = nil, nil, nil
	if out == (mapped{}) {
		return nil
	}
	return out
}

// mapped are the files that are mapped for one layer.
type mapped struct {
	index *layer.Mapped
	seek  *seekIndex
}

// Close implements io.Closer.
func (m mapped) Close() error {
	if m.index != nil {
		m.index.Close()
	}
	if m.seek != nil {
		return m.seek.unmap()
	}
	return nil
}

func (x *seekIndex) unmap() error {
	b := x.mapped
	if x.mapped = nil; b == nil {
		return nil
	}
	return unix.Munmap(b)
}

// Unmap is Close, of a stream that nobody reads any more nor will.
func (s *Stream) Unmap() error {
	s.close()
	return s.ix.unmap()
}
