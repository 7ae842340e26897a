package fusefs

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"

	"github.com/hanwen/go-fuse/v2/fuse"
	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"imagefs/fusefs/ctl"
	"imagefs/store"
)

// ctlFile is a control file.
type ctlFile struct {
	name string
	mode uint32
	// read makes the content of one that is read
	read func(f *fsys, uid uint32) []byte
	// write carries out one command of one that is written
	write func(f *fsys, ctx context.Context, uid uint32, cmd []byte) error
	// stream takes in what is written otherwise: what is no path goes here
	stream func(f *fsys, ctx context.Context, uid uint32, r io.Reader) error
	events bool // it is ctl/events
}

var ctlFiles = []ctlFile{
	{name: "errors", mode: 0o444, read: func(f *fsys, _ uint32) []byte { return f.ctl.Errors() }},
	{name: "events", mode: 0o444, events: true},
	{name: "help", mode: 0o444, read: func(*fsys, uint32) []byte { return []byte(ctl.Help) }},
	{
		name: "import", mode: 0o200,
		write: func(f *fsys, ctx context.Context, uid uint32, cmd []byte) error {
			return f.ctl.ImportPath(ctx, uid, cmd)
		},
		stream: func(f *fsys, ctx context.Context, uid uint32, r io.Reader) error { return f.ctl.Import(ctx, uid, r) },
	},
	{name: "last", mode: 0o444, read: func(f *fsys, uid uint32) []byte { return f.ctl.Last(uid) }},
	{
		name: "load", mode: 0o200,
		write:  func(f *fsys, ctx context.Context, uid uint32, cmd []byte) error { return f.ctl.LoadPath(ctx, uid, cmd) },
		stream: func(f *fsys, ctx context.Context, uid uint32, r io.Reader) error { return f.ctl.Load(ctx, uid, r) },
	},
	{name: "prune", mode: 0o200, write: func(f *fsys, ctx context.Context, uid uint32, cmd []byte) error { return f.ctl.Prune(ctx, uid, cmd) }},
	{name: "rmi", mode: 0o200, write: func(f *fsys, ctx context.Context, uid uint32, cmd []byte) error { return f.ctl.Rmi(ctx, uid, cmd) }},
	{name: "status", mode: 0o444, read: func(f *fsys, _ uint32) []byte { return f.statusText() }},
	{name: "tag", mode: 0o200, write: func(f *fsys, ctx context.Context, uid uint32, cmd []byte) error { return f.ctl.Tag(ctx, uid, cmd) }},
}

func isCtlFile(id nodeID) bool {
	return id >= ctlFirst && id < ctlFirst+nodeID(len(ctlFiles))
}

// ctlHandle is an open control file that is written.
type ctlHandle interface {
	// write takes what was written at an offset in bytes.
	write(ctx context.Context, off uint64, b []byte) error
	// truncate is ftruncate(2).
	truncate(ctx context.Context, size uint64) error
	// flush is called at each close(2) of the file, by whatever process; killed
	// tells that it was not the process that closed it, but a signal.
	flush(ctx context.Context, killed bool) error
	// release is called when nobody has the file open any more.
	release()
}

func (f *fsys) openCtl(id nodeID, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	c := &ctlFiles[id-ctlFirst]
	// Whatever permissions say: the owner alone writes. Root could be let in by allow_other.
	writes := in.Flags&unix.O_ACCMODE != unix.O_RDONLY
	if writes != (c.read == nil && !c.events) || in.Flags&unix.O_ACCMODE == unix.O_RDWR {
		return fuse.EACCES
	}
	if writes && in.Uid != f.uid && in.Uid != 0 {
		return fuse.EACCES
	}
	out.OpenFlags = fuse.FOPEN_DIRECT_IO
	h := &handle{}
	switch {
	case c.events:
		var err error
		if h.events, err = f.openEvents(in.Flags); err != nil {
			return fuse.Status(errno(err))
		}
		out.OpenFlags |= fuse.FOPEN_NOFLUSH
	case c.read != nil:
		h.text = c.read(f, in.Uid)
		out.OpenFlags |= fuse.FOPEN_NOFLUSH
	case c.stream != nil:
		h.ctl = &loads{f: f, c: c, uid: in.Uid, appends: in.Flags&unix.O_APPEND != 0}
	default:
		h.ctl = &commands{f, c, in.Uid}
	}
	out.Fh = f.handles.add(h)
	return fuse.OK
}

// Write implements fuse.RawFileSystem.
func (f *fsys) Write(cancel <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	h := f.handles.get(in.Fh)
	if h == nil || h.ctl == nil {
		return 0, fuse.EBADF
	}
	ctx, done := f.command(cancel, in.Pid)
	defer done()
	if err := h.ctl.write(ctx, in.Offset, data); err != nil {
		return 0, fuse.Status(errno(err))
	}
	return uint32(len(data)), fuse.OK
}

// Flush implements fuse.RawFileSystem.
func (f *fsys) Flush(cancel <-chan struct{}, in *fuse.FlushIn) fuse.Status {
	if f.stateless() {
		return fuse.ENOSYS
	}
	h := f.handles.get(in.Fh)
	if h == nil || h.ctl == nil {
		return fuse.OK
	}
	ctx, done := f.command(cancel, in.Pid)
	defer done()
	return fuse.Status(errno(h.ctl.flush(ctx, killed(in.Pid))))
}

// Fsync implements fuse.RawFileSystem: what a command did is durable when it returns.
func (f *fsys) Fsync(<-chan struct{}, *fuse.FsyncIn) fuse.Status { return fuse.OK }

// commands is a control file each write to which is one command.
type commands struct {
	f   *fsys
	c   *ctlFile
	uid uint32
}

func (c *commands) write(ctx context.Context, _ uint64, b []byte) error {
	return c.c.write(c.f, ctx, c.uid, b)
}

func (c *commands) truncate(_ context.Context, size uint64) error {
	if size > 0 {
		return fmt.Errorf("a control file has no length: %w", store.ErrInvalid)
	}
	return nil
}

func (c *commands) flush(context.Context, bool) error { return nil }
func (c *commands) release()                          {}

// loads is ctl/load or ctl/import. A first write that starts with "/" or a quote, or
// that is one line of text, is a command with a path; anything else starts an archive,
// which ends with a close(2) after some bytes of it. Then the next may follow.
//
// What comes of an archive comes in order: there is no file that could be written in
// any other. A program that copies a sparse file leaves its holes out, by seeking or
// with ftruncate(2): those are zeros.
type loads struct {
	f       *fsys
	c       *ctlFile
	uid     uint32
	appends bool // what offsets say means nothing

	mu      sync.Mutex // one write or flush at a time
	stream  *stream
	failed  error  // of the archive under way, until its end is seen
	at      uint64 // offset of the next byte
	written bool   // something was
}

// stream is an archive on its way to the loader.
type stream struct {
	w    *io.PipeWriter
	done chan struct{}
	err  error // set when done is closed
	stop context.CancelFunc
}

// cancel lets go of the archive: nothing of it stays, if it has not all been taken in already.
func (s *stream) cancel() {
	s.stop()
	s.w.CloseWithError(context.Canceled)
}

func (l *loads) write(ctx context.Context, off uint64, b []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failed != nil {
		return l.failed
	}
	l.written = true
	if l.appends {
		off = l.at
	}
	if l.stream == nil && off == l.at && isCommand(b) {
		l.at += uint64(len(b))
		return l.c.write(l.f, ctx, l.uid, b)
	}
	if err := l.zeros(ctx, off); err != nil {
		return err
	}
	return l.put(ctx, b)
}

func (l *loads) truncate(ctx context.Context, size uint64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.failed != nil:
		return l.failed
	case l.stream == nil && size <= l.at:
		return nil // as a shell's > does it before the first byte
	}
	return l.zeros(ctx, size)
}

// zeroes are what a hole has.
var zeroes [256 << 10]byte

// zeros fills what was left out before an offset.
func (l *loads) zeros(ctx context.Context, off uint64) error {
	if off < l.at {
		if l.stream == nil {
			l.start()
		}
		l.stream.w.CloseWithError(fmt.Errorf("bytes for offset %d came after those for %d; an archive is taken in order: %w", off, l.at, store.ErrInvalid))
		return l.fail()
	}
	for off > l.at {
		if err := l.put(ctx, zeroes[:min(off-l.at, uint64(len(zeroes)))]); err != nil {
			return err
		}
	}
	return nil
}

// put hands the next bytes of an archive on.
func (l *loads) put(ctx context.Context, b []byte) error {
	if l.stream == nil {
		l.start()
	}
	defer context.AfterFunc(ctx, l.stream.cancel)()
	if _, err := l.stream.w.Write(b); err != nil {
		return l.fail()
	}
	l.at += uint64(len(b))
	return nil
}

// fail waits for the end of an archive that cannot go on.
func (l *loads) fail() error {
	<-l.stream.done
	if l.failed = l.stream.err; l.failed == nil {
		l.failed = fmt.Errorf("more bytes after the archive's end: %w", store.ErrInvalid)
	}
	l.stream = nil
	return l.failed
}

// isCommand tells whether a first write is a command, so that who writes a path
// that cannot be meant hears of it at once: a shell's echo does not look at close(2).
func isCommand(b []byte) bool {
	if len(b) == 0 || len(b) > ctl.MaxCommand || bytes.IndexByte(b, 0) >= 0 {
		return false
	}
	return strings.IndexByte("/\"'", b[0]) >= 0 || isLine(b)
}

// isLine tells whether all of b is one line of text, its newline included.
func isLine(b []byte) bool {
	text, ends := bytes.CutSuffix(b, []byte{'\n'})
	return ends && utf8.Valid(text) && bytes.IndexFunc(text, unicode.IsControl) < 0
}

func (l *loads) start() {
	ctx, stop := context.WithCancel(l.f.life)
	r, w := io.Pipe()
	s := &stream{w: w, done: make(chan struct{}), stop: stop}
	l.stream = s
	go func() {
		s.err = l.f.guard(l.c.name, func() error { return l.c.stream(l.f, ctx, l.uid, r) })
		// Bytes that nobody wants any more must not block their writer.
		r.CloseWithError(io.ErrClosedPipe)
		close(s.done)
		stop()
	}()
}

func (l *loads) flush(ctx context.Context, killed bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failed != nil {
		err := l.failed
		l.failed = nil
		return err
	}
	if l.stream == nil {
		return nil
	}
	s := l.stream
	l.stream = nil
	if killed {
		// What is cut where it could end would be taken for whole.
		s.cancel()
	}
	defer context.AfterFunc(ctx, s.cancel)()
	s.w.Close()
	<-s.done
	return s.err
}

// release ends an archive that nobody said is whole, and tells of one of which not a
// byte came: a close(2) alone cannot, since a shell closes its copy of the descriptor
// before the first.
func (l *loads) release() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s := l.stream; s != nil {
		l.stream = nil
		s.cancel()
		<-s.done
	}
	if !l.written {
		l.f.ctl.Nothing(l.uid, l.c.name)
	}
}

// inUse forbids to delete an image while files of its own layers are open here.
func (f *fsys) inUse(ctx context.Context, refOrID string) error {
	id, ref, err := store.Resolve(ctx, f.st, refOrID)
	if err != nil {
		return err
	}
	names, err := f.st.Names(ctx)
	if err != nil {
		return err
	}
	for r, i := range names.Tags {
		if i == id && r != ref && ref != "" {
			return nil // only a name goes
		}
	}
	var open []string
	for slot := range f.layers.size() {
		if l := f.layers.get(slot); l != nil && l.open.Load() > 0 {
			open = append(open, l.l.Key())
		}
	}
	if len(open) == 0 {
		return nil
	}
	own, err := f.ownLayers(ctx, id)
	if err != nil {
		return err
	}
	for _, k := range own {
		if slices.Contains(open, k) {
			return fmt.Errorf("a file of image %s is open; close it, or use -f: %w", refOrID, store.ErrBusy)
		}
	}
	return nil
}

// ownLayers returns the keys of the layers that no image has but one and those
// that are removed with it.
func (f *fsys) ownLayers(ctx context.Context, id digest.Digest) ([]string, error) {
	img, err := f.st.Image(ctx, id)
	if err != nil {
		return nil, err
	}
	going := map[digest.Digest]bool{id: true}
	if g, ok := img.(store.Grouped); ok {
		for _, other := range g.Group() {
			going[other] = true
		}
	}
	ids, err := f.st.IDs(ctx)
	if err != nil {
		return nil, err
	}
	var own []string
	shared := map[string]bool{}
	for _, other := range ids {
		o, err := f.st.Image(ctx, other)
		if err != nil {
			continue
		}
		for _, l := range o.Layers() {
			if going[other] {
				own = append(own, l.Key())
			} else {
				shared[l.Key()] = true
			}
		}
	}
	return slices.DeleteFunc(own, func(key string) bool { return shared[key] }), nil
}
