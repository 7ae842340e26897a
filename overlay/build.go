package overlay

import (
	"bytes"
	"cmp"
	"fmt"
	"hash/crc32"
	"hash/maphash"
	"slices"
	"strings"
)

// Limits of one layer.
const (
	MaxEntries = 4 << 20 // directory entries
	maxArena   = 1 << 30 // bytes of names and link targets, and as many of xattrs
)

// name is a directory entry under construction.
type name struct {
	parent uint32 // inode of the directory
	off    uint32 // in the arena
	ino    uint32 // dead, or a pending hard link: see below
	len    uint16
	flags  EntFlags
	state  uint8
}

// States of a name.
const (
	alive   = iota
	dead    // was replaced by a later record of the same path
	pending // a hard link whose target has not come yet; ino is its number in Builder.links
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
		if n.parent == parent && n.state != dead && n.flags == f && string(b.nameOf(n)) == s {
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
	b.used = 0
	for k := range b.names {
		if b.names[k].state != dead {
			b.place(uint32(k) + 1)
			b.used++
		}
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
	if k, ok := b.find(parent, s, f); ok {
		b.names[k].state = dead
		b.lastDir = "" // it may have been below
	}
	k, err := b.insert(parent, s, f)
	if err != nil {
		return 0, err
	}
	i := uint32(len(b.inodes))
	b.inodes = append(b.inodes, inode{})
	b.names[k].ino = i
	return i, nil
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
	if ok && b.names[t].parent == parent && string(b.nameOf(&b.names[t])) == s {
		return nil // a link to itself changes nothing
	}
	if ok && b.names[t].state == alive && b.inodes[b.names[t].ino].Mode&typeMask == modeDir {
		return fmt.Errorf("%.200q: hard link to the directory %.200q: %w", e.Path, e.Link, ErrNoTarget)
	}
	if k, ok := b.find(parent, s, 0); ok {
		b.names[k].state = dead
		b.lastDir = ""
	}
	k, err := b.insert(parent, s, 0)
	if err != nil {
		return err
	}
	if ok && b.names[t].state == alive {
		b.names[k].ino = b.names[t].ino
		return nil
	}
	b.names[k].state, b.names[k].ino = pending, uint32(len(b.links))
	b.links = append(b.links, link{name: k, target: e.Link})
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

// SetAttr changes the attributes of a path that is there, for directories that
// are implied above all: they stay implied. The type, a size that a link's
// target gives, and the content stay.
func (b *Builder) SetAttr(path string, a Attr, xs []Xattr) error {
	i := uint32(0)
	if path != "" {
		k, ok := b.lookup(path)
		if !ok || b.names[k].state != alive {
			return fmt.Errorf("%.200q is not in the layer: %w", path, ErrName)
		}
		i = b.names[k].ino
	}
	x, err := b.storeXattrs(xs)
	if err != nil {
		return err
	}
	n := &b.inodes[i]
	typ, flags, size := n.Mode&typeMask, n.Flags&(FlagOpaque|FlagImplied), n.Size
	n.Attr = a
	n.Mode, n.Flags, n.xattr = typ|a.Mode&0o7777, flags, x
	n.Nsec = min(n.Nsec, 1e9-1)
	if typ == modeSymlink {
		n.Size = size
	}
	return nil
}

// Implied calls yield with the path of each directory that the layer implies
// but does not have, parents before what is in them, the root as "".
func (b *Builder) Implied(yield func(path string) bool) {
	b.Dirs(func(p string, a Attr) bool { return a.Flags&FlagImplied == 0 || yield(p) })
}

// path returns the path of a name, false if it is below something that was replaced.
func (b *Builder) path(k uint32, byIno map[uint32]uint32) (string, bool) {
	p := string(b.nameOf(&b.names[k]))
	for i := b.names[k].parent; i != 0; {
		up, ok := byIno[i]
		if !ok {
			return "", false
		}
		p = string(b.nameOf(&b.names[up])) + "/" + p
		i = b.names[up].parent
	}
	return p, true
}

// resolve gives each hard link that came before its target an inode.
func (b *Builder) resolve() error {
	for {
		progress, left := false, -1
		for l := range b.links {
			n := &b.names[b.links[l].name]
			if n.state != pending {
				continue
			}
			t, ok := b.lookup(b.links[l].target)
			if ok && b.names[t].state == alive && b.inodes[b.names[t].ino].Mode&typeMask != modeDir {
				n.state, n.ino, progress = alive, b.names[t].ino, true
			} else {
				left = l
			}
		}
		if left < 0 {
			return nil
		}
		if !progress {
			l := b.links[left]
			return fmt.Errorf("hard link %.200q to %.200q: %w", b.nameOf(&b.names[l.name]), l.target, ErrNoTarget)
		}
	}
}

// Finish encodes the layer. meta, at most 64 KiB, is kept with it. ErrNoTarget
// for a hard link whose target never came.
func (b *Builder) Finish(meta []byte) ([]byte, error) {
	if len(meta) > maxMeta {
		return nil, fmt.Errorf("%d bytes of meta data: %w", len(meta), ErrTooLarge)
	}
	if err := b.resolve(); err != nil {
		return nil, err
	}
	// Group the names by directory with a counting sort, then walk breadth first:
	// a directory's entries lie together, and parents are numbered before children.
	start := make([]uint32, len(b.inodes)+1)
	for k := range b.names {
		if b.names[k].state == alive {
			start[b.names[k].parent+1]++
		}
	}
	for i := 1; i < len(start); i++ {
		start[i] += start[i-1]
	}
	order := make([]uint32, start[len(start)-1])
	fill := slices.Clone(start[:len(start)-1])
	for k := range b.names {
		if n := &b.names[k]; n.state == alive {
			order[fill[n.parent]] = uint32(k)
			fill[n.parent]++
		}
	}
	w := writer{b: b, num: make([]uint32, len(b.inodes)), sets: map[uint32]uint32{}}
	w.number(0, 0, noEntry)
	for q := 0; q < len(w.queue); q++ {
		old := w.queue[q]
		in := &b.inodes[old]
		r := w.rec(uint32(q))
		if in.Mode&typeMask != modeDir {
			continue
		}
		children := order[start[old]:start[old+1]]
		slices.SortFunc(children, func(x, y uint32) int {
			nx, ny := &b.names[x], &b.names[y]
			if c := bytes.Compare(b.nameOf(nx), b.nameOf(ny)); c != 0 {
				return c
			}
			return cmp.Compare(ny.flags, nx.flags)
		})
		le.PutUint32(r[60:], uint32(len(w.entries)/entrySize))
		le.PutUint32(r[64:], uint32(len(children)))
		sub, whiteout := uint32(2), ""
		for _, k := range children {
			n := &b.names[k]
			isDir := b.inodes[n.ino].Mode&typeMask == modeDir
			if isDir {
				sub++
				if whiteout != "" && whiteout == str(b.nameOf(n)) {
					// The whiteout hides the lower directory before this one is added.
					b.inodes[n.ino].Flags |= FlagOpaque
				}
			}
			if n.flags&EntWhiteout != 0 {
				whiteout = str(b.nameOf(n))
			}
			w.entry(n, uint32(q))
		}
		le.PutUint32(w.rec(uint32(q))[4:], sub)
	}
	return w.encode(meta), nil
}

// writer puts the sections together.
type writer struct {
	b                              *Builder
	num                            []uint32 // Builder's inode → its number + 1
	queue                          []uint32 // the reverse
	sets                           map[uint32]uint32
	inodes, entries, arena, xattrs []byte
}

func (w *writer) rec(i uint32) []byte { return w.inodes[int(i)*inodeSize:][:inodeSize] }

// number gives an inode its place, when its first name is met.
func (w *writer) number(old, parent, self uint32) uint32 {
	i := uint32(len(w.queue))
	w.queue = append(w.queue, old)
	w.num[old] = i + 1
	in := &w.b.inodes[old]
	r := make([]byte, inodeSize)
	le.PutUint32(r, in.Mode)
	le.PutUint32(r[8:], in.UID)
	le.PutUint32(r[12:], in.GID)
	le.PutUint32(r[16:], in.Rdev)
	le.PutUint32(r[20:], in.Nsec)
	le.PutUint64(r[24:], uint64(in.Sec))
	le.PutUint64(r[32:], in.Size)
	le.PutUint64(r[40:], in.Blocks)
	le.PutUint64(r[48:], in.ref)
	if in.Mode&typeMask == modeSymlink {
		le.PutUint32(r[60:], uint32(len(w.arena)))
		le.PutUint32(r[64:], uint32(in.Size))
		w.arena = append(w.arena, w.b.arena[in.link:in.link+uint32(in.Size)]...)
	}
	if in.xattr != noXattrs {
		off, ok := w.sets[in.xattr]
		if !ok {
			set := w.b.xattrs[in.xattr-1:]
			size := 2
			for n, c := 0, int(le.Uint16(set)); n < c; n++ {
				size += 6 + int(le.Uint16(set[size:])) + int(le.Uint32(set[size+2:]))
			}
			off = uint32(len(w.xattrs)) + 1
			w.xattrs = append(w.xattrs, set[:size]...)
			w.sets[in.xattr] = off
		}
		le.PutUint32(r[68:], off)
		in.Flags |= FlagXattr
	}
	le.PutUint32(r[72:], parent)
	le.PutUint32(r[76:], self)
	w.inodes = append(w.inodes, r...)
	return i
}

func (w *writer) entry(n *name, parent uint32) {
	e := uint32(len(w.entries) / entrySize)
	i := w.num[n.ino]
	if i == 0 {
		i = w.number(n.ino, parent, e) + 1
	}
	i--
	r := w.rec(i)
	if le.Uint32(r)&typeMask != modeDir {
		le.PutUint32(r[4:], le.Uint32(r[4:])+1)
	}
	w.entries = le.AppendUint32(w.entries, uint32(len(w.arena)))
	w.entries = le.AppendUint32(w.entries, i)
	w.entries = le.AppendUint16(w.entries, n.len)
	w.entries = append(w.entries, byte(n.flags), 0)
	w.arena = append(w.arena, w.b.nameOf(n)...)
}

func (w *writer) encode(meta []byte) []byte {
	for i, old := range w.queue {
		le.PutUint32(w.rec(uint32(i))[56:], uint32(w.b.inodes[old].Flags))
	}
	out := make([]byte, headerSize, headerSize+len(w.inodes)+len(w.entries)+len(w.arena)+len(w.xattrs)+len(meta))
	copy(out, magic)
	le.PutUint32(out[8:], formatNum)
	for i, n := range []int{len(w.queue), len(w.entries) / entrySize, len(w.arena), len(w.xattrs), len(meta)} {
		le.PutUint32(out[16+4*i:], uint32(n))
	}
	for _, s := range [][]byte{w.inodes, w.entries, w.arena, w.xattrs, meta} {
		out = append(out, s...)
	}
	le.PutUint32(out[12:], crc32.Checksum(out[crcCovers:], castagnoli))
	return out
}
