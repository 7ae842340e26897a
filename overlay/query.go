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

// Pending calls yield with each hard link whose target has not come yet.
func (b *Builder) Pending(yield func(path, target string) bool) {
	var byIno map[uint32]uint32
	for _, l := range b.links {
		if b.names[l.name].state != pending {
			continue
		}
		if byIno == nil {
			byIno = b.dirNames()
		}
		if p, ok := b.path(l.name, byIno); ok && !yield(p, l.target) {
			return
		}
	}
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

// Dirs calls yield with each directory, parents before what is in them, the root as "".
func (b *Builder) Dirs(yield func(path string, a Attr) bool) {
	byIno := b.dirNames()
	paths := make([]string, 0, len(byIno)+1)
	inos := map[string]uint32{"": 0}
	paths = append(paths, "")
	for i, k := range byIno {
		if p, ok := b.path(k, byIno); ok {
			paths = append(paths, p)
			inos[p] = i
		}
	}
	slices.Sort(paths)
	for _, p := range paths {
		if !yield(p, b.inodes[inos[p]].Attr) {
			return
		}
	}
}
