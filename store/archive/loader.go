package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"

	"golang.org/x/sys/unix"

	"imagefs/store"
	"imagefs/store/archive/compress"
	"imagefs/store/beneath"
)

// Options of NewLoader.
type Options struct {
	// Platform, "os/arch[/variant]", chooses from images for several platforms.
	// "" is this machine's (Linux, whatever it runs).
	Platform string
	// Progress, if not nil, is told about twenty times a second how far a load
	// is, and at its end. Calls do not overlap; they come from any goroutine and
	// hold the load up. None comes after the load has returned.
	Progress func(Progress)
	Log      *slog.Logger // nil: silent
	Limits   Limits
}

// Progress is how far a load is.
type Progress struct {
	Read  int64  // bytes read of the input as it is, compressed or not; never falls
	Total int64  // bytes that will be read, -1 if not known
	What  string // what is being done: "layer 3768f45bed9b", "commit"; may be ""
}

// Limits bound what an archive may be. Zero fields mean the defaults.
type Limits struct {
	Members int   // files, directories and links, 100,000 by default
	JSON    int64 // bytes of one manifest or index, 4 MiB by default
	Held    int64 // bytes of small files kept in memory, 24 MiB by default
	Images  int   // images that are loaded, 1,000 by default
	Depth   int   // indexes in indexes, 8 by default
	Window  int64 // bytes of history that zstd and xz may ask for, compress.DefaultWindow by default
}

func (l Limits) withDefaults() Limits {
	or := func(v *int64, d int64) {
		if *v <= 0 {
			*v = d
		}
	}
	count := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	count(&l.Members, 100_000)
	count(&l.Images, 1000)
	count(&l.Depth, 8)
	or(&l.JSON, 4<<20)
	or(&l.Held, 24<<20)
	or(&l.Window, compress.DefaultWindow)
	return l
}

// Loader loads archives into one store. Safe for concurrent use.
type Loader struct {
	dst  store.Ingester
	opts Options
}

// NewLoader makes a Loader. Options are checked by the loads.
func NewLoader(dst store.Ingester, o Options) *Loader {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	o.Limits = o.Limits.withDefaults()
	return &Loader{dst: dst, opts: o}
}

var _ store.Loader = (*Loader)(nil)

// Load implements store.Loader. A regular file (an *os.File) is read from where
// it stands, at random; everything else once, from front to back. An error of r
// comes back as it is. When ctx ends, Load does not wait for a Read of r that
// nothing can interrupt: r must then not be used before that Read has returned.
func (l *Loader) Load(ctx context.Context, r io.Reader) ([]store.Loaded, error) {
	f, rest, err := regular(r)
	if err != nil {
		return nil, err
	}
	if f == nil {
		return l.stream(ctx, r, -1, true)
	}
	out, err := l.file(ctx, rest)
	if err == nil {
		_, _ = f.Seek(0, io.SeekEnd)
	}
	return out, err
}

// regular returns the file that a reader is, if it is a regular one, and what is left of it.
func regular(r io.Reader) (f *os.File, rest *io.SectionReader, err error) {
	f, ok := r.(*os.File)
	if !ok {
		return nil, nil, nil
	}
	st, err := f.Stat()
	if err != nil || !st.Mode().IsRegular() {
		return nil, nil, err
	}
	off, err := f.Seek(0, io.SeekCurrent)
	return f, io.NewSectionReader(f, off, max(st.Size()-off, 0)), err
}

// LoadPath implements store.Loader. The path may be reached through links. A
// fifo is read as a stream; a device or socket is store.ErrInvalid.
func (l *Loader) LoadPath(ctx context.Context, path string) ([]store.Loaded, error) {
	f, st, err := openInput(ctx, path, true)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	switch {
	case st.IsDir():
		root, err := beneath.Open(path)
		if err != nil {
			return nil, pathError(err)
		}
		defer root.Close()
		return l.dir(ctx, root)
	case st.Mode().IsRegular():
		return l.file(ctx, io.NewSectionReader(f, 0, st.Size()))
	}
	return l.stream(ctx, f, -1, true)
}

// openInput opens a regular file, a fifo that somebody writes to, or, with
// dirs, a directory. store.ErrInvalid for anything else.
func openInput(ctx context.Context, path string, dirs bool) (*os.File, fs.FileInfo, error) {
	// Opening a device can already do something, so that it is not tried.
	st, err := os.Stat(path)
	if err != nil {
		return nil, nil, pathError(err)
	}
	if err := loadable(path, st, dirs); err != nil {
		return nil, nil, err
	}
	f, err := openUnpolled(path)
	if err != nil {
		return nil, nil, pathError(err)
	}
	if st, err = f.Stat(); err == nil {
		err = loadable(path, st, dirs)
	}
	if err == nil && st.Mode()&fs.ModeNamedPipe != 0 {
		err = awaitWriter(ctx, f)
	}
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, st, nil
}

// openUnpolled opens a file for reading without waiting for it. Only what is no
// regular file is polled by the runtime: one could be of a file system that this
// process serves itself, which cannot answer while the runtime asks it.
func openUnpolled(path string) (*os.File, error) {
	for {
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, &fs.PathError{Op: "open", Path: path, Err: err}
		}
		var st unix.Stat_t
		if err = unix.Fstat(fd, &st); err == nil && st.Mode&unix.S_IFMT == unix.S_IFREG {
			err = unix.SetNonblock(fd, false)
		}
		if err != nil {
			_ = unix.Close(fd)
			return nil, &fs.PathError{Op: "open", Path: path, Err: err}
		}
		return os.NewFile(uintptr(fd), path), nil
	}
}

func loadable(path string, st fs.FileInfo, dirs bool) error {
	switch m := st.Mode(); {
	case m.IsRegular(), m&fs.ModeNamedPipe != 0, m.IsDir() && dirs:
		return nil
	case m.IsDir():
		return fmt.Errorf("%s is a directory; send it as a tar, with tar -C %s -c .: %w", path, path, store.ErrInvalid)
	}
	return fmt.Errorf("%s is neither a file nor a directory nor a pipe: %w", path, store.ErrInvalid)
}

func pathError(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %w", err, store.ErrNotFound)
	}
	return err
}

// awaitWriter waits until a fifo has been opened for writing; before that, a read says that it ends.
func awaitWriter(ctx context.Context, f *os.File) error {
	c, err := f.SyscallConn()
	if err != nil {
		return err
	}
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		var n int
		var perr error
		err := c.Control(func(fd uintptr) {
			n, perr = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 100)
		})
		if err != nil {
			return err
		}
		if perr != nil && !errors.Is(perr, unix.EINTR) {
			return fmt.Errorf("poll: %w", perr)
		}
		if n > 0 {
			return nil
		}
	}
}

// file loads a regular file, or what is left of one.
func (l *Loader) file(ctx context.Context, sec *io.SectionReader) ([]store.Loaded, error) {
	head := make([]byte, compress.HeadSize)
	n, err := sec.ReadAt(head, 0)
	if err != nil && err != io.EOF {
		return nil, err
	}
	if compress.Detect(head[:n]) != compress.None {
		return l.stream(ctx, sec, sec.Size(), false)
	}
	return l.run(ctx, func(ld *load) (content, error) { return ld.index(sec) })
}

// dir loads a directory.
func (l *Loader) dir(ctx context.Context, root *beneath.Root) ([]store.Loaded, error) {
	return l.run(ctx, func(ld *load) (content, error) {
		return &dirContent{ld: ld, root: root}, nil
	})
}

// stream loads what can be read only once. live: a Read may have to wait.
func (l *Loader) stream(ctx context.Context, r io.Reader, total int64, live bool) ([]store.Loaded, error) {
	return l.run(ctx, func(ld *load) (content, error) {
		if err := ld.begin(); err != nil {
			return nil, err
		}
		ld.meter.total(total)
		return ld.readStream(r, live)
	})
}
