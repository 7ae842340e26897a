package save

import (
	"context"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"sync"

	digest "github.com/opencontainers/go-digest"

	"imagefs/store"
	"imagefs/store/guard"
)

// Progress is how far a save is.
type Progress struct {
	Done  int64  // bytes written; never falls
	Total int64  // bytes that will be written, before compression
	What  string // "layer 3768f45bed9b"
}

const (
	chunkSize = 1 << 20
	// readers read chunks ahead: what a layer's tar is made of is small files, and
	// opening one takes longer than copying it.
	readers = 3
	// chunks is how many are under way at most.
	chunks = 8
)

// chunk is a piece of one section, on its way from a reader to the writer.
type chunk struct {
	section int
	off     int64 // in the section
	buf     []byte
	spare   []byte // the buffer, given back when the chunk is written
	err     error
	ready   chan struct{}
}

// Write writes the archive. Every layer is checked: store.ErrCorrupt if one is
// not what its diff ID says, when some of it has been written. tell, if not nil,
// is called for each piece that was written. An error of w comes back as it is.
func (a *Archive) Write(ctx context.Context, w io.Writer, tell func(Progress)) error {
	ctx, cancel := context.WithCancel(ctx)
	f := a.Open(ctx)
	var work sync.WaitGroup
	defer func() { cancel(); work.Wait(); f.Close() }()

	free, todo, order := make(chan []byte, chunks), make(chan *chunk), make(chan *chunk, chunks)
	for range chunks {
		free <- nil
	}
	work.Go(func() { a.cut(ctx, free, todo, order) })
	for range readers {
		work.Go(func() { a.readChunks(f, todo) })
	}
	var sum hash.Hash
	var done int64
	for c := range order {
		select {
		case <-c.ready:
		case <-ctx.Done():
			return ctx.Err()
		}
		if c.err != nil {
			return c.err
		}
		s := &a.sections[c.section]
		p := Progress{Total: a.size}
		if s.part == nil {
			if _, err := w.Write(c.buf); err != nil {
				return err
			}
		} else {
			if c.off == 0 {
				sum = sha256.New()
			}
			if err := writeHashed(w, sum, c.buf); err != nil {
				return err
			}
			if c.off+int64(len(c.buf)) == s.part.size {
				if got := digest.NewDigest(digest.SHA256, sum); s.part.sum != "" && got != s.part.sum {
					return fmt.Errorf("%s hashes to %s: %w", s.part.what, got, store.ErrCorrupt)
				}
			}
			p.What = s.part.what
		}
		if done += int64(len(c.buf)); tell != nil {
			p.Done = done
			tell(p)
		}
		free <- c.spare
	}
	return ctx.Err()
}

// writeHashed writes and hashes at the same time.
func writeHashed(w io.Writer, sum hash.Hash, p []byte) error {
	hashed := make(chan struct{})
	go func() {
		sum.Write(p)
		close(hashed)
	}()
	_, err := w.Write(p)
	<-hashed
	return err
}

// cut divides the archive into chunks: to the readers those of parts, and all of
// them in their order to the writer.
func (a *Archive) cut(ctx context.Context, free <-chan []byte, todo, order chan<- *chunk) {
	defer close(order)
	defer close(todo)
	for n := range a.sections {
		s := &a.sections[n]
		// An empty part is a chunk too, whose digest is checked.
		for off := int64(0); off < s.size() || off == 0; off += chunkSize {
			var buf []byte
			select {
			case buf = <-free:
			case <-ctx.Done():
				return
			}
			size := min(chunkSize, s.size()-off)
			c := &chunk{section: n, off: off, spare: buf, ready: make(chan struct{})}
			if s.part == nil {
				c.buf = s.data[off : off+size]
				close(c.ready)
			} else {
				if buf == nil {
					c.spare = make([]byte, chunkSize)
				}
				c.buf = c.spare[:size]
			}
			order <- c // has room: there are no more chunks than buffers
			if s.part == nil {
				continue
			}
			select {
			case todo <- c:
			case <-ctx.Done():
				return
			}
		}
	}
}

// readChunks reads chunks until there are none left.
func (a *Archive) readChunks(f store.File, todo <-chan *chunk) {
	for c := range todo {
		if len(c.buf) > 0 {
			c.err = guard.Run(func() error {
				_, err := f.ReadAt(c.buf, a.sections[c.section].start+c.off)
				return err
			})
		}
		close(c.ready)
	}
}
