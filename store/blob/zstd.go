package blob

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"

	"imagefs/store"
)

const (
	maxWindow   = 128 << 20 // history that zstd data may ask for: what `zstd --long` needs at most
	maxGroups   = 1 << 15
	blockMax    = 128 << 10 // output of one block of a frame
	frameMagic  = 0xfd2fb528
	skipMagic   = 0x184d2a50
	zstdPiece   = 128 << 10
	bigGroup    = 16 << 20 // output that nobody wants to decompress for one read
	groupOutput = 1 << 20
)

// group is frames of a zstd blob that follow each other. Decompression can start at each group.
type group struct{ off, end int64 }

// maxFrames bounds the frames of a blob. The most that an honest one has are those
// of zstd:chunked: two for each file, header and content, and one more for each
// piece of some 64 KiB, which is 12 Mi for a layer at its limits. A frame can be 8
// bytes of nothing, and all have to be found each time that the blob is opened.
const maxFrames = 16 << 20

// frameReader reads headers of frames and of their blocks: a page of the blob at a
// time, because they may lie 3 bytes apart, and no more, because they may not.
type frameReader struct {
	ctx  context.Context
	r    io.ReaderAt
	size int64
	buf  [4096]byte
	at   int64 // of what is in buf
	n    int64
}

// read returns n bytes at an offset, valid until the next call.
func (f *frameReader) read(off, n int64) ([]byte, error) {
	if off+n > f.size {
		return nil, classify(io.ErrUnexpectedEOF)
	}
	if off < f.at || off+n > f.at+f.n {
		if err := f.ctx.Err(); err != nil {
			return nil, err
		}
		f.at, f.n = off, 0
		want := min(int64(len(f.buf)), f.size-off)
		m, err := f.r.ReadAt(f.buf[:want], off)
		if int64(m) < n {
			if err == io.EOF {
				err = fmt.Errorf("the file became shorter: %w", store.ErrGone)
			}
			return nil, err
		}
		f.n = int64(m)
	}
	return f.buf[off-f.at:][:n], nil
}

// zstdGroups finds the frames of a zstd blob (RFC 8878, 3) by the sizes in their
// headers. big tells that a group may give too much output to start over at it.
// store.ErrTooLarge if there are more than maxFrames.
func zstdGroups(ctx context.Context, r io.ReaderAt, size int64) (groups []group, big bool, err error) {
	f := &frameReader{ctx: ctx, r: r, size: size}
	var out int64 // at most, of the group under way
	start := int64(0)
	at := int64(0)
	add := func() {
		if out >= groupOutput && len(groups) < maxGroups {
			groups = append(groups, group{start, at})
			start, out = at, 0
		}
	}
	for frames := 0; at < size; {
		if frames++; frames > maxFrames {
			return nil, false, fmt.Errorf("zstd data of more than %d frames: %w", maxFrames, store.ErrTooLarge)
		}
		n, frameOut, err := f.frame(at)
		if err != nil {
			return nil, false, err
		}
		if frameOut > 0 && frameOut >= groupOutput && at > start && len(groups) < maxGroups {
			groups = append(groups, group{start, at})
			start, out = at, 0
		}
		at += n
		out += frameOut
		big = big || out > bigGroup
		add()
	}
	if at > size {
		return nil, false, classify(io.ErrUnexpectedEOF)
	}
	if start < size || len(groups) == 0 {
		groups = append(groups, group{start, size})
	}
	return groups, big, nil
}

// frame measures one frame: its bytes, and the most that can come out of it.
func (f *frameReader) frame(at int64) (n, out int64, err error) {
	b, err := f.read(at, 5)
	if err != nil {
		return 0, 0, err
	}
	switch magic := binary.LittleEndian.Uint32(b); {
	case magic&^0xf == skipMagic:
		if b, err = f.read(at, 8); err != nil {
			return 0, 0, err
		}
		return 8 + int64(binary.LittleEndian.Uint32(b[4:])), 0, nil
	case magic != frameMagic:
		return 0, 0, fmt.Errorf("no zstd frame at byte %d: %w", at, store.ErrCorrupt)
	}
	desc := b[4]
	n = 5
	single := desc&0x20 != 0
	if !single {
		n++
	}
	n += []int64{0, 1, 2, 4}[desc&3]
	switch desc >> 6 {
	case 0:
		if single {
			n++
		}
	case 1:
		n += 2
	case 2:
		n += 4
	case 3:
		n += 8
	}
	for last := false; !last; {
		if b, err = f.read(at+n, 3); err != nil {
			return 0, 0, err
		}
		h := uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16
		last = h&1 != 0
		n += 3
		switch h >> 1 & 3 {
		case 0: // raw
			out += int64(h >> 3)
			n += int64(h >> 3)
		case 1: // one byte, repeated
			out += int64(h >> 3)
			n++
		case 2:
			out += blockMax
			n += int64(h >> 3)
		default:
			return 0, 0, fmt.Errorf("a zstd block of an unknown type: %w", store.ErrCorrupt)
		}
	}
	if desc&4 != 0 {
		n += 4
	}
	return n, out, nil
}

// zstdDecoder decompresses groups, one after the other.
type zstdDecoder struct {
	src    io.ReaderAt
	groups []group
	dec    *zstd.Decoder
	buf    []byte
	open   bool  // dec reads groups[0]
	err    error // of src
}

func newZstdDecoder(src io.ReaderAt, groups []group) (*zstdDecoder, error) {
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderMaxMemory(1<<62))
	if err != nil {
		return nil, err
	}
	return &zstdDecoder{src: src, groups: groups, dec: d, buf: make([]byte, zstdPiece)}, nil
}

// atStart tells where the group starts whose output comes next, if nothing of it has come yet.
func (d *zstdDecoder) atStart() (int64, bool) {
	if d.open || len(d.groups) == 0 {
		return 0, false
	}
	return d.groups[0].off, true
}

// Next implements decoder.
func (d *zstdDecoder) Next() ([]byte, error) {
	for len(d.groups) > 0 {
		if !d.open {
			g := d.groups[0]
			if err := d.dec.Reset(io.NewSectionReader(d, g.off, g.end-g.off)); err != nil {
				return nil, d.classify(err)
			}
			d.open = true
		}
		n := 0
		var err error
		for n < len(d.buf) && err == nil {
			var m int
			m, err = d.dec.Read(d.buf[n:])
			n += m
		}
		if err == io.EOF {
			d.groups, d.open, err = d.groups[1:], false, nil
		}
		if err != nil {
			return nil, d.classify(err)
		}
		if n > 0 {
			return d.buf[:n], nil
		}
	}
	return nil, io.EOF
}

// ReadAt reads the blob and notes its errors: whatever else comes from the
// decompressor is the data's fault.
func (d *zstdDecoder) ReadAt(p []byte, off int64) (int, error) {
	n, err := d.src.ReadAt(p, off)
	if err != nil && err != io.EOF {
		d.err = err
	}
	return n, err
}

func (d *zstdDecoder) classify(err error) error {
	switch {
	case d.err != nil:
		return d.err
	case errors.Is(err, zstd.ErrWindowSizeExceeded), errors.Is(err, zstd.ErrDecoderSizeExceeded):
		return fmt.Errorf("zstd data needs more than %d MiB of memory to decompress: %w", maxWindow>>20, store.ErrTooLarge)
	}
	return fmt.Errorf("zstd data: %w: %w", store.ErrCorrupt, err)
}

// Close implements decoder.
func (d *zstdDecoder) Close() { d.dec.Close() }
