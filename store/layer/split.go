package layer

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"

	"imagefs/overlay"
	"imagefs/store"
)

// maxSplitLine bounds one line of a tar-split. The stock packer makes a segment
// of a header with its padding, and of what follows the archive's end.
const maxSplitLine = 64 << 20

// splitEntry is one record of a tar-split (github.com/vbatts/tar-split,
// tar/storage): bytes of the tar, or the content of a file that lies elsewhere.
type splitEntry struct {
	Type    int    `json:"type"` // 1 file, 2 segment
	Name    string `json:"name"`
	NameRaw []byte `json:"name_raw"`
	Size    int64  `json:"size"`
	Payload []byte `json:"payload"` // segment: its bytes; file: CRC-64 of its content
}

const (
	splitFile    = 1
	splitSegment = 2
)

func (e *splitEntry) path() string {
	if e.Name == "" {
		return string(e.NameRaw)
	}
	return e.Name
}

// splitReader reads a tar-split, a line at a time.
type splitReader struct {
	s     *bufio.Scanner
	files uint64 // file records so far
	total int64  // bytes of the tar so far

	lim                    splitLimits
	text, records, payload int64 // so far
}

// splitLimits bound what is read of a tar-split, which compresses a thousand
// times if it wants to.
type splitLimits struct {
	text    int64 // bytes, not compressed
	records int64
	payload int64 // bytes of segments
}

// defaultSplit has room for the headers of as many entries as a layer may have,
// a kilobyte each.
var defaultSplit = splitLimits{text: 8 << 30, records: 3 * DefaultEntries, payload: maxTarMap}

// count takes one record of n bytes.
func (r *splitReader) count(n int, e *splitEntry) error {
	r.text += int64(n)
	r.records++
	if e.Type == splitSegment {
		r.payload += int64(len(e.Payload))
	}
	switch {
	case r.text > r.lim.text:
		return errTooLarge("tar-split", r.lim.text)
	case r.records > r.lim.records:
		return fmt.Errorf("tar-split of more than %d records: %w", r.lim.records, store.ErrTooLarge)
	case r.payload > r.lim.payload:
		return errTooLarge("headers in a tar-split", r.lim.payload)
	}
	return nil
}

func newSplitReader(r io.Reader) *splitReader {
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 64<<10), maxSplitLine)
	return &splitReader{s: s, lim: defaultSplit}
}

// next reads one record; io.EOF at the end.
func (r *splitReader) next(e *splitEntry) error {
	if !r.s.Scan() {
		err := r.s.Err()
		switch {
		case err == nil:
			return io.EOF
		case errors.Is(err, bufio.ErrTooLong):
			return fmt.Errorf("tar-split: a line of more than %d bytes: %w", maxSplitLine, store.ErrTooLarge)
		}
		return fmt.Errorf("tar-split: %w: %w", store.ErrCorrupt, err)
	}
	if err := parseSplit(r.s.Bytes(), e); err != nil {
		return err
	}
	if err := r.count(len(r.s.Bytes()), e); err != nil {
		return err
	}
	switch {
	case e.Type == splitSegment:
		r.total += int64(len(e.Payload))
	case e.Type == splitFile && e.Size >= 0:
		if e.Size > 0 {
			r.files++
		}
		r.total += e.Size
	default:
		return corrupt("tar-split: record of type %d and size %d", e.Type, e.Size)
	}
	if r.total < 0 || r.total > DefaultSize {
		return errTooLarge("tar-split's tar", DefaultSize)
	}
	return nil
}

// SplitSize returns the size in bytes of the tar that a tar-split, not compressed, describes.
func SplitSize(split io.Reader) (int64, error) {
	r := newSplitReader(split)
	var e splitEntry
	for {
		if err := r.next(&e); err == io.EOF {
			return r.total, nil
		} else if err != nil {
			return 0, err
		}
	}
}

// ScanSplit collects the records of a layer from the headers in its tar-split,
// not compressed, for a diff directory that does not tell owners or devices.
// lower, nil for the lowest layer, is asked only if the layer takes something
// from those below it. Errors wrap store.ErrCorrupt and store.ErrTooLarge.
func ScanSplit(ctx context.Context, split io.Reader, lower func() (*overlay.Tree, error), lim Limits) (*overlay.Builder, error) {
	var r Records
	tr := tar.NewReader(&splitTar{r: newSplitReader(split)})
	if err := r.collect(ctx, tr.Next, lim.withDefaults(), nil); err != nil {
		return nil, err
	}
	return r.Inherit(lower)
}

// splitTar is the tar of a tar-split with zeros for the content of files, which
// can be skipped in one step.
type splitTar struct {
	r     *splitReader
	e     splitEntry
	seg   []byte
	zeros int64
	pos   int64
}

func (t *splitTar) fill() error {
	for len(t.seg) == 0 && t.zeros == 0 {
		if err := t.r.next(&t.e); err != nil {
			if err == io.EOF {
				return err
			}
			return &sourceError{err}
		}
		if t.e.Type == splitSegment {
			t.seg = t.e.Payload
		} else {
			t.zeros = t.e.Size
		}
	}
	return nil
}

func (t *splitTar) Read(p []byte) (int, error) {
	if err := t.fill(); err != nil {
		return 0, err
	}
	n := 0
	if len(t.seg) > 0 {
		n = copy(p, t.seg)
		t.seg = t.seg[n:]
	} else {
		n = int(min(int64(len(p)), t.zeros))
		clear(p[:n])
		t.zeros -= int64(n)
	}
	t.pos += int64(n)
	return n, nil
}

// Seek skips forward, which is all that archive/tar asks for.
func (t *splitTar) Seek(off int64, whence int) (int64, error) {
	if whence != io.SeekCurrent || off < 0 {
		return 0, errors.ErrUnsupported
	}
	for off > 0 {
		if err := t.fill(); err != nil {
			if err == io.EOF {
				err = &sourceError{corrupt("tar-split ends within a file")}
			}
			return t.pos, err
		}
		var n int64
		if len(t.seg) > 0 {
			n = min(off, int64(len(t.seg)))
			t.seg = t.seg[n:]
		} else {
			n = min(off, t.zeros)
			t.zeros -= n
		}
		off -= n
		t.pos += n
	}
	return t.pos, nil
}
