package archive

import (
	"bytes"
	"errors"
	"fmt"
	"hash"
	"io"
	"strconv"
	"sync"

	digest "github.com/opencontainers/go-digest"

	"imagefs/store"
	"imagefs/store/archive/compress"
)

// blob is a layer of an archive that was unpacked, or why it could not be.
type blob struct {
	staged     store.Staged
	digest     digest.Digest // of the bytes in the archive; "" if not known
	size       int64         // bytes in the archive
	compressed bool
	err        error // its content is no layer
}

// headSize is how many bytes of a file tell what it is.
const headSize = 512

// peek returns the first bytes of a file, and a reader of all of it.
func peek(r io.Reader) ([]byte, io.Reader, error) {
	head := make([]byte, headSize)
	n, err := io.ReadFull(r, head)
	if err == io.EOF || err == io.ErrUnexpectedEOF { // of ReadFull: the file is short
		err = nil
	}
	return head[:n], io.MultiReader(bytes.NewReader(head[:n]), r), err
}

// looksLikeTar tells whether the first bytes of a file are those of a tar.
func looksLikeTar(head []byte) bool {
	if len(head) < 512 {
		return false
	}
	if isZero(head[:512]) {
		return true // an empty layer
	}
	field := bytes.Trim(head[148:156], " \x00")
	want, err := strconv.ParseInt(string(field), 8, 64)
	if err != nil {
		return false
	}
	var unsigned, signed int64
	for i, c := range head[:512] {
		if 148 <= i && i < 156 {
			c = ' '
		}
		unsigned += int64(c)
		signed += int64(int8(c))
	}
	return want == unsigned || want == signed
}

func isZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// hashing counts and hashes what is read; its truncation is an error of its own.
type hashing struct {
	r io.Reader
	h hash.Hash // nil: only counts
	n int64
}

func (h *hashing) Read(p []byte) (int, error) {
	n, err := h.r.Read(p)
	h.n += int64(n)
	if h.h != nil {
		h.h.Write(p[:n])
	}
	// Readers further on take a bare io.ErrUnexpectedEOF for an end.
	if err != nil && errors.Is(err, io.ErrUnexpectedEOF) {
		var in *inputError
		if !errors.As(err, &in) {
			err = &inputError{errTruncated}
		}
	}
	return n, err
}

var errTruncated = fmt.Errorf("archive is truncated: %w", store.ErrCorrupt)

// leash lends a reader out. Ingest.Unpack may read on in a goroutine after it
// has failed; end waits for that Read and allows no other.
type leash struct {
	mu sync.Mutex // held during a Read
	r  io.Reader
}

func (l *leash) Read(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.r == nil {
		return 0, errors.New("read of a layer that has ended")
	}
	return l.r.Read(p)
}

func (l *leash) end() {
	l.mu.Lock()
	l.r = nil
	l.mu.Unlock()
}

// unpack unpacks a layer, compressed or not, and reads r to its end. What is
// wrong with the layer is in the blob; the error is of the input or the store.
func (l *load) unpack(name string, r io.Reader) (*blob, error) {
	raw := &hashing{r: r}
	head, all, err := peek(raw)
	if err != nil {
		return nil, err
	}
	format := compress.Detect(head)
	b := &blob{compressed: format != compress.None}
	var sum digest.Digester
	var z io.ReadCloser
	data := all
	// The SHA-256 of what is not compressed is the diff ID, which the store computes.
	if alg := algorithmOf(name); b.compressed || alg != digest.SHA256 {
		sum = alg.Digester()
		raw.h = sum.Hash()
		raw.h.Write(head)
	}
	if b.compressed {
		z = compress.NewReader(all, format, compress.Options{Window: l.lim.Window})
		data = z
	}
	lent := &leash{r: data}
	b.staged, err = l.in.Unpack(l.ctx, lent)
	lent.end()
	if z != nil {
		z.Close()
	}
	if err != nil {
		if !l.blames(err) {
			return nil, err
		}
		b.err = err
		if name == "" {
			return b, nil // it is no member of an archive: nothing follows, and it may have no end
		}
	}
	if _, err := io.Copy(io.Discard, raw); err != nil {
		return nil, err
	}
	b.size = raw.n
	switch {
	case sum != nil:
		b.digest = sum.Digest()
	case err == nil:
		b.digest = b.staged.DiffID()
	}
	return b, nil
}

// blames tells whether an error of Unpack says that the layer is bad, as
// opposed to the input, the store or the user having ended it.
func (l *load) blames(err error) bool {
	var in *inputError
	if l.ctx.Err() != nil || errors.As(err, &in) {
		return false
	}
	return errors.Is(err, store.ErrCorrupt) || errors.Is(err, store.ErrTooLarge)
}
