package layer

import (
	"encoding/json"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"imagefs/overlay"
	"imagefs/store"
)

// Mapped is an index file in memory, mapped and not read.
type Mapped struct {
	*overlay.Index
	Info Meta
	data []byte
}

// OpenIndex maps an index file and checks it. The file may be closed and
// unlinked afterwards; it must not be changed. store.ErrCorrupt.
func OpenIndex(f *os.File) (*Mapped, error) {
	return checked(OpenIndexLazily(f))
}

// checked is an index all of which is checked.
func checked(m *Mapped, err error) (*Mapped, error) {
	if err != nil {
		return nil, err
	}
	if err := m.Check(); err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}

// OpenIndexLazily is OpenIndex for somebody who waits: of what lies in the file it
// checks now that it is undamaged, and the rest as overlay.OpenIndexLazily does.
func OpenIndexLazily(f *os.File) (*Mapped, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() || st.Size() == 0 || st.Size() > 8<<30 {
		return nil, fmt.Errorf("index %s: %w", f.Name(), store.ErrCorrupt)
	}
	data, err := unix.Mmap(int(f.Fd()), 0, int(st.Size()), unix.PROT_READ, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		return nil, fmt.Errorf("map index %s: %w", f.Name(), err)
	}
	m, err := newMapped(data)
	if err != nil {
		unix.Munmap(data)
		return nil, fmt.Errorf("index %s: %w", f.Name(), err)
	}
	m.data = data
	return m, nil
}

// ReadIndex is OpenIndex for an index that lies in memory.
func ReadIndex(b []byte) (*Mapped, error) {
	return checked(newMapped(b))
}

func newMapped(b []byte) (*Mapped, error) {
	ix, err := overlay.OpenIndexLazily(b)
	if err != nil {
		return nil, classify(err)
	}
	m := &Mapped{Index: ix}
	if err := json.Unmarshal(ix.Meta(), &m.Info); err != nil {
		return nil, fmt.Errorf("index meta data: %w: %w", store.ErrCorrupt, err)
	}
	return m, nil
}

// Check checks all of the index. store.ErrCorrupt.
func (m *Mapped) Check() error { return classify(m.Index.Check()) }

// Trim takes the pages of the file out of this process's memory. Whoever reads
// one gets it back out of the page cache. Not at the same time as Close.
func (m *Mapped) Trim() {
	if m.data != nil {
		_ = unix.Madvise(m.data, unix.MADV_DONTNEED)
	}
}

// Close unmaps the file. Nothing that came from the index may be used after it.
func (m *Mapped) Close() {
	if m.data != nil {
		unix.Munmap(m.data)
		m.data = nil
	}
}
