package layer

import (
	"encoding/json"
	"fmt"
	"os"

	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"imagefs/overlay"
	"imagefs/store"
)

// Meta is kept inside an index file.
type Meta struct {
	DiffID  digest.Digest `json:"diff_id,omitempty"`
	TarSize int64         `json:"tar_size"`          // bytes; -1 if it is not known
	Size    int64         `json:"size"`              // as store.Layer has it
	Spilled bool          `json:"spilled,omitempty"` // a spill file belongs to the layer
	Blob    digest.Digest `json:"blob,omitempty"`    // of the compressed blob that the layer came from
}

// Index encodes the layer and closes the records. Size is set from now on.
func (u *Unpacked) Index() ([]byte, error) {
	raw, err := u.x.b.Finish(nil)
	if err != nil {
		return nil, classify(err)
	}
	ix, err := overlay.OpenIndex(raw)
	if err != nil {
		return nil, classify(err)
	}
	u.Size = ContentSize(ix)
	return withMeta(raw, Meta{DiffID: u.DiffID, TarSize: u.TarSize, Size: u.Size, Spilled: u.Spilled, Blob: u.Blob})
}

// Close frees what Unpack holds; the diff directory stays. Harmless twice.
func (u *Unpacked) Close() { u.x.close() }

// ContentSize is a layer's size as Docker counts what it extracts: the sizes
// of all inodes but directories, symbolic links' among them.
func ContentSize(l overlay.Layer) int64 {
	var sum int64
	for i := range overlay.Ino(l.Inodes()) {
		a := l.Stat(i)
		if t := a.Mode & unix.S_IFMT; t == unix.S_IFREG || t == unix.S_IFLNK {
			sum += int64(a.Size)
		}
	}
	return sum
}

// EncodeIndex finishes a builder with meta data; Meta.Size is filled in where it is negative.
func EncodeIndex(b *overlay.Builder, m Meta) ([]byte, error) {
	raw, err := b.Finish(nil)
	if err != nil {
		return nil, classify(err)
	}
	if m.Size < 0 {
		ix, err := overlay.OpenIndex(raw)
		if err != nil {
			return nil, classify(err)
		}
		m.Size = ContentSize(ix)
	}
	return withMeta(raw, m)
}

func withMeta(raw []byte, m Meta) ([]byte, error) {
	j, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	raw, err = overlay.SetMeta(raw, j)
	return raw, classify(err)
}

// Mapped is an index file in memory, mapped and not read.
type Mapped struct {
	*overlay.Index
	Info Meta
	data []byte
}

// OpenIndex maps an index file and checks it. The file may be closed and
// unlinked afterwards; it must not be changed. store.ErrCorrupt.
func OpenIndex(f *os.File) (*Mapped, error) {
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
func ReadIndex(b []byte) (*Mapped, error) { return newMapped(b) }

func newMapped(b []byte) (*Mapped, error) {
	ix, err := overlay.OpenIndex(b)
	if err != nil {
		return nil, classify(err)
	}
	m := &Mapped{Index: ix}
	if err := json.Unmarshal(ix.Meta(), &m.Info); err != nil {
		return nil, fmt.Errorf("index meta data: %w: %w", store.ErrCorrupt, err)
	}
	return m, nil
}

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
