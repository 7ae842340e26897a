package overlay

import (
	"cmp"
	"fmt"
	"hash/maphash"
	"slices"
	"strings"
)

// Limits of one layer.
const (
	MaxEntries = 4 << 20 // directory entries
	maxArena   = 1 << 30 // bytes of names and link targets, and as many of xattrs
	maxWaits   = 1 << 28 // bytes of targets of hard links that come before their target
)

// name is a directory entry under construction.
type name struct {
	parent uint32 // inode of the directory
	off    uint32 // in the arena
	ino    uint32 // of a pending hard link: its number in Builder.links
	len    uint16
	flags  EntFlags
	state  uint8
}

// States of a name. What is below a directory that was replaced keeps its
// state, but no path leads to it any more.
const (
	alive   = iota
	pending // a hard link whose target has not come yet
)

// inode is an inode under construction.
type inode struct {
	Attr
	ref   uint64
	link  uint32 // symlinks: offset of the target in the arena, Size long
	xattr uint32 // offset+1 of its set in Builder.xattrs
}

type link struct {
	name   uint32
	target string
}

// Builder collects the records of one layer, in any order, and encodes them as
// an Index. It keeps some 150 bytes for an entry and its inode. Not safe for
// concurrent use. After an error it must not be used further.
type Builder struct {
	names  []name
	inodes []inode
	arena  []byte
	xattrs []byte
	sets   map[string]uint32 // encoded xattr set → offset+1
	table  []uint32          // open addressing: number of a name + 1
	used   int               // of table
	links  []link
	waits  int // bytes of the targets in links
	seed   maphash.Seed
	setBuf []byte

	lastDir string // the directory of the previous record: most records follow each other in one
	lastIno uint32
}

// NewBuilder returns a Builder that has the root directory, 0755 root:root, implied.
func NewBuilder() *Builder {
	b := &Builder{sets: map[string]uint32{}, table: make([]uint32, 1024), seed: maphash.MakeSeed()}
	b.inodes = append(b.inodes, impliedDir())
	return b
}

func impliedDir() inode {
	return inode{Attr: Attr{Mode: modeDir | 0o755, Flags: FlagImplied}}
}

func (b *Builder) nameOf(n *name) []byte { return b.arena[n.off : n.off+uint32(n.len)] }

func (b *Builder) hash(parent uint32, s string, f EntFlags) uint64 {
	return maphash.String(b.seed, s) ^ (uint64(parent)<<1|uint64(f&EntWhiteout))*0x9e3779b97f4a7c15
}

// find returns the number of the live name s in a directory.
func (b *Builder) find(parent uint32, s string, f EntFlags) (uint32, bool) {
	mask := uint64(len(b.table) - 1)
	for i := b.hash(parent, s, f) & mask; b.table[i] != 0; i = (i + 1) & mask {
		n := &b.names[b.table[i]-1]
		if n.parent == parent && n.flags == f && string(b.nameOf(n)) == s {
			return b.table[i] - 1, true
		}
	}
	return 0, false
}

func (b *Builder) insert(parent uint32, s string, f EntFlags) (uint32, error) {
	if len(b.names) >= MaxEntries {
		return 0, fmt.Errorf("more than %d entries: %w", MaxEntries, ErrTooLarge)
	}
	off, err := b.store(s)
	if err != nil {
		return 0, err
	}
	b.names = append(b.names, name{parent: parent, off: off, len: uint16(len(s)), flags: f})
	k := uint32(len(b.names))
	if b.used++; b.used*4 > len(b.table)*3 {
		b.grow()
	} else {
		b.place(k)
	}
	return k - 1, nil
}

func (b *Builder) place(k uint32) {
	n := &b.names[k-1]
	mask := uint64(len(b.table) - 1)
	i := b.hash(n.parent, str(b.nameOf(n)), n.flags) & mask
	for b.table[i] != 0 {
		i = (i + 1) & mask
	}
	b.table[i] = k
}

func (b *Builder) grow() {
	b.table = make([]uint32, 2*len(b.table))
	for k := range b.names {
		b.place(uint32(k) + 1)
	}
}

func (b *Builder) store(s string) (uint32, error) {
	if len(b.arena)+len(s) > maxArena {
		return 0, fmt.Errorf("more than %d bytes of names: %w", maxArena, ErrTooLarge)
	}
	b.arena = append(b.arena, s...)
	return uint32(len(b.arena) - len(s)), nil
}

// dir finds the directory p, and makes it, implied, where it is missing or no directory.
func (b *Builder) dir(p string) (uint32, error) {
	if p == "" {
		return 0, nil
	}
	if p == b.lastDir {
		return b.lastIno, nil
	}
	ino := uint32(0)
	for rest, more := p, true; more; {
		var s string
		s, rest, more = strings.Cut(rest, "/")
		k, ok := b.find(ino, s, 0)
		if ok && b.names[k].state == alive && b.inodes[b.names[k].ino].Mode&typeMask == modeDir {
			ino = b.names[k].ino
			continue
		}
		i, err := b.put(ino, s, 0)
		if err != nil {
			return 0, err
		}
		b.inodes[i] = impliedDir()
		ino = i
	}
	b.lastDir, b.lastIno = strings.Clone(p), ino
	return ino, nil
}

// put gives a name of a directory a new inode; what had the name before is gone, with all below it.
func (b *Builder) put(parent uint32, s string, f EntFlags) (uint32, error) {
	k, err := b.claim(parent, s, f)
	if err != nil {
		return 0, err
	}
	i := uint32(len(b.inodes))
	b.inodes = append(b.inodes, inode{})
	b.names[k].state, b.names[k].ino = alive, i
	return i, nil
}

// claim returns the number of a name of a directory, a new one or one that is
// there and is about to stand for something else. A path that comes a million
// times has one name.
func (b *Builder) claim(parent uint32, s string, f EntFlags) (uint32, error) {
	if k, ok := b.find(parent, s, f); ok {
		b.lastDir = "" // it may have been below
		return k, nil
	}
	return b.insert(parent, s, f)
}

func splitPath(p string) (dir, base string) {
	i := strings.LastIndexByte(p, '/')
	return p[:max(i, 0)], p[i+1:]
}

// validPath is the check of a path that CleanPath may not have seen.
func validPath(p string) error {
	if strings.IndexByte(p, 0) >= 0 || !isClean(p) {
		return fmt.Errorf("%.200q is not clean: %w", p, ErrName)
	}
	return checkPath(p)
}

// Add takes one record. The last record of a path wins; a whiteout and an
// addition of one name stand beside each other. ErrName, ErrTooLarge.
func (b *Builder) Add(e Entry) error {
	if err := validPath(e.Path); err != nil {
		return err
	}
	if e.Path == "" {
		switch e.Kind {
		case Dir:
			return b.setDir(0, e)
		case Opaque:
			b.inodes[0].Flags |= FlagOpaque
			return nil
		}
		return fmt.Errorf("the root is a directory: %w", ErrName)
	}
	if e.Kind == Opaque {
		i, err := b.dir(e.Path)
		if err == nil {
			b.inodes[i].Flags |= FlagOpaque
		}
		return err
	}
	if e.Kind == Hardlink && e.Link == e.Path {
		return nil // it changes nothing, not even what is in the way of its directory
	}
	d, s := splitPath(e.Path)
	parent, err := b.dir(d)
	if err != nil {
		return err
	}
	if e.Kind == Dir {
		if k, ok := b.find(parent, s, 0); ok && b.names[k].state == alive && b.inodes[b.names[k].ino].Mode&typeMask == modeDir {
			return b.setDir(b.names[k].ino, e)
		}
	}
	if e.Kind == Hardlink {
		return b.addLink(parent, s, e)
	}
	var f EntFlags
	if e.Kind == Whiteout {
		f = EntWhiteout
	}
	i, err := b.put(parent, s, f)
	if err != nil {
		return err
	}
	return b.fill(i, e)
}

var typeOf = [...]uint32{File: modeRegular, Dir: modeDir, Symlink: modeSymlink, Char: modeChar,
	Block: modeBlock, Fifo: modeFifo, Socket: modeSocket, Whiteout: modeRegular}

func (b *Builder) fill(i uint32, e Entry) error {
	if int(e.Kind) >= len(typeOf) || typeOf[e.Kind] == 0 {
		return fmt.Errorf("%.200q: kind %d: %w", e.Path, e.Kind, ErrName)
	}
	x, err := b.storeXattrs(e.Xattrs)
	if err != nil {
		return err
	}
	n := inode{Attr: e.Attr, ref: e.Ref, xattr: x}
	n.Mode = typeOf[e.Kind] | e.Mode&0o7777
	n.Flags = e.Flags & FlagOpaque
	n.Nsec = min(n.Nsec, 1e9-1)
	n.Size &= 1<<63 - 1
	if e.Kind == Symlink {
		if len(e.Link) > maxPath {
			return fmt.Errorf("%.200q: link target of %d bytes: %w", e.Path, len(e.Link), ErrName)
		}
		if n.link, err = b.store(e.Link); err != nil {
			return err
		}
		n.Size = uint64(len(e.Link))
	}
	b.inodes[i] = n
	return nil
}

// setDir gives a directory that is there new attributes; what is in it, and whether it is opaque, stays.
func (b *Builder) setDir(i uint32, e Entry) error {
	e.Flags |= b.inodes[i].Flags & FlagOpaque
	e.Kind = Dir
	return b.fill(i, e)
}

// addLink gives a name to the inode that another name has now; where there is
// none yet, Finish looks again.
func (b *Builder) addLink(parent uint32, s string, e Entry) error {
	if err := validPath(e.Link); err != nil {
		return err
	}
	t, ok := b.lookup(e.Link)
	if ok && b.names[t].state == alive && b.inodes[b.names[t].ino].Mode&typeMask == modeDir {
		return fmt.Errorf("%.200q: hard link to the directory %.200q: %w", e.Path, e.Link, ErrNoTarget)
	}
	if found := ok && b.names[t].state == alive; found {
		i := b.names[t].ino
		k, err := b.claim(parent, s, 0)
		if err == nil {
			b.names[k].state, b.names[k].ino = alive, i
		}
		return err
	}
	if b.waits += len(e.Link); b.waits > maxWaits {
		return fmt.Errorf("more than %d bytes of hard links to what has not come: %w", maxWaits, ErrTooLarge)
	}
	k, err := b.claim(parent, s, 0)
	if err != nil {
		return err
	}
	b.names[k].state, b.names[k].ino = pending, uint32(len(b.links))
	b.links = append(b.links, link{name: k, target: strings.Clone(e.Link)})
	return nil
}

// lookup finds the live name of a path.
func (b *Builder) lookup(p string) (uint32, bool) {
	ino, rest := uint32(0), p
	for {
		s, r, more := strings.Cut(rest, "/")
		k, ok := b.find(ino, s, 0)
		if !ok {
			return 0, false
		}
		if !more {
			return k, true
		}
		if b.names[k].state != alive {
			return 0, false
		}
		ino, rest = b.names[k].ino, r
	}
}

func (b *Builder) storeXattrs(xs []Xattr) (uint32, error) {
	if len(xs) == 0 {
		return noXattrs, nil
	}
	xs = slices.Clone(xs)
	slices.SortStableFunc(xs, func(x, y Xattr) int { return cmp.Compare(x.Name, y.Name) })
	buf := append(b.setBuf[:0], 0, 0)
	count := 0
	for i, x := range xs {
		if i+1 < len(xs) && xs[i+1].Name == x.Name {
			continue // the last of equal names wins
		}
		if len(x.Name) == 0 || len(x.Name) > maxName || len(x.Value) > 64<<10 {
			return 0, fmt.Errorf("xattr %.300q of %d bytes: %w", x.Name, len(x.Value), ErrTooLarge)
		}
		count++
		buf = le.AppendUint16(buf, uint16(len(x.Name)))
		buf = le.AppendUint32(buf, uint32(len(x.Value)))
		buf = append(append(buf, x.Name...), x.Value...)
	}
	if count > 1<<16-1 {
		return 0, fmt.Errorf("%d xattrs: %w", count, ErrTooLarge)
	}
	le.PutUint16(buf, uint16(count))
	b.setBuf = buf
	if off, ok := b.sets[string(buf)]; ok {
		return off, nil
	}
	if len(b.xattrs)+len(buf) > maxArena {
		return 0, fmt.Errorf("more than %d bytes of xattrs: %w", maxArena, ErrTooLarge)
	}
	off := uint32(len(b.xattrs)) + 1
	b.xattrs = append(b.xattrs, buf...)
	b.sets[string(buf)] = off
	return off, nil
}
