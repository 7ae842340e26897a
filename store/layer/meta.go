package layer

import (
	"encoding/json"

	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"imagefs/overlay"
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
