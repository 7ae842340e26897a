package layer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"imagefs/overlay"
	"imagefs/store"
)

// Lazy is a layer that is read from its diff directory as it is looked into, a
// directory at a time: for a layer that has no index yet, so that nobody waits
// for the whole of it. Its inodes are numbered as they are found, so it must be
// used for as long as any of its numbers is. It shows what Scan would find.
type Lazy struct {
	// Failed, if not nil, is asked what an error of reading a directory is to be;
	// set before the layer is used.
	Failed func(error) error

	dir *os.File
	lim Limits

	inodes growing[lazyInode]
	ents   growing[lazyEntry]

	mu    sync.Mutex // guards reading a directory
	links map[uint64]overlay.Ino
	fresh []uint64 // links of the read under way, or of one that failed
	scan  scanner
}

type lazyInode struct {
	attr   overlay.Attr
	link   string
	xattrs []overlay.Xattr
	parent overlay.Ino
	name   string

	// children of a directory, once state is read
	lo, hi overlay.Ent
	state  atomic.Uint32
}

// States of a directory.
const (
	unread = iota
	read
)

type lazyEntry struct {
	name  string
	ino   overlay.Ino
	flags overlay.EntFlags
}

var _ overlay.Layer = (*Lazy)(nil)

// NewLazy opens a layer. dir is its diff directory, which stays the caller's
// and open as long as the layer is used.
func NewLazy(dir *os.File, lim Limits) (*Lazy, error) {
	l := &Lazy{dir: dir, lim: lim.withDefaults(), links: map[uint64]overlay.Ino{}}
	l.scan = scanner{ctx: context.Background(), buf: make([]byte, 64<<10)}
	var st unix.Stat_t
	fd := int(dir.Fd())
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, fmt.Errorf("stat %s: %w", dir.Name(), err)
	}
	l.scan.dev = uint64(st.Dev)
	e, opaque, err := l.scan.read("", fdPath(fd)+"/.", fd, &st)
	if err != nil {
		return nil, err
	}
	root := l.inodes.add()
	root.set(&e, &st, opaque)
	l.inodes.publish()
	return l, nil
}

// set fills in an inode as a Builder would.
func (n *lazyInode) set(e *overlay.Entry, st *unix.Stat_t, opaque bool) {
	n.attr = e.Attr
	n.attr.Mode = e.Mode | st.Mode&unix.S_IFMT
	n.attr.Nlink = uint32(st.Nlink)
	if e.Kind == overlay.Whiteout {
		n.attr.Mode = e.Mode | unix.S_IFREG
	}
	if e.Kind == overlay.Symlink {
		n.link, n.attr.Size = e.Link, uint64(len(e.Link))
	}
	if opaque {
		n.attr.Flags |= overlay.FlagOpaque
	}
	if len(e.Xattrs) > 0 {
		n.attr.Flags |= overlay.FlagXattr
		n.xattrs = e.Xattrs
		slices.SortFunc(n.xattrs, func(a, b overlay.Xattr) int { return cmp.Compare(a.Name, b.Name) })
	}
}

// Inodes implements overlay.Layer: those that were found so far.
func (l *Lazy) Inodes() int { return l.inodes.len() }

// Children implements overlay.Layer.
func (l *Lazy) Children(dir overlay.Ino) (lo, hi overlay.Ent, err error) {
	n := l.inodes.at(int(dir))
	if n.attr.Mode&unix.S_IFMT != unix.S_IFDIR {
		return 0, 0, nil
	}
	if n.state.Load() == unread {
		l.mu.Lock()
		defer l.mu.Unlock()
		if n.state.Load() == unread {
			if err := l.read(dir, n); err != nil && l.Failed != nil {
				return 0, 0, l.Failed(err)
			} else if err != nil {
				return 0, 0, err
			}
		}
	}
	return n.lo, n.hi, nil
}

// undo takes back what a read that failed midway has left.
func (l *Lazy) undo() {
	l.inodes.reset()
	for _, ino := range l.fresh {
		delete(l.links, ino)
	}
	l.fresh = l.fresh[:0]
}

// read reads a directory; l.mu is held.
func (l *Lazy) read(dir overlay.Ino, n *lazyInode) error {
	l.undo()
	path := string(l.Path(nil, dir))
	at := path
	if at == "" {
		at = "."
	}
	fd, err := openIn(l.dir, at, unix.O_RDONLY|unix.O_DIRECTORY)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return &MissingError{path}
	}
	if errors.Is(err, os.ErrClosed) {
		return fmt.Errorf("%.300q: the layer's directory is no longer there: %w", path, store.ErrGone)
	}
	if err != nil {
		return pathError("open", path, err)
	}
	defer unix.Close(fd)
	names, err := readNames(fd)
	if err != nil {
		return pathError("read", path, err)
	}
	slices.Sort(names)
	if l.ents.next()+len(names) > l.lim.Entries {
		return fmt.Errorf("layer of more than %d entries: %w", l.lim.Entries, store.ErrTooLarge)
	}
	var found []lazyEntry
	for _, name := range names {
		i, flags, ok, err := l.child(fd, dir, path, name)
		if err != nil {
			return err
		}
		if ok {
			found = append(found, lazyEntry{name, i, flags})
		}
	}
	l.inodes.publish()
	l.fresh = l.fresh[:0]
	n.lo = overlay.Ent(l.ents.len())
	for _, e := range found {
		*l.ents.add() = e
	}
	l.ents.publish()
	n.hi = overlay.Ent(l.ents.len())
	n.state.Store(read)
	return nil
}

// child reads one name; ok is false for what is not the layer's.
func (l *Lazy) child(fd int, dir overlay.Ino, path, name string) (i overlay.Ino, flags overlay.EntFlags, ok bool, err error) {
	p := join(path, name)
	var st unix.Stat_t
	if err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		if errors.Is(err, unix.ENOENT) {
			return 0, 0, false, nil // the layer is being removed
		}
		return 0, 0, false, pathError("stat", p, err)
	}
	isDir := st.Mode&unix.S_IFMT == unix.S_IFDIR
	if isDir && uint64(st.Dev) != l.scan.dev {
		return 0, 0, false, nil // something is mounted here; it is not the layer's
	}
	if i, ok := l.links[st.Ino]; ok && !isDir {
		return i, 0, true, nil
	}
	e, opaque, err := l.scan.read(p, procPath(fd, name), fd, &st)
	if err != nil {
		return 0, 0, false, err
	}
	i = overlay.Ino(l.inodes.next())
	n := l.inodes.add()
	n.set(&e, &st, opaque)
	n.parent, n.name = dir, name
	if e.Kind == overlay.Whiteout {
		return i, overlay.EntWhiteout, true, nil
	}
	if !isDir && st.Nlink > 1 {
		l.links[st.Ino] = i
		l.fresh = append(l.fresh, st.Ino)
	}
	return i, 0, true, nil
}

// Entry implements overlay.Layer.
func (l *Lazy) Entry(e overlay.Ent) (name string, i overlay.Ino, flags overlay.EntFlags) {
	n := l.ents.at(int(e))
	return n.name, n.ino, n.flags
}

// Stat implements overlay.Layer.
func (l *Lazy) Stat(i overlay.Ino) overlay.Attr { return l.inodes.at(int(i)).attr }

// Readlink implements overlay.Layer.
func (l *Lazy) Readlink(i overlay.Ino) string { return l.inodes.at(int(i)).link }

// Xattrs implements overlay.Layer.
func (l *Lazy) Xattrs(i overlay.Ino, yield func(name string, value []byte) bool) {
	for _, x := range l.inodes.at(int(i)).xattrs {
		if !yield(x.Name, x.Value) {
			return
		}
	}
}

// Ref implements overlay.Layer: a diff directory needs none.
func (l *Lazy) Ref(overlay.Ino) uint64 { return 0 }

// Path implements overlay.Layer.
func (l *Lazy) Path(b []byte, i overlay.Ino) []byte {
	if i == 0 {
		return b
	}
	n := l.inodes.at(int(i))
	if n.parent != 0 {
		b = append(l.Path(b, n.parent), '/')
	}
	return append(b, n.name...)
}

// growing is a table that one writer at a time adds to while others read what
// was published; items do not move.
type growing[T any] struct {
	chunks atomic.Pointer[[]*[growChunk]T]
	n      int          // added
	pub    atomic.Int64 // published
}

const growChunk = 1 << 10

func (g *growing[T]) len() int { return int(g.pub.Load()) }

// next is the number that add gives to the next item, and how many were added; for the writer.
func (g *growing[T]) next() int { return g.n }

func (g *growing[T]) add() *T {
	var chunks []*[growChunk]T
	if p := g.chunks.Load(); p != nil {
		chunks = *p
	}
	if g.n/growChunk == len(chunks) {
		chunks = append(chunks, new([growChunk]T))
		g.chunks.Store(&chunks)
	}
	v := &chunks[g.n/growChunk][g.n%growChunk]
	g.n++
	return v
}

// reset takes back what was added and not published.
func (g *growing[T]) reset() {
	for ; g.n > g.len(); g.n-- {
		clear((*g.chunks.Load())[(g.n-1)/growChunk][(g.n-1)%growChunk:][:1])
	}
}

func (g *growing[T]) publish() { g.pub.Store(int64(g.n)) }

func (g *growing[T]) at(i int) *T { return &(*g.chunks.Load())[i/growChunk][i%growChunk] }
