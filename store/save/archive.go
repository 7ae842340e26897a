package save

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sort"
	"sync"

	"imagefs/store"
)

// section is a piece of an archive: bytes, or a part that lies elsewhere.
type section struct {
	start int64
	data  []byte
	part  *part
}

func (s *section) size() int64 {
	if s.part != nil {
		return s.part.size
	}
	return int64(len(s.data))
}

// Archive is an archive that is made as it is read. Immutable.
type Archive struct {
	sections []section
	size     int64
	close    func() // frees what the archive alone holds; nil if nothing
}

func (a *Archive) add(s section) {
	if s.size() == 0 && s.part == nil {
		return
	}
	s.start = a.size
	a.sections = append(a.sections, s)
	a.size += s.size()
}

// Size is the archive's size in bytes.
func (a *Archive) Size() int64 { return a.size }

// Close frees temporary files. Files that Open returned must not be read any more.
func (a *Archive) Close() {
	if a.close != nil {
		a.close()
	}
}

// Open returns the archive as a file. Layers are opened with ctx when they are
// first read, and a few at a time stay open.
func (a *Archive) Open(ctx context.Context) store.File { return &file{a: a, ctx: ctx} }

// maxOpen is how many layers one open archive keeps open.
const maxOpen = 4

// file is an open archive.
type file struct {
	a   *Archive
	ctx context.Context

	mu    sync.Mutex // guards what follows
	open  []*opened  // most recently used last
	parts bool       // one that was closed was read in parts
}

// opened is a part that is open, or about to be.
type opened struct {
	section int
	ready   chan struct{} // closed when f and err are set
	f       store.File
	err     error
	uses    int
	old     bool // out of the list: the last user closes it
}

var _ store.File = (*file)(nil)

func (f *file) Size() int64 { return f.a.size }

var _ store.PartReader = (*file)(nil)

// InParts implements store.PartReader.
func (f *file) InParts() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.parts || slices.ContainsFunc(f.open, (*opened).inParts)
}

func (o *opened) inParts() bool {
	select {
	case <-o.ready:
		p, ok := o.f.(store.PartReader)
		return ok && p.InParts()
	default:
		return false // nobody has read it yet
	}
}

// Close must not be called while a read is under way.
func (f *file) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, o := range f.open {
		o.close()
	}
	f.open = nil
	return nil
}

func (o *opened) close() {
	if o.f != nil {
		o.f.Close()
	}
}

// ReadAt implements io.ReaderAt.
func (f *file) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, errors.New("negative offset")
	}
	all := f.a.sections
	n := sort.Search(len(all), func(i int) bool { return all[i].start+all[i].size() > off })
	done := 0
	for ; n < len(all) && done < len(p); n++ {
		s := &all[n]
		at := off - s.start
		want := p[done:min(int64(len(p)), int64(done)+s.size()-at)]
		if s.part == nil {
			copy(want, s.data[at:])
		} else if err := f.read(n, want, at); err != nil {
			return done, err
		}
		done += len(want)
		off += int64(len(want))
	}
	if done < len(p) {
		return done, io.EOF
	}
	return done, nil
}

// read reads from the part that section n is.
func (f *file) read(n int, p []byte, off int64) error {
	o := f.acquire(n)
	defer f.release(o)
	if o.err != nil {
		return o.err
	}
	if k, err := o.f.ReadAt(p, off); k < len(p) {
		if err == io.EOF || err == nil {
			err = store.ErrCorrupt
		}
		return fmt.Errorf("%s: %w", f.a.sections[n].part.what, err)
	}
	return nil
}

func (f *file) acquire(n int) *opened {
	f.mu.Lock()
	for k, o := range f.open {
		if o.section == n {
			f.open = append(append(f.open[:k:k], f.open[k+1:]...), o)
			o.uses++
			f.mu.Unlock()
			<-o.ready
			return o
		}
	}
	o := &opened{section: n, ready: make(chan struct{}), uses: 1}
	f.open = append(f.open, o)
	if len(f.open) > maxOpen {
		f.drop(f.open[0])
	}
	f.mu.Unlock()
	defer close(o.ready)
	part := f.a.sections[n].part
	got, err := part.open(f.ctx)
	if err == nil && got.Size() != part.size {
		err = fmt.Errorf("%d bytes where it had %d: %w", got.Size(), part.size, store.ErrCorrupt)
		got.Close()
	}
	if err != nil {
		o.err = fmt.Errorf("%s: %w", part.what, err)
		f.mu.Lock()
		f.drop(o)
		f.mu.Unlock()
	} else {
		o.f = got
	}
	return o
}

// drop takes a part out of the list; f.mu is held.
func (f *file) drop(o *opened) {
	if o.old {
		return
	}
	for k := range f.open {
		if f.open[k] == o {
			f.open = append(f.open[:k:k], f.open[k+1:]...)
			break
		}
	}
	if o.old = true; o.uses == 0 {
		f.close(o)
	}
}

// close closes a part; f.mu is held.
func (f *file) close(o *opened) {
	f.parts = f.parts || o.inParts()
	o.close()
}

func (f *file) release(o *opened) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if o.uses--; o.uses == 0 && o.old {
		f.close(o)
	}
}
