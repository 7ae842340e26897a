package blob

import (
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"sync"

	"imagefs/store"
	"imagefs/store/blob/gunzip"
)

// stream is a compressed blob, read at random by its seek index.
//
// A read takes pages from the cache. One that is not there is decompressed, with
// those before it, from the nearest point; the decoder stays for the next read,
// which is the next page as a rule. One goroutine decompresses at a time.
type stream struct {
	pages  *pageCache
	src    io.ReaderAt
	size   int64
	form   format
	ix     *seekIndex
	groups []group // of zstd

	mu     sync.Mutex // guards what follows, and what ix has mapped
	spill  *os.File   // all output, if starting over would take too long
	dec    decoder
	pos    int64  // of the output that dec gives next
	rest   []byte // output before pos that was not used yet
	closed bool
}

// Size implements body.
func (s *stream) Size() int64 { return s.ix.tarSize }

// ReadAt implements io.ReaderAt.
func (s *stream) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read at %d: %w", off, store.ErrInvalid)
	}
	done := 0
	for done < len(p) && off < s.ix.tarSize {
		data, err := s.page(off / pageSize)
		if err != nil {
			return done, err
		}
		n := copy(p[done:], data[off%pageSize:])
		done += n
		off += int64(n)
	}
	if done < len(p) {
		return done, io.EOF
	}
	return done, nil
}

// page returns a page of the output.
func (s *stream) page(n int64) ([]byte, error) {
	if b, ok := s.pages.get(pageKey{s, n}); ok {
		return b, nil
	}
	s.mu.Lock()
	b, ok := s.pages.get(pageKey{s, n})
	var err error
	if !ok {
		b, err = s.load(n)
	}
	var old *stream
	if s.dec != nil {
		old = s.pages.keepsDecoder(s)
	}
	s.mu.Unlock()
	if old != nil && old != s && old.mu.TryLock() {
		old.drop()
		old.mu.Unlock()
	}
	return b, err
}

// load gets a page, and puts it into the cache with those that come on the way; s.mu is held.
func (s *stream) load(n int64) ([]byte, error) {
	if s.closed {
		return nil, fmt.Errorf("read compressed data: %w", os.ErrClosed)
	}
	start := n * pageSize
	if s.spill != nil {
		b := make([]byte, min(pageSize, s.ix.tarSize-start))
		m, err := s.spill.ReadAt(b, start)
		if m == len(b) && crc32.Checksum(b, castagnoli) == s.ix.sum(n) {
			s.pages.put(pageKey{s, n}, b)
			return b, nil
		}
		if err != nil && err != io.EOF {
			return nil, fmt.Errorf("read decompressed data: %w", err)
		}
		s.spill.Close() // damaged: it can be done without
		s.spill = nil
	}
	b, err := s.decode(start, n)
	if err != nil {
		s.drop()
		return nil, classify(err)
	}
	return b, nil
}

// decode decompresses up to the end of page n, which starts at start.
func (s *stream) decode(start, n int64) ([]byte, error) {
	if err := s.seek(start); err != nil {
		return nil, err
	}
	for {
		at := s.pos - int64(len(s.rest))
		if skip := at % pageSize; skip != 0 {
			// Only a part of this page can be had from here.
			if err := s.skip(pageSize - skip); err != nil {
				return nil, err
			}
			continue
		}
		k := at / pageSize
		b := make([]byte, min(pageSize, s.ix.tarSize-at))
		if err := s.read(b); err != nil {
			return nil, err
		}
		if crc32.Checksum(b, castagnoli) != s.ix.sum(k) {
			return nil, fmt.Errorf("bytes %d to %d are not those that were verified: %w", at, at+int64(len(b)), store.ErrCorrupt)
		}
		s.pages.put(pageKey{s, k}, b)
		if k == n {
			return b, nil
		}
	}
}

// seek makes sure of a decoder that is at or before an offset, and not before the last point there.
func (s *stream) seek(off int64) error {
	p, _, err := s.ix.before(off)
	if err != nil {
		return err
	}
	if at := s.pos - int64(len(s.rest)); s.dec != nil && at <= off && at >= p.Out {
		return nil
	}
	s.drop()
	switch s.form {
	case gzipped:
		z := gunzip.NewReader(nil)
		if err := z.Resume(section(s.src, s.size), p); err != nil {
			return err
		}
		s.dec = gzipDecoder{z}
	case zstandard:
		i := 0
		for i < len(s.groups) && s.groups[i].off < p.In/8 {
			i++
		}
		if s.dec, err = newZstdDecoder(s.src, s.groups[i:]); err != nil {
			return err
		}
	default:
		return fmt.Errorf("a stream of format %d: %w", s.form, store.ErrInvalid)
	}
	s.pos, s.rest = p.Out, nil
	return nil
}

// more gets the next piece of output.
func (s *stream) more() error {
	b, err := s.dec.Next()
	if err == io.EOF {
		err = fmt.Errorf("compressed data ends after %d bytes, not %d: %w", s.pos, s.ix.tarSize, store.ErrCorrupt)
	}
	if err != nil {
		return err
	}
	s.rest = b
	s.pos += int64(len(b))
	return nil
}

func (s *stream) read(p []byte) error {
	for len(p) > 0 {
		if len(s.rest) == 0 {
			if err := s.more(); err != nil {
				return err
			}
		}
		n := copy(p, s.rest)
		s.rest = s.rest[n:]
		p = p[n:]
	}
	return nil
}

func (s *stream) skip(n int64) error {
	for n > 0 {
		if len(s.rest) == 0 {
			if err := s.more(); err != nil {
				return err
			}
		}
		m := min(n, int64(len(s.rest)))
		s.rest = s.rest[m:]
		n -= m
	}
	return nil
}

// drop lets go of the decoder; s.mu is held.
func (s *stream) drop() {
	if s.dec != nil {
		s.dec.Close()
		s.dec = nil
	}
	s.pos, s.rest = 0, nil
}

// close frees everything. It waits for a read; those after it fail.
func (s *stream) close() {
	s.mu.Lock()
	s.closed = true
	s.ix.close()
	s.drop()
	if s.spill != nil {
		s.spill.Close()
		s.spill = nil
	}
	s.mu.Unlock()
	s.pages.forget(s)
}
