// Package compress recognises compressed streams by their first bytes and
// reads them: gzip of one or more members, zstd, bzip2, xz.
//
// It trusts nothing that a stream says about itself: memory is bounded by the
// window that the caller allows, and an error tells a stream that is broken
// (store.ErrCorrupt), one that wants too much (store.ErrTooLarge) and a source
// that could not be read (its own error) apart.
package compress

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"imagefs/store"
)

// Format is a compression format.
type Format uint8

// The formats. None is everything that is not one of the others.
const (
	None Format = iota
	Gzip
	Zstd
	Bzip2
	XZ
)

// HeadSize is how many bytes of a stream Detect wants to see.
const HeadSize = 6

// DefaultWindow is what `zstd --long` and `xz -9` need at most: 128 MiB.
const DefaultWindow = 128 << 20

func (f Format) String() string {
	return [...]string{"uncompressed", "gzip", "zstd", "bzip2", "xz"}[f]
}

// Detect tells a stream's format by its first bytes.
func Detect(head []byte) Format {
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b, 8}):
		return Gzip
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}),
		// A frame to skip, with which parallel compressors start.
		len(head) >= 4 && head[0]&0xf0 == 0x50 && bytes.HasPrefix(head[1:], []byte{0x2a, 0x4d, 0x18}):
		return Zstd
	case len(head) >= 4 && bytes.HasPrefix(head, []byte("BZh")) && '1' <= head[3] && head[3] <= '9':
		return Bzip2
	case bytes.HasPrefix(head, []byte(xzMagic)):
		return XZ
	}
	return None
}

// Options of NewReader.
type Options struct {
	Window int64 // the most bytes of history that a stream may ask to keep; 0: DefaultWindow
}

// NewReader decompresses r, which it reads ahead of what it returns, to its
// end. Nothing is read before the first Read. Close frees memory and leaves r alone.
func NewReader(r io.Reader, f Format, o Options) io.ReadCloser {
	if o.Window <= 0 {
		o.Window = DefaultWindow
	}
	src := &source{r: r}
	return &reader{src: src, in: bufio.NewReaderSize(src, 64<<10), format: f, opts: o}
}

// source remembers the error of what is read.
type source struct {
	r   io.Reader
	err error // nil and not io.EOF: r failed
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

type reader struct {
	src    *source
	in     *bufio.Reader
	format Format
	opts   Options
	r      io.Reader // nil before the first Read
	done   func()
	err    error
}

func (r *reader) Read(p []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	if r.r == nil {
		if err := r.open(); err != nil {
			r.err = r.classify(err)
			return 0, r.err
		}
	}
	n, err := r.r.Read(p)
	if err != nil {
		r.err = r.classify(err)
	}
	return n, r.err
}

func (r *reader) open() (err error) {
	switch r.format {
	case Gzip:
		r.r, err = gzip.NewReader(r.in)
	case Zstd:
		var d *zstd.Decoder
		d, err = zstd.NewReader(r.in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxWindow(max(uint64(r.opts.Window), zstd.MinWindowSize)), zstd.WithDecoderMaxMemory(1<<62))
		if err == nil {
			r.r, r.done = d, d.Close
		}
	case Bzip2:
		r.r = bzip2.NewReader(r.in)
	case XZ:
		r.r = newXZ(r.in, r.opts.Window)
	default:
		r.r = r.in
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return err
}

func (r *reader) classify(err error) error {
	switch {
	case r.src.err != nil:
		return r.src.err
	case err == io.EOF:
		return io.EOF
	case errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("%s data is truncated: %w", r.format, store.ErrCorrupt)
	case errors.Is(err, zstd.ErrWindowSizeExceeded), errors.Is(err, zstd.ErrDecoderSizeExceeded), errors.Is(err, errWindow):
		return fmt.Errorf("%s data needs more than %d MiB of memory to decompress: %w", r.format, r.opts.Window>>20, store.ErrTooLarge)
	}
	return fmt.Errorf("%s data: %w: %w", r.format, store.ErrCorrupt, err)
}

// Close implements io.Closer.
func (r *reader) Close() error {
	if r.done != nil {
		r.done()
		r.done = nil
	}
	if r.err == nil {
		r.err = errors.New("read of a closed stream")
	}
	return nil
}
