package blob

import (
	"context"
	"fmt"
	"io"

	digest "github.com/opencontainers/go-digest"

	"imagefs/store"
)

// Stream is a compressed file that is no layer, uncompressed at random.
type Stream struct{ *stream }

// IsCompressed tells whether a file of size bytes is compressed. An error that
// wraps store.ErrUnsupported says that it is in a way that OpenStream cannot read.
func IsCompressed(r io.ReaderAt, size int64) (bool, error) {
	f, err := formatOf(r, size)
	return f != uncompressed, err
}

// OpenStream makes a compressed file readable at random. If it was not seen
// before, all of it goes through first, whose result, at most 64 MiB, is kept
// and returned with the stream then and whenever the file is opened again. It is
// valid until the stream is closed. origin names the bytes as Spec.Origin does;
// without it nothing is kept.
func (c *Cache) OpenStream(ctx context.Context, src io.ReaderAt, size int64, origin string,
	first func(io.Reader) ([]byte, error)) (s *Stream, result []byte, err error) {
	form, err := formatOf(src, size)
	if err != nil {
		return nil, nil, err
	}
	if form == uncompressed {
		return nil, nil, fmt.Errorf("a file that is not compressed: %w", store.ErrInvalid)
	}
	name := fileName("stream", origin)
	if origin != "" {
		if s := c.keptStream(ctx, src, size, form, name); s != nil {
			return &Stream{s}, s.ix.contents, nil
		}
	}
	p, err := c.newPass(ctx, src, size, form, digest.SHA256, name)
	if err != nil {
		return nil, nil, err
	}
	defer p.close()
	if result, err = first(p); err != nil {
		return nil, nil, err
	}
	if _, err := io.Copy(io.Discard, struct{ io.Reader }{p}); err != nil {
		return nil, nil, err
	}
	raw, err := p.x.finish(size, result)
	if err != nil {
		return nil, nil, err
	}
	st, err := p.stream(c, src, form, name, raw, origin != "")
	if err != nil {
		return nil, nil, err
	}
	return &Stream{st}, result, nil
}

// Close frees what the stream holds, its result too. Reads after it fail.
func (s *Stream) Close() { s.close() }
