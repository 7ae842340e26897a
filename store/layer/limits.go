package layer

import "archive/tar"

// Limits bound what one layer may be. The zero value means the defaults.
type Limits struct {
	Entries int   // records in the tar, 4 Mi by default
	Size    int64 // bytes of the uncompressed tar, 4 TiB by default
	Sparse  int64 // bytes of all sparse files at their full length, 64 GiB by default
}

// The defaults of Limits.
const (
	DefaultEntries = 4 << 20
	DefaultSize    = 4 << 40
	DefaultSparse  = 64 << 30
)

func (l Limits) withDefaults() Limits {
	if l.Entries <= 0 {
		l.Entries = DefaultEntries
	}
	if l.Size <= 0 {
		l.Size = DefaultSize
	}
	if l.Sparse <= 0 {
		l.Sparse = DefaultSparse
	}
	return l
}

// check refuses a member of a tar with more content than the whole layer may
// have, even if the layer shows nothing of it: it has to be skipped. What is said
// of a sparse file is not what the tar has of it.
func (l Limits) check(hdr *tar.Header) error {
	if hdr.Size > l.Size && !IsSparse(hdr) {
		return errTooLarge("file", l.Size)
	}
	return nil
}
