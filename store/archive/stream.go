package archive

import (
	"archive/tar"
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"imagefs/store"
	"imagefs/store/archive/compress"
	"imagefs/store/layer"
)

const (
	// heldAnyway is the size up to which every file is kept that is no layer,
	// so that a manifest.json which is no JSON gives the right error.
	heldAnyway = 4096
	// maxTrailer bounds what may follow the end of a tar.
	maxTrailer = 1 << 30
)

// member is a file of a stream that has gone by.
type member struct {
	name    string
	size    int64
	data    []byte // of what was held
	held    bool
	blob    *blob // of what was unpacked
	dropped error // why it is neither
}

// streamContent is what a stream had.
type streamContent struct {
	ld   *load
	tree *tree[*member]
}

// readStream reads an archive to the end of the stream.
func (l *load) readStream(r io.Reader, live bool) (content, error) {
	src, err := l.plain(r, live)
	if err != nil {
		return nil, err
	}
	s := &streamContent{ld: l, tree: newTree[*member](l.lim.Members)}
	if err := s.read(src); err != nil {
		return nil, err
	}
	return s, nil
}

// plain counts what is read of the input and decompresses it. live: a Read may have to wait.
func (l *load) plain(r io.Reader, live bool) (io.Reader, error) {
	src := l.meter.reader(r)
	if live {
		p := newPump(l.ctx, src, 1)
		l.cleanup = append(l.cleanup, func() { p.stop(r) })
		src = p
	}
	in := bufio.NewReaderSize(src, 64<<10)
	head, err := in.Peek(compress.HeadSize)
	if err != nil && err != io.EOF {
		return nil, err
	}
	f := compress.Detect(head)
	if f == compress.None {
		return in, nil
	}
	z := compress.NewReader(in, f, compress.Options{Window: l.lim.Window})
	p := newPump(l.ctx, z, pumpChunk)
	l.cleanup = append(l.cleanup, func() { <-p.done; z.Close() })
	return p, nil
}

func (s *streamContent) read(r io.Reader) error {
	in := &hashing{r: r} // to count
	tr := tar.NewReader(in)
	var end int64 // of the last member
	for {
		if err := s.ld.ctx.Err(); err != nil {
			return err
		}
		hdr, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return tarError(err, s.tree.count)
		}
		if err := s.tree.seen(hdr.Name, hdr.Linkname); err != nil {
			return err
		}
		end = in.n + padded(hdr)
		if err := s.member(hdr, tr); err != nil {
			return err
		}
	}
	s.tree.ended = in.n > end
	if s.tree.count == 0 {
		return errEmpty
	}
	// A checksum, and a writer that wants to be rid of its padding, are behind the end.
	n, err := io.Copy(io.Discard, io.LimitReader(in, maxTrailer))
	if err != nil {
		return err
	}
	if n == maxTrailer {
		return fmt.Errorf("more than %d bytes behind the end of the archive: %w", n, store.ErrTooLarge)
	}
	return nil
}

// padded is the room that a member's content takes in a tar.
func padded(hdr *tar.Header) int64 {
	if hdr.Typeflag != tar.TypeReg {
		return 0
	}
	return (hdr.Size + 511) &^ 511
}

var errEmpty = fmt.Errorf("archive is empty: %w", store.ErrCorrupt)

// tarError tells what is wrong with an archive after some members.
func tarError(err error, members int) error {
	var in *inputError
	switch {
	case errors.As(err, &in), errors.Is(err, store.ErrCorrupt), errors.Is(err, store.ErrTooLarge):
		return err
	case errors.Is(err, io.ErrUnexpectedEOF) && members > 0:
		return errTruncated
	case members == 0:
		return fmt.Errorf("no archive: neither a tar nor a compressed one: %w", store.ErrCorrupt)
	}
	return fmt.Errorf("archive, after %d files: %w: %w", members, store.ErrCorrupt, err)
}

// entry puts what is not a plain file into a tree. false for a plain file.
func entry[T any](t *tree[T], name string, hdr *tar.Header) bool {
	switch {
	case name == "" || len(name) > maxName || len(hdr.Linkname) > maxName:
	case hdr.Typeflag == tar.TypeReg && !layer.IsSparse(hdr):
		return false
	case hdr.Typeflag == tar.TypeSymlink && strings.HasPrefix(hdr.Linkname, "/"), hdr.Typeflag == tar.TypeLink:
		t.addLink(name, cleanName(hdr.Linkname))
	case hdr.Typeflag == tar.TypeSymlink:
		t.addLink(name, cleanName(name+"/../"+hdr.Linkname))
	case hdr.Typeflag == tar.TypeXGlobalHeader:
	default:
		t.remove(name)
	}
	return true
}

// member takes in one member: layers go to the store, small files to memory.
func (s *streamContent) member(hdr *tar.Header, tr io.Reader) error {
	name := cleanName(hdr.Name)
	if entry(s.tree, name, hdr) {
		return nil
	}
	m := &member{name: name, size: hdr.Size}
	s.tree.addFile(name, m)
	head, all, err := peek(&hashing{r: tr})
	if err != nil {
		return err
	}
	switch lim := s.ld.lim; {
	case compress.Detect(head) != compress.None || looksLikeTar(head):
		s.ld.meter.what("layer " + shorten(name))
		if m.blob, err = s.ld.unpack(name, all); err != nil {
			return fmt.Errorf("layer %.200q: %w", name, err)
		}
		return nil
	case hdr.Size > heldAnyway && !looksLikeJSON(head):
		m.dropped = fmt.Errorf("neither a layer nor JSON: %w", store.ErrCorrupt)
		return nil
	case hdr.Size > store.MaxConfigSize:
		m.dropped = errSize(hdr.Size, store.MaxConfigSize)
		return nil
	case s.ld.held+hdr.Size > lim.Held:
		return fmt.Errorf("more than %d bytes of small files: %w", lim.Held, store.ErrTooLarge)
	}
	s.ld.held += hdr.Size
	m.held, m.data = true, make([]byte, hdr.Size)
	_, err = io.ReadFull(all, m.data)
	return err
}

// looksLikeJSON tells whether a file may be a JSON object or array.
func looksLikeJSON(head []byte) bool {
	head = bytes.TrimLeft(bytes.TrimPrefix(head, []byte("\xef\xbb\xbf")), " \t\r\n")
	return len(head) > 0 && (head[0] == '{' || head[0] == '[')
}

func errSize(size, limit int64) error {
	return fmt.Errorf("%d bytes, more than %d: %w", size, limit, store.ErrTooLarge)
}

var _ content = (*streamContent)(nil)

func (s *streamContent) size(name string) (int64, bool, error) {
	name, ok, err := s.tree.resolve(name)
	if !ok {
		return 0, false, err
	}
	return s.tree.files[name].size, true, nil
}

func (s *streamContent) bytes(name string, limit int64) ([]byte, error) {
	at, ok, err := s.tree.resolve(name)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, errMissing
	}
	m := s.tree.files[at]
	switch {
	case m.size > limit:
		return nil, errSize(m.size, limit)
	case m.held:
		return m.data, nil
	case m.dropped != nil:
		return nil, m.dropped
	}
	return nil, fmt.Errorf("a layer where JSON is expected: %w", store.ErrCorrupt)
}

func (s *streamContent) layer(name string) (*blob, error) {
	at, ok, err := s.tree.resolve(name)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, errMissing
	}
	m := s.tree.files[at]
	if m.dropped != nil {
		return &blob{size: m.size, err: m.dropped}, nil
	}
	if m.blob == nil {
		// Held because it looks like no layer: an empty one, or a bad one.
		if m.blob, err = s.ld.unpack(name, bytes.NewReader(m.data)); err != nil {
			return nil, err
		}
		if m.blob.digest == "" {
			m.blob.digest = algorithmOf(name).FromBytes(m.data)
		}
	}
	return m.blob, nil
}

func (s *streamContent) legacy() ([]string, error) { return s.tree.legacy() }
func (s *streamContent) lazy() bool                { return false }
