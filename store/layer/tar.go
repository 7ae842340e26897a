package layer

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	digest "github.com/opencontainers/go-digest"

	"imagefs/overlay"
	"imagefs/store"
)

// Records is what the headers of a layer's tar say, before what the layer takes
// from those below it is known.
type Records struct {
	b      *overlay.Builder
	newest overlay.Attr
	count  int
}

// Entries returns how many members of the tar were read.
func (r *Records) Entries() int { return r.count }

// collect reads the headers of a tar. look, if not nil, sees each record before it is taken.
func (r *Records) collect(ctx context.Context, next func() (*tar.Header, error), lim Limits, look func(*tar.Header, *record) error) error {
	r.b = overlay.NewBuilder()
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		hdr, err := next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return streamError(err)
		}
		if r.count++; r.count > lim.Entries {
			return fmt.Errorf("layer of more than %d entries: %w", lim.Entries, store.ErrTooLarge)
		}
		if err := lim.check(hdr); err != nil {
			return err
		}
		e, err := parseHeader(hdr)
		if err != nil {
			return err
		}
		if e.skip {
			continue
		}
		r.newest = e.newer(r.newest)
		if look != nil {
			if err := look(hdr, &e); err != nil {
				return err
			}
		}
		if err := r.b.Add(e.Entry); err != nil {
			return classify(err)
		}
	}
}

// Inherit completes the records with what the layer takes from those below it:
// attributes of directories that it only implies, files that it only links to.
// lower, nil for the lowest layer, is asked only if the layer takes anything.
// The records belong to the Builder from then on.
func (r *Records) Inherit(lower func() (*overlay.Tree, error)) (*overlay.Builder, error) {
	needs := false
	ask := func() bool { needs = true; return false }
	r.b.Pending(func(string, string) bool { return ask() })
	r.b.Implied(func(string, bool) bool { return ask() })
	if !needs {
		return r.b, nil
	}
	var below *overlay.Tree
	if lower != nil {
		var err error
		if below, err = lower(); err != nil {
			return nil, err
		}
	}
	return r.b, inherit(r.b, r.newest, below)
}

// ScanTar collects the records of a layer from its tar, uncompressed, which is
// read up to the mark of its end: what follows belongs to the stream and is not
// read. The Ref of each regular file that is not empty is for OpenRef. Errors
// wrap store.ErrCorrupt and store.ErrTooLarge, or are r's own.
func ScanTar(ctx context.Context, r io.Reader, lim Limits) (*Records, error) {
	return scanTar(ctx, &tarPosition{r: r}, lim)
}

// ScanTarAt is ScanTar for a tar that can be read at random. It goes from header
// to header, and so does not see whether the content of files is right.
func ScanTarAt(ctx context.Context, r io.ReaderAt, size int64, lim Limits) (*Records, error) {
	return scanTar(ctx, &tarPosition{r: &headerReader{r: r, size: size}}, lim)
}

func scanTar(ctx context.Context, p *tarPosition, lim Limits) (*Records, error) {
	lim = lim.withDefaults()
	tr := tar.NewReader(p)
	next := func() (*tar.Header, error) {
		p.head = p.head[:0]
		return tr.Next()
	}
	var sparse int64
	var r Records
	err := r.collect(ctx, next, lim, func(hdr *tar.Header, e *record) error {
		if e.Kind != overlay.File {
			return nil
		}
		switch {
		case p.pos > lim.Size:
			return errTooLarge("layer", lim.Size)
		case e.sparse:
			if sparse += hdr.Size; sparse < 0 || sparse > lim.Sparse {
				return errTooLarge("sparse files", lim.Sparse)
			}
			spans, err := sparseSpans(p.head, hdr, p.pos)
			if err != nil {
				return fmt.Errorf("%.200q: %w", hdr.Name, err)
			}
			e.Ref, e.Blocks = refSparse|uint64(p.start), blocksOfSpans(spans)
		case hdr.Size > 0:
			e.Ref = uint64(p.pos)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &r, nil
}

// maxHead bounds the headers of one member: PAX records and a sparse map, of at most a megabyte each.
const maxHead = 8 << 20

// tarPosition knows where archive/tar is, and keeps the headers of the member
// that was read last, from its first block on. archive/tar reads headers, and
// nothing else between members, in whole blocks.
type tarPosition struct {
	r     io.Reader
	pos   int64
	start int64 // of head
	head  []byte
}

func (p *tarPosition) Read(b []byte) (int, error) {
	n, err := p.r.Read(b)
	if len(p.head) > 0 || len(b) == blockBytes && n > 0 {
		if len(p.head) == 0 {
			p.start = p.pos
		}
		if p.head = append(p.head, b[:n]...); len(p.head) > maxHead {
			return 0, &sourceError{errTooLarge("headers of one file", maxHead)}
		}
	}
	p.pos += int64(n)
	if err != nil && err != io.EOF {
		err = &sourceError{err}
	}
	return n, err
}

// Seek skips forward, which is all that archive/tar asks for.
func (p *tarPosition) Seek(off int64, whence int) (int64, error) {
	if whence != io.SeekCurrent || off < 0 {
		return 0, errors.ErrUnsupported
	}
	if off == 0 {
		return p.pos, nil
	}
	var n int64
	var err error
	if s, ok := p.r.(*headerReader); ok {
		n, err = s.skip(off)
	} else {
		n, err = io.CopyN(io.Discard, p.r, off)
	}
	p.pos += n
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	} else if err != nil {
		err = &sourceError{err}
	}
	return p.pos, err
}

// headerReader reads a little at a time, because between two headers there may
// be gigabytes.
type headerReader struct {
	r    io.ReaderAt
	size int64
	pos  int64
	buf  [16 << 10]byte
	have []byte // what is left of buf, from pos on
}

func (h *headerReader) Read(p []byte) (int, error) {
	if h.pos >= h.size {
		return 0, io.EOF
	}
	if len(h.have) == 0 {
		want := h.buf[:min(int64(len(h.buf)), h.size-h.pos)]
		n, err := h.r.ReadAt(want, h.pos)
		if n == 0 && err != nil {
			if err == io.EOF {
				err = fmt.Errorf("the file became shorter: %w", store.ErrGone)
			}
			return 0, err
		}
		h.have = want[:n]
	}
	n := copy(p, h.have)
	h.have = h.have[n:]
	h.pos += int64(n)
	return n, nil
}

// skip goes n bytes on. Where there are fewer it stays, and is io.EOF.
func (h *headerReader) skip(n int64) (int64, error) {
	if n > h.size-h.pos {
		return 0, io.EOF
	}
	h.have = h.have[min(n, int64(len(h.have))):]
	h.pos += n
	return n, nil
}

// The Ref of a regular file whose records come from a tar:
//
//	 63       62      61 … 0
//	┌────────┬───────┬──────────────────────────────────┐
//	│ sparse │ below │ where                            │
//	└────────┴───────┴──────────────────────────────────┘
//
// where is the offset of the content in the tar; of a sparse file the offset of
// its headers; of a file below, which the layer only links to, the
// overlay.NodeID in the tree of the layers below. 0 is an empty file.
const (
	refSparse = 1 << 63
	refBelow  = 1 << 62
)

// RefBelow tells whether the content of a file is that of a node of the layers
// below, merged.
func RefBelow(ref uint64) (overlay.NodeID, bool) {
	return overlay.NodeID(ref &^ refBelow), ref&refBelow != 0 && ref&refSparse == 0
}

// RefReader is the content of a regular file in a tar.
type RefReader interface {
	io.ReaderAt
	Size() int64
}

// OpenRef returns the content of a file of size bytes, whose Ref was made by
// ScanTar, from the tar. store.ErrCorrupt if the Ref or size cannot be this tar's.
func OpenRef(t io.ReaderAt, tarSize int64, ref uint64, size int64) (RefReader, error) {
	switch at := int64(ref &^ (refSparse | refBelow)); {
	case ref == 0 && size == 0:
		return io.NewSectionReader(bytes.NewReader(nil), 0, 0), nil
	case ref&refBelow != 0 || size < 0 || at > tarSize || ref == 0:
		return nil, corrupt("content at %#x of a tar of %d bytes", ref, tarSize)
	case ref&refSparse != 0:
		return openSparse(t, tarSize, at, size)
	case size > tarSize-at:
		return nil, corrupt("content of %d bytes at %d of a tar of %d", size, at, tarSize)
	default:
		return io.NewSectionReader(t, at, size), nil
	}
}

// Streamed is a layer's tar that was read from front to back.
type Streamed struct {
	*Records
	DiffID  digest.Digest
	TarSize int64
}

// ScanTarStream is ScanTar that reads r to its end and hashes it, in goroutines
// of its own.
func ScanTarStream(ctx context.Context, r io.Reader, lim Limits) (*Streamed, error) {
	lim = lim.withDefaults()
	hr := newHashReader(ctx, r, lim.Size)
	defer hr.close()
	rec, err := ScanTar(ctx, hr, lim)
	if err != nil {
		return nil, err
	}
	if _, err = io.Copy(io.Discard, onlyReader{hr}); err != nil {
		return nil, streamError(err)
	}
	<-hr.done
	return &Streamed{rec, digest.NewDigest(digest.SHA256, hr.sum), hr.total}, nil
}
