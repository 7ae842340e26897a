package blob

import (
	"context"
	_ "crypto/sha512" // blobs may have digests of this kind
	"fmt"
	"io"

	digest "github.com/opencontainers/go-digest"

	"imagefs/store"
	"imagefs/store/layer"
)

// marker is what a file of the cache says of a layer that was read and found to fit.
const marker = "verified\n"

// markerName names it: after the digests, and where the bytes lie.
func (l *Layer) markerName() string {
	return fileName("verified", l.s.Origin, string(l.s.DiffID), string(l.s.Blob))
}

// indexName names the file that keeps the layer's index. The chain says what is below.
func (l *Layer) indexName() string {
	return fileName("index", string(l.s.ChainID), string(l.s.Blob))
}

// kept returns the index that is kept of a layer whose bytes were verified, nil if there is none.
func (l *Layer) kept() (*layer.Mapped, error) {
	r := l.c.dir()
	if r == nil || l.s.Origin == "" {
		return nil, nil
	}
	defer r.Close()
	if b, err := r.Read(l.markerName(), int64(len(marker))); err != nil || string(b) != marker {
		return nil, nil
	}
	l.verified.Store(true)
	f, err := openKept(r, l.indexName())
	if err != nil {
		return nil, nil
	}
	defer f.Close()
	m, err := layer.OpenIndex(f)
	if err != nil {
		l.c.log.Warn("a kept index is damaged and made again", "layer", l.s.DiffID, "err", err)
		return nil, nil
	}
	if m.Info.DiffID != l.s.DiffID {
		m.Close()
		return nil, nil
	}
	return m, nil
}

// Verify reads the whole layer and compares its digests, if that was not done
// before. An error that wraps store.ErrCorrupt is Err's from then on.
func (l *Layer) Verify(ctx context.Context) error {
	_, t, err := l.open(ctx)
	if err != nil {
		return err
	}
	if l.verified.Load() {
		return nil
	}
	if err := l.digests(ctx, t); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return l.fail(err)
	}
	l.verified.Store(true)
	l.remember(ctx)
	return nil
}

// digests hashes an uncompressed blob.
func (l *Layer) digests(ctx context.Context, t body) error {
	want := []digest.Digest{l.s.DiffID}
	if l.s.Blob != "" && l.s.Blob != l.s.DiffID {
		want = append(want, l.s.Blob)
	}
	var sums []digest.Digester
	var w []io.Writer
	for _, d := range want {
		s := d.Algorithm().Digester()
		sums, w = append(sums, s), append(w, s.Hash())
	}
	n, err := io.CopyBuffer(io.MultiWriter(w...), &ctxReader{ctx, io.NewSectionReader(t, 0, t.Size())}, make([]byte, 256<<10))
	if err != nil {
		return err
	}
	if n != t.Size() {
		return fmt.Errorf("%d bytes where %d were: %w", n, t.Size(), store.ErrGone)
	}
	for i, d := range want {
		if got := sums[i].Digest(); got != d {
			return mismatch(d, got)
		}
	}
	return nil
}

func mismatch(want, got digest.Digest) error {
	return fmt.Errorf("expected %s, found %s: %w", want, got, store.ErrCorrupt)
}

// remember keeps the index, and that the bytes were verified. The index depends
// on the layers below: it is kept once they are known to be right too.
func (l *Layer) remember(ctx context.Context) {
	if l.c.opts.Dir == "" || l.s.Origin == "" {
		return
	}
	for _, b := range l.s.Lower {
		if below, ok := b.(*Layer); ok && below.Verify(ctx) != nil {
			return
		}
	}
	r := l.c.dir()
	if r == nil {
		return
	}
	exists := r.Exists(l.indexName())
	r.Close()
	if !exists {
		rec, err := layer.ScanTarAt(ctx, l.tar, l.tar.Size(), layer.Limits{})
		if err != nil {
			return
		}
		raw, err := l.encode(ctx, rec, l.tar.Size())
		if err != nil {
			return
		}
		l.c.keep(l.indexName(), raw)
	}
	l.c.keep(l.markerName(), []byte(marker))
}

// ctxReader stops reading when the context ends.
type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (r *ctxReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}
