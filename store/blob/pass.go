package blob

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"sync"

	digest "github.com/opencontainers/go-digest"

	"imagefs/store"
	"imagefs/store/blob/gunzip"
)

// pass reads a compressed blob from front to back: it gives the output, and
// makes the seek index meanwhile.
type pass struct {
	ctx  context.Context
	dec  decoder
	mark func(x *indexer) // notes a point if one is possible here
	x    *indexer
	in   *hashedBlob

	groups []group // of zstd

	mu    sync.Mutex // held during a Read
	rest  []byte
	err   error
	spill *spill // nil: none is needed
}

// hashedBlob is a blob that is hashed as it is read, in whatever order the
// decoder reads a part more than once.
type hashedBlob struct {
	r    io.ReaderAt
	sum  hash.Hash
	done int64 // hashed up to here
	size int64
}

// ReadAt implements io.ReaderAt.
func (h *hashedBlob) ReadAt(p []byte, off int64) (int, error) {
	n, err := h.r.ReadAt(p, off)
	if off <= h.done && off+int64(n) > h.done {
		h.sum.Write(p[h.done-off : n])
		h.done = off + int64(n)
	}
	return n, err
}

// rest hashes what no decoder has read.
func (h *hashedBlob) rest(ctx context.Context) error {
	n, err := io.CopyBuffer(struct{ io.Writer }{h.sum}, store.Interruptible(ctx, io.NewSectionReader(h.r, h.done, h.size-h.done)), make([]byte, 256<<10))
	if err == nil && n != h.size-h.done {
		err = fmt.Errorf("the file became shorter: %w", store.ErrGone)
	}
	h.done += n
	return err
}

// newPass starts reading a blob. alg hashes it.
func (c *Cache) newPass(ctx context.Context, src io.ReaderAt, size int64, form format, alg digest.Algorithm, spillName string) (*pass, error) {
	sum := sha256.New()
	if alg != digest.SHA256 {
		sum = alg.Hash()
	}
	p := &pass{ctx: ctx, x: newIndexer(), in: &hashedBlob{r: src, sum: sum, size: size}}
	switch form {
	case gzipped:
		z := gunzip.NewReader(section(p.in, size)(0))
		p.dec = gzipDecoder{z}
		p.mark = func(x *indexer) {
			if s, ok := z.State(); ok {
				x.mark(s)
			}
		}
	case zstandard:
		groups, big, err := zstdGroups(ctx, src, size)
		if err != nil {
			return nil, err
		}
		p.groups = groups
		d, err := newZstdDecoder(p.in, groups)
		if err != nil {
			return nil, err
		}
		p.dec = d
		p.mark = func(x *indexer) {
			if off, ok := d.atStart(); ok {
				x.mark(gunzip.State{In: off * 8, Block: -1})
			}
		}
		if big {
			p.spill = c.newSpill(spillName)
		}
	default:
		return nil, fmt.Errorf("a blob of format %d: %w", form, store.ErrInvalid)
	}
	return p, nil
}

// Read gives the output.
func (p *pass) Read(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.rest) == 0 && p.err == nil {
		p.next()
	}
	if len(p.rest) == 0 {
		return 0, p.err
	}
	n := copy(b, p.rest)
	p.rest = p.rest[n:]
	return n, nil
}

func (p *pass) next() {
	if p.err = p.ctx.Err(); p.err != nil {
		return
	}
	if p.x.due() {
		p.mark(p.x)
	}
	p.rest, p.err = p.dec.Next()
	if p.err == nil {
		p.err = p.x.write(p.rest)
	}
	if p.err == nil && p.spill != nil && !p.spill.write(p.rest) {
		p.spill = nil
	}
	if p.err = classify(p.err); p.err != nil && p.err != io.EOF {
		p.rest = nil
	}
}

// close frees what the pass holds. It waits for a Read; none after it gives anything.
func (p *pass) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil {
		p.err = errors.New("read of a blob that was closed")
	}
	p.rest = nil
	p.dec.Close()
	if p.spill != nil {
		p.spill.abort()
		p.spill = nil
	}
}

// stream makes what the pass has found readable at random, and keeps it for the
// next process under a name if keep. The pass has come to its end.
func (p *pass) stream(c *Cache, src io.ReaderAt, form format, name string, raw []byte, keep bool) (*stream, error) {
	ix, err := openSeek(raw, p.in.size)
	if err != nil {
		return nil, err
	}
	if keep {
		c.keep(name, raw)
	}
	s := &stream{pages: c.pages, src: src, size: p.in.size, form: form, ix: ix, groups: p.groups}
	if p.spill != nil {
		p.spill.commit()
		p.spill = nil
		s.spill = c.openSpill(name)
	}
	return s, nil
}

// keptStream opens what an earlier pass has kept; nil if there is nothing, or
// data is missing without which reads would take too long.
func (c *Cache) keptStream(ctx context.Context, src io.ReaderAt, size int64, form format, name string) *stream {
	r := c.dir()
	if r == nil {
		return nil
	}
	defer r.Close()
	f, err := openKept(r, name)
	if err != nil {
		return nil
	}
	defer f.Close()
	ix, err := mapSeek(f, size)
	if err != nil {
		c.log.Warn("a kept index is damaged and made again", "err", err)
		return nil
	}
	s := &stream{pages: c.pages, src: src, size: size, form: form, ix: ix}
	if form == zstandard && !c.prepareZstd(ctx, s, name) {
		s.close()
		return nil
	}
	return s
}

// prepareZstd finds where reads of a kept stream can start; false if it is of no use.
func (c *Cache) prepareZstd(ctx context.Context, s *stream, name string) bool {
	groups, big, err := zstdGroups(ctx, s.src, s.size)
	if err != nil {
		return false
	}
	s.groups = groups
	if big {
		s.spill = c.openSpill(name)
		return s.spill != nil || c.opts.Disk < s.ix.tarSize
	}
	return true
}
