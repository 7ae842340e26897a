package layer

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sort"
	"sync"

	"golang.org/x/sys/unix"

	"imagefs/overlay"
	"imagefs/store"
)

// TarSource says where the parts of a layer's tar are.
type TarSource struct {
	Split func() (io.ReadCloser, error) // opens the tar-split, not compressed
	Dir   *os.File                      // the diff directory; stays the caller's
	Spill *os.File                      // nil if the layer has none; stays the caller's
	Temp  func() (*os.File, error)      // makes an empty file without a name, or one that goes by itself
}

// A tar is a list of runs, each a piece of the segments or a whole file:
//
//	data:  segment bytes and paths, one after the other; before a path the file's CRC-64, if the tar-split has it
//	table: one run a record of 24 bytes: start in the tar, offset in data, length<<2 | CRC-64<<1 | file
//
// A segment's length is that of its bytes, a file's that of its path and its
// CRC-64; what a run covers ends where the next starts.
const (
	runSize = 24
	sumSize = 8
)

// The lowest bits of a run's length.
const (
	runFile = 1 << iota
	runSum
	runShift = iota
)

// maxTarMap bounds what a tar-split, which compresses well, may take on disk.
const maxTarMap = 4 << 30

// tarFile is a layer's tar, read at random: a binary search in a mapped table,
// then bytes of the mapped segments or of a file in the diff directory.
type tarFile struct {
	src   TarSource
	data  []byte
	table []byte
	spill map[uint64]spillEntry
	size  int64
	n     int
	near  Near
	sums  tarSums

	mu   sync.Mutex
	open []*tarPart // most recently used last
}

// tarPart is a file of the diff directory that is kept open for the reads to come.
type tarPart struct {
	run  int
	f    store.File
	uses int
	old  bool // out of the list: the last user closes it
}

// maxTarParts is how many files one open tar keeps open.
const maxTarParts = 8

// OpenTar opens the uncompressed tar of a layer for reading at random. It reads
// the tar-split once; memory does not grow with it, because what is needed of it
// goes to a file from s.Temp. Errors wrap store.ErrCorrupt: so does that of the
// read by which the whole of a file was read, if it is not what the tar-split has
// the sum of. The File is a store.PartReader.
func OpenTar(s TarSource) (store.File, error) {
	t := &tarFile{src: s}
	if s.Spill != nil {
		var err error
		if t.spill, err = readSpill(s.Spill); err != nil {
			return nil, err
		}
	}
	if err := t.build(); err != nil {
		t.unmap()
		return nil, err
	}
	return t, nil
}

func (t *tarFile) build() error {
	in, err := t.src.Split()
	if err != nil {
		return err
	}
	defer in.Close()
	data, err := t.src.Temp()
	if err != nil {
		return err
	}
	defer data.Close()
	table, err := t.src.Temp()
	if err != nil {
		return err
	}
	defer table.Close()
	dw, tw := bufio.NewWriterSize(data, 256<<10), bufio.NewWriterSize(table, 64<<10)
	var rec [runSize]byte
	var off int64 // in data
	put := func(start int64, n int, flags uint64) {
		binary.LittleEndian.PutUint64(rec[:], uint64(start))
		binary.LittleEndian.PutUint64(rec[8:], uint64(off))
		binary.LittleEndian.PutUint64(rec[16:], uint64(n)<<runShift|flags)
		tw.Write(rec[:]) // a bufio.Writer keeps its first error for Flush
		off += int64(n)
		t.n++
	}
	r := newSplitReader(in)
	var e splitEntry
	for {
		start := r.total
		if err := r.next(&e); err == io.EOF {
			break
		} else if err != nil {
			return err
		}
		if r.total == start {
			continue
		}
		if off > maxTarMap {
			return errTooLarge("tar-split", maxTarMap)
		}
		if e.Type == splitSegment {
			put(start, len(e.Payload), 0)
			dw.Write(e.Payload)
			continue
		}
		path := e.path()
		if sp, ok := t.spill[r.files]; ok {
			if sp.size != e.Size {
				return corrupt("spill file: %d bytes for a file of %d", sp.size, e.Size)
			}
			path = "\x00" + string(binary.LittleEndian.AppendUint64(nil, uint64(sp.off)))
		} else if path, err = overlay.CleanPath(path); err != nil {
			return classify(err)
		} else if path == "" {
			return corrupt("tar-split: %d bytes of the layer's root", e.Size)
		}
		n, flags := len(path), uint64(runFile)
		if len(e.Payload) == sumSize {
			n, flags = n+sumSize, flags|runSum
			dw.Write(e.Payload)
		}
		put(start, n, flags)
		dw.WriteString(path)
	}
	t.size = r.total
	if err := errors.Join(dw.Flush(), tw.Flush()); err != nil {
		return fmt.Errorf("tar map: %w", err)
	}
	if t.data, err = mapFile(data, off); err != nil {
		return err
	}
	t.table, err = mapFile(table, int64(t.n)*runSize)
	return err
}

func mapFile(f *os.File, size int64) ([]byte, error) {
	if size == 0 {
		return nil, nil
	}
	b, err := unix.Mmap(int(f.Fd()), 0, int(size), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("tar map: %w", err)
	}
	return b, nil
}

func (t *tarFile) unmap() {
	if t.data != nil {
		unix.Munmap(t.data)
	}
	if t.table != nil {
		unix.Munmap(t.table)
	}
	t.data, t.table = nil, nil
}

func (t *tarFile) Size() int64 { return t.size }

var _ store.PartReader = (*tarFile)(nil)

// InParts implements store.PartReader.
func (t *tarFile) InParts() bool { return t.sums.open() }

// Close must not be called while a read is under way.
func (t *tarFile) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, p := range t.open {
		p.f.Close()
	}
	t.open = nil
	t.near.Close()
	t.unmap()
	return nil
}

func (t *tarFile) start(run int) int64 {
	if run == t.n {
		return t.size
	}
	return int64(binary.LittleEndian.Uint64(t.table[run*runSize:]))
}

// run returns the bytes of a segment, or the path of a file; sum is nil where
// there is no sum to compare with.
func (t *tarFile) run(i int) (data, sum []byte, file bool) {
	r := t.table[i*runSize:]
	off, n := binary.LittleEndian.Uint64(r[8:]), binary.LittleEndian.Uint64(r[16:])
	data = t.data[off : off+n>>runShift]
	if n&runSum != 0 {
		return data[sumSize:], data[:sumSize], true
	}
	return data, nil, n&runFile != 0
}

// ReadAt implements io.ReaderAt.
func (t *tarFile) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, errors.New("negative offset")
	}
	done := 0
	i := sort.Search(t.n, func(i int) bool { return t.start(i+1) > off })
	for ; i < t.n && done < len(p); i++ {
		start, end := t.start(i), t.start(i+1)
		want := p[done:min(int64(len(p)), int64(done)+end-off)]
		if err := t.readRun(i, want, off-start, end-start); err != nil {
			return done, err
		}
		done += len(want)
		off += int64(len(want))
	}
	if done < len(p) {
		return done, io.EOF
	}
	return done, nil
}

func (t *tarFile) readRun(i int, p []byte, off, size int64) error {
	data, sum, file := t.run(i)
	if !file {
		copy(p, data[off:])
		return nil
	}
	if err := t.readFile(i, data, p, off, size); err != nil || sum == nil {
		return err
	}
	if !t.sums.add(i, p, off, size, binary.BigEndian.Uint64(sum)) {
		if data[0] == 0 {
			return corrupt("spill file: content that is not the tar's")
		}
		return corrupt("%.300q has another content than the layer's", data)
	}
	return nil
}

// readFile reads from the file of a run.
func (t *tarFile) readFile(i int, data, p []byte, off, size int64) error {
	if data[0] == 0 {
		_, err := t.src.Spill.ReadAt(p, int64(binary.LittleEndian.Uint64(data[1:]))+off)
		return short(err)
	}
	if int64(len(p)) == size {
		return short(t.near.readFile(t.src.Dir, string(data), p))
	}
	part, err := t.part(i, string(data), size)
	if err != nil {
		return err
	}
	defer t.release(part)
	_, err = part.f.ReadAt(p, off)
	return short(err)
}

// short turns the end of a file that should go on into what it is.
func short(err error) error {
	if err == io.EOF {
		return corrupt("a file of the layer is shorter than its tar says")
	}
	return err
}

func (t *tarFile) part(run int, path string, size int64) (*tarPart, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for k, p := range t.open {
		if p.run == run {
			t.open = append(append(t.open[:k:k], t.open[k+1:]...), p)
			p.uses++
			return p, nil
		}
	}
	f, err := t.near.openFile(t.src.Dir, path, size)
	if err != nil {
		return nil, err
	}
	p := &tarPart{run: run, f: f, uses: 1}
	t.open = append(t.open, p)
	if len(t.open) > maxTarParts {
		old := t.open[0]
		t.open = t.open[1:]
		if old.old = true; old.uses == 0 {
			old.f.Close()
		}
	}
	return p, nil
}

func (t *tarFile) release(p *tarPart) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if p.uses--; p.uses == 0 && p.old {
		p.f.Close()
	}
}
