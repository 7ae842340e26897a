package archive

import (
	"archive/tar"
	"errors"
	"io"

	"imagefs/store"
	"imagefs/store/guard"
)

// extent is where a file lies in an archive.
type extent struct{ off, size int64 }

// fileContent is an archive in a regular file that is not compressed. Only its
// headers were read.
type fileContent struct {
	ld   *load
	f    *io.SectionReader
	tree *tree[*extent]

	blobs onceBlobs // by the name that links lead to
}

// index reads the headers of an archive.
func (l *load) index(f *io.SectionReader) (content, error) {
	c := &fileContent{ld: l, f: f, tree: newTree[*extent](l.lim.Members)}
	// A section of its own, because archive/tar seeks in it.
	r := io.NewSectionReader(f, 0, f.Size())
	tr := tar.NewReader(markSeek{r})
	var end int64 // of the last member
	for {
		if err := l.ctx.Err(); err != nil {
			return nil, err
		}
		hdr, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, tarError(err, c.tree.count)
		}
		if err := c.tree.seen(hdr.Name, hdr.Linkname); err != nil {
			return nil, err
		}
		off, err := r.Seek(0, io.SeekCurrent)
		if err != nil {
			return nil, err
		}
		end = off + padded(hdr)
		name := cleanName(hdr.Name)
		if entry(c.tree, name, hdr) {
			continue
		}
		if hdr.Size > f.Size()-off {
			return nil, errTruncated
		}
		c.tree.addFile(name, &extent{off: off, size: hdr.Size})
	}
	if c.tree.count == 0 {
		return nil, errEmpty
	}
	off, err := r.Seek(0, io.SeekCurrent)
	c.tree.ended = off > end
	return c, err
}

// markSeek marks the errors of the input and lets archive/tar seek.
type markSeek struct{ r *io.SectionReader }

func (m markSeek) Read(p []byte) (int, error) {
	n, err := m.r.Read(p)
	if err != nil && err != io.EOF {
		err = &inputError{err}
	}
	return n, err
}

func (m markSeek) Seek(off int64, whence int) (int64, error) { return m.r.Seek(off, whence) }

var _ content = (*fileContent)(nil)

func (c *fileContent) find(name string) (at string, e *extent, err error) {
	at, ok, err := c.tree.resolve(name)
	if err != nil {
		return "", nil, err
	}
	if !ok {
		return "", nil, errMissing
	}
	return at, c.tree.files[at], nil
}

func (c *fileContent) size(name string) (int64, bool, error) {
	_, e, err := c.find(name)
	if err == errMissing {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	return e.size, true, nil
}

func (c *fileContent) bytes(name string, limit int64) ([]byte, error) {
	_, e, err := c.find(name)
	if err != nil {
		return nil, err
	}
	return readSmall(c.f, e.off, e.size, limit)
}

func (c *fileContent) layer(name string) (*blob, error) {
	at, e, err := c.find(name)
	if err != nil {
		return nil, err
	}
	return c.blobs.get(at, func() (*blob, error) { return c.ld.unpackAt(name, c.f, e.off, e.size) })
}

func (c *fileContent) legacy() ([]string, error) { return c.tree.legacy() }
func (c *fileContent) lazy() bool                { return true }

// readSmall reads a file of an archive into memory.
func readSmall(f io.ReaderAt, off, size, limit int64) ([]byte, error) {
	if size > limit {
		return nil, errSize(size, limit)
	}
	b := make([]byte, size)
	n, err := f.ReadAt(b, off)
	if int64(n) == size {
		return b, nil
	}
	if err == io.EOF {
		return nil, errTruncated
	}
	return nil, &inputError{err}
}

// unpackAt unpacks a layer that can be read again, for the caller or ahead of it:
// what is wrong with it may be that it was changed.
func (l *load) unpackAt(name string, f io.ReaderAt, off, size int64) (b *blob, err error) {
	err = guard.Run(func() error {
		b, err = l.unpackOnce(name, f, off, size)
		return err
	})
	return b, err
}

func (l *load) unpackOnce(name string, f io.ReaderAt, off, size int64) (*blob, error) {
	b, err := l.unpack(name, l.meter.reader(io.NewSectionReader(f, off, size)))
	if err != nil {
		return nil, err
	}
	if b.size != size {
		return nil, errTruncated
	}
	if b.digest == "" && !errors.Is(b.err, store.ErrTooLarge) {
		h := algorithmOf(name).Digester()
		if _, err := io.Copy(h.Hash(), store.Interruptible(l.ctx, io.NewSectionReader(f, off, size))); err != nil {
			return nil, &inputError{err}
		}
		b.digest = h.Digest()
	}
	return b, nil
}
