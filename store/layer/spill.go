package layer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"imagefs/store"
)

// A spill file holds contents, then a table of what they are, then a footer:
//
//	content … | ref offset size (8 each) … | count (8) | "imgspill"
//
// ref is the number, from 1, of the file record in the tar-split.
const (
	spillMagic  = "imgspill"
	spillRecord = 24
	spillFooter = 16
)

type spillEntry struct{ off, size int64 }

// spill collects contents. f may be nil: then there is nowhere to keep them.
type spill struct {
	f     *os.File
	off   int64
	table map[uint64]spillEntry
	order []uint64
}

func (s *spill) add(ref uint64, fd int, size int64) error {
	if _, ok := s.table[ref]; ok {
		return nil
	}
	if s.f == nil {
		return nil // the caller does without the tar
	}
	src := io.NewSectionReader(fdReader(fd), 0, size)
	n, err := io.Copy(io.NewOffsetWriter(s.f, s.off), src)
	if err != nil {
		return fmt.Errorf("spill: %w", err)
	}
	if n != size {
		return fmt.Errorf("spill: %d of %d bytes: %w", n, size, io.ErrUnexpectedEOF)
	}
	if s.table == nil {
		s.table = map[uint64]spillEntry{}
	}
	s.table[ref] = spillEntry{s.off, size}
	s.order = append(s.order, ref)
	s.off += size
	return nil
}

// finish writes the table; it returns false if there was nothing to keep.
func (s *spill) finish() (bool, error) {
	if s.f == nil || len(s.order) == 0 {
		return false, nil
	}
	var b []byte
	for _, ref := range s.order {
		e := s.table[ref]
		b = binary.LittleEndian.AppendUint64(b, ref)
		b = binary.LittleEndian.AppendUint64(b, uint64(e.off))
		b = binary.LittleEndian.AppendUint64(b, uint64(e.size))
	}
	b = binary.LittleEndian.AppendUint64(b, uint64(len(s.order)))
	b = append(b, spillMagic...)
	if _, err := s.f.WriteAt(b, s.off); err != nil {
		return false, fmt.Errorf("spill: %w", err)
	}
	return true, nil
}

// readSpill reads the table of a spill file; an empty file has none.
func readSpill(f *os.File) (map[uint64]spillEntry, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if st.Size() == 0 {
		return nil, nil
	}
	bad := fmt.Errorf("spill file: %w", store.ErrCorrupt)
	if st.Size() < spillFooter {
		return nil, bad
	}
	var foot [spillFooter]byte
	if _, err := f.ReadAt(foot[:], st.Size()-spillFooter); err != nil {
		return nil, err
	}
	n := binary.LittleEndian.Uint64(foot[:])
	if string(foot[8:]) != spillMagic || n > DefaultEntries || int64(n)*spillRecord > st.Size()-spillFooter {
		return nil, bad
	}
	start := st.Size() - spillFooter - int64(n)*spillRecord
	b := make([]byte, n*spillRecord)
	if _, err := f.ReadAt(b, start); err != nil {
		return nil, err
	}
	t := make(map[uint64]spillEntry, n)
	for ; len(b) > 0; b = b[spillRecord:] {
		e := spillEntry{int64(binary.LittleEndian.Uint64(b[8:])), int64(binary.LittleEndian.Uint64(b[16:]))}
		if e.off < 0 || e.size < 0 || e.off > start || e.size > start-e.off {
			return nil, bad
		}
		t[binary.LittleEndian.Uint64(b)] = e
	}
	return t, nil
}

// fdReader reads a descriptor at an offset.
type fdReader int

func (fd fdReader) ReadAt(p []byte, off int64) (int, error) {
	done := 0
	for done < len(p) {
		n, err := unix.Pread(int(fd), p[done:], off+int64(done))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return done, err
		}
		if n == 0 {
			return done, io.EOF
		}
		done += n
	}
	return done, nil
}
