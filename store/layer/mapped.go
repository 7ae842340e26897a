package layer

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"runtime/debug"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"imagefs/overlay"
	"imagefs/store"
)

// Mapped is an index file in memory, mapped and not read.
type Mapped struct {
	*overlay.Index
	Info Meta
	data []byte

	// Of an index that is checked in the background; nil if it is not.
	stop    context.CancelFunc
	stopped chan struct{}

	mu    sync.Mutex
	dirty bool // data is no longer what the file has
}

// OpenIndex maps an index file and checks it. The file may be closed and
// unlinked afterwards; it must not be changed. store.ErrCorrupt.
func OpenIndex(f *os.File) (*Mapped, error) {
	data, err := mapIndex(f, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		return nil, err
	}
	ix, err := overlay.OpenIndex(data)
	return newMapped(&Mapped{data: data}, ix, err)
}

// lazyFrom is the size of an index, in bytes, that is worth checking bit by bit.
const lazyFrom = 256 << 10

// OpenIndexLazily is OpenIndex for somebody who waits: a part of the index is
// checked before it is looked at, and all of it in the background. If it turns
// out to be damaged, mend is called once to make the same index anew, maybe
// while somebody waits for what is in it; its context ends with Close.
func OpenIndexLazily(f *os.File, mend func(ctx context.Context, damage error) ([]byte, error)) (*Mapped, error) {
	if st, err := f.Stat(); err == nil && st.Size() < lazyFrom {
		return OpenIndex(f)
	}
	// Private, so that the damaged part can be written over.
	data, err := mapIndex(f, unix.MAP_PRIVATE)
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	m := &Mapped{data: data, stop: stop, stopped: make(chan struct{})}
	ix, err := overlay.OpenIndexLazily(data, func(damage error) ([]byte, error) {
		raw, err := mend(ctx, damage)
		if err != nil {
			return nil, err
		}
		return raw, m.unprotect()
	})
	if err != nil {
		m.stopped = nil
	} else {
		go m.check(ctx, ix)
	}
	return newMapped(m, ix, err)
}

func mapIndex(f *os.File, flags int) ([]byte, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() || st.Size() == 0 || st.Size() > 8<<30 {
		return nil, fmt.Errorf("index %s: %w", f.Name(), store.ErrCorrupt)
	}
	data, err := unix.Mmap(int(f.Fd()), 0, int(st.Size()), unix.PROT_READ, flags)
	if err != nil {
		return nil, fmt.Errorf("map index %s: %w", f.Name(), err)
	}
	return data, nil
}

// ReadIndex is OpenIndex for an index that lies in memory.
func ReadIndex(b []byte) (*Mapped, error) {
	ix, err := overlay.OpenIndex(b)
	return newMapped(&Mapped{}, ix, err)
}

// newMapped completes a Mapped by what was found in it, or closes it.
func newMapped(m *Mapped, ix *overlay.Index, err error) (*Mapped, error) {
	if err != nil {
		m.Close()
		return nil, fmt.Errorf("index: %w", classify(err))
	}
	m.Index = ix
	if err := json.Unmarshal(ix.Meta(), &m.Info); err != nil {
		m.Close()
		return nil, fmt.Errorf("index meta data: %w: %w", store.ErrCorrupt, err)
	}
	return m, nil
}

// checkAfter leaves the processors to whoever waits for the first look into the index.
const checkAfter = 100 * time.Millisecond

// check checks the index behind the backs of those who use it.
func (m *Mapped) check(ctx context.Context, ix *overlay.Index) {
	defer close(m.stopped)
	select {
	case <-ctx.Done():
		return
	case <-time.After(checkAfter):
	}
	// A file that was cut short is an error for those who look, and not the end of all.
	debug.SetPanicOnFault(true)
	defer func() { _ = recover() }()
	_ = unix.Madvise(m.data, unix.MADV_POPULATE_READ)
	_ = ix.Check() // who looks further is told
}

// unprotect lets the memory be written, which it then keeps.
func (m *Mapped) unprotect() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.dirty = true
	return unix.Mprotect(m.data, unix.PROT_READ|unix.PROT_WRITE)
}

// Bytes returns a copy of the file.
func (m *Mapped) Bytes() []byte { return bytes.Clone(m.data) }

// Trim takes the pages of the file out of this process's memory. Whoever reads
// one gets it back out of the page cache. Not at the same time as Close.
func (m *Mapped) Trim() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.data != nil && !m.dirty {
		_ = unix.Madvise(m.data, unix.MADV_DONTNEED)
	}
}

// Close unmaps the file. Nothing that came from the index may be used after it.
func (m *Mapped) Close() {
	if m.stop != nil {
		m.stop()
	}
	if m.stopped != nil {
		<-m.stopped
	}
	if m.data != nil {
		unix.Munmap(m.data)
		m.data = nil
	}
}
