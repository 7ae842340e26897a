package layer

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"imagefs/overlay"
	"imagefs/store"
)

// UnpackOptions say where a layer goes.
type UnpackOptions struct {
	// Dst is an open, empty directory; it becomes the layer's diff directory.
	Dst *os.File
	// Split gets the tar-split, one JSON object a line, not compressed.
	Split io.Writer
	// Spill, an empty file open for reading and writing, gets the content of
	// files that the diff directory does not keep because a later entry of the
	// tar replaced them. It stays empty for nearly all layers.
	Spill *os.File
	// Unprivileged leaves owners, devices, whiteouts and privileged xattrs to
	// the index alone, and keeps everything readable to the caller.
	Unprivileged bool
	Limits       Limits
}

// Unpacked is a layer that was read to its end. Settle, Index and Close follow, in that order.
type Unpacked struct {
	DiffID  digest.Digest // SHA-256 of the tar
	TarSize int64         // bytes of the tar
	Size    int64         // bytes of all files, each inode once, links' targets included; set by Index
	Spilled bool          // Spill is needed to put the tar together again
	Blob    digest.Digest // for the index to keep; set by the caller

	x      *extractor
	newest overlay.Attr // time of the newest entry
}

type unpacker struct {
	*extractor
	tr     *tar.Reader
	rec    *recorder
	hr     *hashReader
	lim    Limits
	count  int
	files  uint64 // file records in the tar-split
	sparse int64
	newest overlay.Attr
	buf    []byte
}

// Unpack reads one uncompressed layer tar to the end of the stream. Errors wrap
// store.ErrCorrupt for what is no tar or leads out of the layer,
// store.ErrTooLarge, the stream's own error, or the system's. After an error
// the caller removes what is in Dst.
func Unpack(ctx context.Context, r io.Reader, o UnpackOptions) (*Unpacked, error) {
	lim := o.Limits.withDefaults()
	hr := newHashReader(ctx, r, lim.Size)
	defer hr.close()
	rec := &recorder{r: hr, w: o.Split}
	u := &unpacker{extractor: newExtractor(o), tr: tar.NewReader(rec), rec: rec, hr: hr, lim: lim, buf: make([]byte, 256<<10)}
	if err := u.run(); err != nil {
		u.close()
		return nil, err
	}
	<-hr.done
	spilled, err := u.spill.finish()
	if err != nil {
		u.close()
		return nil, err
	}
	return &Unpacked{DiffID: digest.NewDigest(digest.SHA256, hr.sum), TarSize: hr.total,
		Spilled: spilled, x: u.extractor, newest: u.newest}, nil
}

func (u *unpacker) run() error {
	for {
		hdr, err := u.tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return streamError(err)
		}
		if u.count++; u.count > u.lim.Entries {
			return fmt.Errorf("layer of more than %d entries: %w", u.lim.Entries, store.ErrTooLarge)
		}
		if err := u.lim.check(hdr); err != nil {
			return err
		}
		if err := u.entry(hdr); err != nil {
			return err
		}
	}
	// What follows the end of the archive belongs to the stream and to its digest.
	n, err := io.CopyBuffer(io.Discard, io.LimitReader(u.rec, maxTrailer+1), u.buf)
	if err != nil {
		return streamError(err)
	}
	if n > maxTrailer {
		return fmt.Errorf("more than %d bytes behind the end of the tar: %w", maxTrailer, store.ErrTooLarge)
	}
	u.rec.flush()
	return u.rec.failed
}

// maxTrailer bounds what may follow the end of a tar, in bytes: a stream may have no end.
const maxTrailer = 1 << 30

type onlyReader struct{ io.Reader }

// streamError tells an error of the stream from one of the tar in it.
func streamError(err error) error {
	var s *sourceError
	if errors.As(err, &s) {
		return s.err
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return corrupt("layer tar is truncated")
	}
	return fmt.Errorf("layer tar: %w: %w", store.ErrCorrupt, err)
}

func (u *unpacker) entry(hdr *tar.Header) error {
	r, err := parseHeader(hdr)
	if err != nil || r.skip {
		return err
	}
	u.newest = r.newer(u.newest)
	switch r.Kind {
	case overlay.File:
		err = u.file(hdr, &r)
	case overlay.Dir:
		err = u.makeDir(&r.Entry)
	case overlay.Symlink:
		err = u.makeSymlink(&r.Entry)
	case overlay.Hardlink:
		return u.makeLink(r.Path, r.Link)
	case overlay.Whiteout:
		err = u.makeWhiteout(r.Path)
	case overlay.Opaque:
		err = u.makeOpaque(r.Path)
	default:
		err = u.makeSpecial(&r.Entry)
	}
	if err != nil {
		return classify(err)
	}
	return classify(u.b.Add(r.Entry))
}

// file writes a regular file. Its content leaves the tar-split, unless it is
// sparse: then what is in the tar is not what is in the file.
func (u *unpacker) file(hdr *tar.Header, r *record) error {
	f, err := u.createFile(r.Path)
	if err != nil {
		return err
	}
	defer f.close()
	switch {
	case r.sparse:
		if u.sparse += hdr.Size; u.sparse < 0 || u.sparse > u.lim.Sparse {
			return errTooLarge("sparse files", u.lim.Sparse)
		}
		if err := u.copySparse(f.fd, hdr.Size); err != nil {
			return fmt.Errorf("%.200q: %w", r.Path, err)
		}
		if r.Blocks, err = f.blocks(); err != nil {
			return err
		}
	case hdr.Size > 0:
		u.rec.flush()
		u.rec.off = true
		sum, err := u.copy(f.fd, hdr.Size)
		u.rec.off = false
		if err != nil {
			return err
		}
		u.rec.file(hdr.Name, hdr.Size, sum)
		u.files++
		r.Ref = u.files
	}
	return u.finishFile(f, &r.Entry)
}

// writeBack is how much of a file's content, in bytes, the disk is told to begin with.
const writeBack = 16 << 10

// copy writes the content of a file and returns its CRC-64. A load waits at its
// end until the disk has everything: so it begins to write early, while there
// is more to unpack. (A file system that cannot do that does it then.)
func (u *unpacker) copy(fd int, size int64) (sum uint64, err error) {
	for off := int64(0); off < size; {
		n, err := io.ReadFull(u.tr, u.buf[:min(size-off, int64(len(u.buf)))])
		if err != nil {
			return 0, streamError(noEOF(err))
		}
		sum = crc64ISO(sum, u.buf[:n])
		if err := writeAll(fd, u.buf[:n]); err != nil {
			return 0, err
		}
		if n >= writeBack {
			_ = unix.SyncFileRange(fd, off, int64(n), unix.SYNC_FILE_RANGE_WRITE)
		}
		off += int64(n)
	}
	return sum, nil
}

func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// copySparse writes a file with holes where whole blocks are zero.
func (u *unpacker) copySparse(fd int, size int64) error {
	var off int64
	for off < size {
		if err := u.hr.ctx.Err(); err != nil {
			return err
		}
		n, err := io.ReadFull(u.tr, u.buf[:min(size-off, int64(len(u.buf)))])
		if err != nil {
			return streamError(noEOF(err))
		}
		if err := writeSparse(fd, u.buf[:n], off); err != nil {
			return err
		}
		off += int64(n)
	}
	return truncate(fd, size)
}
