package save

import (
	"fmt"
	"io"
	"runtime"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"imagefs/store"
)

// Compression of an archive, or of the layers in one.
type Compression uint8

// The compressions.
const (
	None Compression = iota
	Gzip
	Zstd
)

var compressions = [...]string{"none", "gzip", "zstd"}

func (c Compression) String() string { return compressions[c] }

// ParseCompression reads the name of a compression. Errors wrap store.ErrInvalid.
func ParseCompression(s string) (Compression, error) {
	for n, name := range compressions {
		if name == s {
			return Compression(n), nil
		}
	}
	return None, fmt.Errorf("there is no compression %q; there is none, gzip and zstd: %w", s, store.ErrInvalid)
}

// zstdWindow is what a reader must keep: as much as every reader allows.
const zstdWindow = 4 << 20

// NewWriter returns a writer that compresses to w. The same bytes in, the same
// bytes out. Close ends the stream and leaves w alone.
func (c Compression) NewWriter(w io.Writer) (io.WriteCloser, error) {
	switch c {
	case Gzip:
		return gzip.NewWriterLevel(w, gzip.DefaultCompression)
	case Zstd:
		return zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithWindowSize(zstdWindow),
			zstd.WithEncoderConcurrency(min(2, runtime.GOMAXPROCS(0))))
	}
	return plain{w}, nil
}

type plain struct{ io.Writer }

func (plain) Close() error { return nil }

// atOnce is how many streams are worth compressing at a time: of zstd one, which
// takes several processors, and more memory than gzip.
func (c Compression) atOnce() int {
	if c == Gzip {
		return min(2, runtime.GOMAXPROCS(0))
	}
	return 1
}

// layerType is the media type of a layer.
func (c Compression) layerType() string {
	return "application/vnd.oci.image.layer.v1.tar" + [...]string{"", "+gzip", "+zstd"}[c]
}
