package overlay

import "slices"

// Find tells what the layer has at a path so far: its attributes and Ref. With
// whiteout it looks for the whiteout of that name instead. A hard link whose
// target has not come yet is not found.
func (b *Builder) Find(path string, whiteout bool) (Attr, uint64, bool) {
	if path == "" {
		return b.inodes[0].Attr, b.inodes[0].ref, !whiteout
	}
	d, s := splitPath(path)
	parent := uint32(0)
	if d != "" {
		k, ok := b.lookup(d)
		if !ok || b.names[k].state != alive {
			return Attr{}, 0, false
		}
		parent = b.names[k].ino
	}
	var f EntFlags
	if whiteout {
		f = EntWhiteout
	}
	k, ok := b.find(parent, s, f)
	if !ok || b.names[k].state != alive {
		return Attr{}, 0, false
	}
	in := &b.inodes[b.names[k].ino]
	return in.Attr, in.ref, true
}

// Xattr returns an extended attribute that a path has so far.
func (b *Builder) Xattr(path, name string) ([]byte, bool) {
	i := uint32(0)
	if path != "" {
		k, ok := b.lookup(path)
		if !ok || b.names[k].state != alive {
			return nil, false
		}
		i = b.names[k].ino
	}
	if b.inodes[i].xattr == noXattrs {
		return nil, false
	}
	var out []byte
	found := false
	eachXattr(b.xattrs[b.inodes[i].xattr-1:], func(k string, v []byte) bool {
		if found = k == name; found {
			out = slices.Clone(v)
		}
		return !found
	})
	return out, found
}

// PendingTarget returns the target of a hard link that waits for it; not ok for any other path.
func (b *Builder) PendingTarget(path string) (target string, ok bool) {
	k, ok := b.lookup(path)
	if !ok || b.names[k].state != pending {
		return "", false
	}
	return b.links[b.names[k].ino].target, true
}

// Pending calls yield with each hard link whose target has not come yet. yield
// may add records that put an end to waiting, but no directories.
func (b *Builder) Pending(yield func(path, target string) bool) {
	var byIno map[uint32]uint32
	for i := range b.links {
		if !b.waiting(i) {
			continue
		}
		if byIno == nil {
			byIno = b.dirNames()
		}
		if p, ok := b.path(b.links[i].name, byIno); ok && !yield(p, b.links[i].target) {
			return
		}
	}
}

// waiting tells whether a link is still what its name stands for.
func (b *Builder) waiting(i int) bool {
	n := &b.names[b.links[i].name]
	return n.state == pending && n.ino == uint32(i)
}

// dirNames maps each directory's inode to its name.
func (b *Builder) dirNames() map[uint32]uint32 {
	m := map[uint32]uint32{}
	for k := range b.names {
		if n := &b.names[k]; n.state == alive && b.inodes[n.ino].Mode&typeMask == modeDir {
			m[n.ino] = uint32(k)
		}
	}
	return m
}

// path returns the path of a name, false if it is below something that was replaced.
func (b *Builder) path(k uint32, byIno map[uint32]uint32) (string, bool) {
	up := []uint32{k}
	for i := b.names[k].parent; i != 0; {
		k, ok := byIno[i]
		if !ok {
			return "", false
		}
		up = append(up, k)
		i = b.names[k].parent
	}
	var p []byte
	for n := len(up) - 1; n >= 0; n-- {
		p = append(p, b.nameOf(&b.names[up[n]])...)
		if n > 0 {
			p = append(p, '/')
		}
	}
	return string(p), true
}

// Dirs calls yield with each directory, parents before what is in them, the
// root as "". hidden tells that the layer hides what lower layers have at the
// path: with a whiteout of it or of a directory above it, or an opaque
// directory above it. yield may change attributes, but add nothing.
func (b *Builder) Dirs(yield func(path string, a Attr, hidden bool) bool) {
	// Directories by parent, with a counting sort.
	start := make([]uint32, len(b.inodes)+1)
	isDir := func(n *name) bool { return n.state == alive && b.inodes[n.ino].Mode&typeMask == modeDir }
	for k := range b.names {
		if n := &b.names[k]; isDir(n) {
			start[n.parent+1]++
		}
	}
	for i := 1; i < len(start); i++ {
		start[i] += start[i-1]
	}
	order := make([]uint32, start[len(start)-1])
	next := slices.Clone(start[:len(start)-1])
	for k := range b.names {
		if n := &b.names[k]; isDir(n) {
			order[next[n.parent]] = uint32(k)
			next[n.parent]++
		}
	}
	// One path at a time: a layer may have more of them than memory.
	type level struct {
		ino, pos, len uint32
		hidden        bool // below it everything is
	}
	opaque := func(ino uint32) bool { return b.inodes[ino].Flags&FlagOpaque != 0 }
	stack := []level{{0, start[0], 0, opaque(0)}}
	var path []byte
	if !yield("", b.inodes[0].Attr, false) {
		return
	}
	for len(stack) > 0 {
		l := &stack[len(stack)-1]
		if l.pos == start[l.ino+1] {
			stack = stack[:len(stack)-1]
			continue
		}
		n := &b.names[order[l.pos]]
		l.pos++
		if path = path[:l.len]; l.len > 0 {
			path = append(path, '/')
		}
		path = append(path, b.nameOf(n)...)
		hidden := l.hidden
		if !hidden {
			_, hidden = b.find(l.ino, str(b.nameOf(n)), EntWhiteout)
		}
		if !yield(string(path), b.inodes[n.ino].Attr, hidden) {
			return
		}
		stack = append(stack, level{n.ino, start[n.ino], uint32(len(path)), hidden || opaque(n.ino)})
	}
}

// Implied calls yield, as Dirs does, with each directory that the layer implies but does not have.
func (b *Builder) Implied(yield func(path string, hidden bool) bool) {
	b.Dirs(func(p string, a Attr, hidden bool) bool { return a.Flags&FlagImplied == 0 || yield(p, hidden) })
}
