package archive

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"imagefs/store"
	blobs "imagefs/store/blob"
)

// still is a file that gives bytes only as long as nobody writes to it.
type still struct {
	f    *os.File
	conn syscall.RawConn
	id   fileIdentity
}

// openStill opens a regular file.
func openStill(path string) (*still, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	return newStill(f)
}

// newStill takes f over.
func newStill(f *os.File) (*still, error) {
	var st unix.Stat_t
	err := unix.Fstat(int(f.Fd()), &st)
	if err == nil && st.Mode&unix.S_IFMT != unix.S_IFREG {
		err = fmt.Errorf("%s is no regular file: %w", f.Name(), store.ErrInvalid)
	}
	var conn syscall.RawConn
	if err == nil {
		conn, err = f.SyscallConn()
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return &still{f, conn, identityOf(&st)}, nil
}

// ReadAt implements io.ReaderAt. store.ErrGone once the file is another than it was.
func (s *still) ReadAt(p []byte, off int64) (int, error) {
	n, err := s.f.ReadAt(p, off)
	if errors.Is(err, os.ErrClosed) {
		return 0, fmt.Errorf("%s was closed: %w", s.f.Name(), store.ErrGone)
	}
	var st unix.Stat_t
	var serr error
	if cerr := s.conn.Control(func(fd uintptr) { serr = unix.Fstat(int(fd), &st) }); cerr != nil {
		serr = cerr
	}
	if serr != nil || identityOf(&st) != s.id {
		return 0, fmt.Errorf("%s was changed since it was opened: %w", s.f.Name(), store.ErrGone)
	}
	return n, err
}

// Close implements io.Closer.
func (s *still) Close() error { return s.f.Close() }

// part is a piece of a file that others use too.
type part struct{ *io.SectionReader }

// Close implements io.Closer.
func (part) Close() error { return nil }

// within makes places of an archive that can be read at random.
type within struct {
	*fileContent
	origin  string
	scanned map[string]*scannedLayer // by resolved name
}

var _ places = (*within)(nil)

func (w *within) place(name string) (place, error) {
	at, e, err := w.find(name)
	if err != nil {
		return place{}, err
	}
	p := place{key: at, size: e.size, origin: fmt.Sprintf("%s %d+%d", w.origin, e.off, e.size),
		open: func() (blobs.Data, error) { return part{io.NewSectionReader(w.f, e.off, e.size)}, nil }}
	if s := w.scanned[at]; s != nil && s.off == e.off {
		p.scanned = s.layer
		delete(w.scanned, at)
	}
	return p, nil
}

// dirPlaces is a layout directory.
type dirPlaces struct{ dirContent }

var _ places = (*dirPlaces)(nil)

func (d *dirPlaces) place(name string) (place, error) {
	f, at, _, err := d.open(name)
	if err != nil {
		return place{}, err
	}
	s, err := newStill(f)
	if err != nil {
		return place{}, err
	}
	id := s.id
	_ = s.Close()
	return place{key: at, size: id.size, origin: id.origin(), open: func() (blobs.Data, error) {
		f, err := d.root.OpenFile(at, os.O_RDONLY, 0)
		if err != nil {
			return nil, fmt.Errorf("%s: %w: %w", at, store.ErrGone, err)
		}
		s, err := newStill(f)
		if err != nil {
			return nil, err
		}
		if s.id != id {
			_ = s.Close()
			return nil, fmt.Errorf("%s was replaced since the archive was opened: %w", at, store.ErrGone)
		}
		return s, nil
	}}, nil
}

// hashOnly takes in layers and keeps nothing but their diff IDs: what a survey
// needs of archives that do not say them.
type hashOnly struct{}

var (
	_ store.Ingester = hashOnly{}
	_ store.Ingest   = hashOnly{}
)

func (hashOnly) Ingest(context.Context) (store.Ingest, error) { return hashOnly{}, nil }
func (hashOnly) HasLayer(digest.Digest) bool                  { return false }
func (hashOnly) Abort()                                       {}

func (hashOnly) Commit(context.Context, []store.NewImage) error {
	return fmt.Errorf("commit of a survey: %w", store.ErrReadOnly)
}

func (hashOnly) Unpack(ctx context.Context, tar io.Reader) (store.Staged, error) {
	h := sha256.New()
	if _, err := io.Copy(h, store.Interruptible(ctx, tar)); err != nil {
		return nil, err
	}
	return hashed(digest.NewDigest(digest.SHA256, h)), nil
}

type hashed digest.Digest

func (h hashed) DiffID() digest.Digest { return digest.Digest(h) }
