package layer

import (
	"context"
	"crypto/sha256"
	"hash"
	"io"
	"sync/atomic"

	"imagefs/store/guard"
)

const (
	blockSize  = 256 << 10
	blockCount = 16
)

// block is a piece of the stream that the reader and the hasher share.
type block struct {
	buf  []byte
	n    int
	uses atomic.Int32
}

// hashReader reads a stream ahead in a goroutine of its own, and hashes it in
// another, so that hashing costs the reader nothing where there is a core to spare.
type hashReader struct {
	ctx    context.Context
	cancel context.CancelFunc
	blocks chan *block // filled, for the reader
	free   chan *block
	done   chan struct{} // the hasher has seen everything
	sum    hash.Hash
	cur    *block
	off    int
	err    error // of the source; valid after blocks is closed
	limit  int64
	total  int64
}

func newHashReader(ctx context.Context, r io.Reader, limit int64) *hashReader {
	h := &hashReader{blocks: make(chan *block, blockCount), free: make(chan *block, blockCount),
		done: make(chan struct{}), sum: sha256.New(), limit: limit}
	h.ctx, h.cancel = context.WithCancel(ctx)
	for range blockCount {
		h.free <- &block{}
	}
	hashing := make(chan *block, blockCount)
	go h.fill(r, hashing)
	go func() {
		defer close(h.done)
		for b := range hashing {
			h.sum.Write(b.buf[:b.n])
			h.release(b)
		}
	}()
	return h
}

func (h *hashReader) fill(r io.Reader, hashing chan<- *block) {
	defer close(h.blocks)
	defer close(hashing)
	h.err = guard.Run(func() error { return h.read(r, hashing) })
}

// read reads the source to its end. What decompresses it may be behind r.
func (h *hashReader) read(r io.Reader, hashing chan<- *block) error {
	for {
		var b *block
		select {
		case b = <-h.free:
		case <-h.ctx.Done():
			return h.ctx.Err()
		}
		if b.buf == nil {
			b.buf = make([]byte, blockSize)
		}
		n, err := io.ReadFull(r, b.buf)
		if n > 0 {
			b.n = n
			b.uses.Store(2)
			hashing <- b
			h.blocks <- b
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (h *hashReader) release(b *block) {
	if b.uses.Add(-1) == 0 {
		h.free <- b
	}
}

// Read implements io.Reader. A source that fails gives its own error.
func (h *hashReader) Read(p []byte) (int, error) {
	if h.total > h.limit {
		return 0, &sourceError{errTooLarge("layer", h.limit)}
	}
	for h.cur == nil {
		b, ok := <-h.blocks
		if !ok {
			if h.err != nil {
				return 0, &sourceError{h.err}
			}
			return 0, io.EOF
		}
		if err := h.ctx.Err(); err != nil {
			h.release(b)
			return 0, &sourceError{err}
		}
		h.cur, h.off = b, 0
	}
	n := copy(p, h.cur.buf[h.off:h.cur.n])
	if h.off += n; h.off == h.cur.n {
		h.release(h.cur)
		h.cur = nil
	}
	h.total += int64(n)
	return n, nil
}

// close stops the goroutines. The source may still be read once more; nothing waits for it.
func (h *hashReader) close() {
	h.cancel()
	go func() {
		for b := range h.blocks {
			h.release(b)
		}
	}()
}

// sourceError is an error of the stream itself, as opposed to one of what is in it.
type sourceError struct{ err error }

func (e *sourceError) Error() string { return e.err.Error() }
func (e *sourceError) Unwrap() error { return e.err }
