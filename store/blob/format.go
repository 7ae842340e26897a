package blob

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"imagefs/store"
	"imagefs/store/blob/gunzip"
)

// format is how a blob is compressed.
type format uint8

const (
	uncompressed format = iota
	gzipped
	zstandard
)

// formatOf tells a blob's format by its first bytes.
func formatOf(r io.ReaderAt, size int64) (format, error) {
	head := make([]byte, min(size, 6))
	if n, err := r.ReadAt(head, 0); n < len(head) {
		if err == io.EOF {
			err = fmt.Errorf("the file became shorter: %w", store.ErrGone)
		}
		return 0, err
	}
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b, 8}):
		return gzipped, nil
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}),
		len(head) >= 4 && head[0]&0xf0 == 0x50 && bytes.HasPrefix(head[1:], []byte{0x2a, 0x4d, 0x18}):
		return zstandard, nil
	case bytes.HasPrefix(head, []byte("BZh")), bytes.HasPrefix(head, []byte{0xfd, '7', 'z', 'X', 'Z', 0}):
		return 0, fmt.Errorf("compressed with bzip2 or xz, which cannot be read in place; load the archive instead: %w", store.ErrUnsupported)
	}
	return uncompressed, nil
}

// decoder gives the uncompressed bytes from some place on, a piece at a time.
// A piece is valid until the next call. io.EOF at the end.
type decoder interface {
	Next() ([]byte, error)
	Close()
}

// classify gives an error of a decoder its sentinel. Those of the medium stay.
func classify(err error) error {
	switch {
	case err == nil, err == io.EOF, errors.Is(err, store.ErrCorrupt), errors.Is(err, store.ErrGone):
		return err
	case errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("compressed data is truncated: %w", store.ErrCorrupt)
	case errors.Is(err, gunzip.ErrCorrupt):
		return fmt.Errorf("%w: %w", store.ErrCorrupt, err)
	}
	return err
}

// gzipDecoder is a gunzip.Reader that tells the places it passes.
type gzipDecoder struct {
	*gunzip.Reader
}

func (gzipDecoder) Close() {}

// section is the part of a blob from an offset on.
func section(r io.ReaderAt, size int64) func(off int64) io.Reader {
	return func(off int64) io.Reader { return io.NewSectionReader(r, min(off, size), max(size-off, 0)) }
}
