package overlay

// DirReader walks the entries of a directory of a Tree, sorted by name. A small
// value: walking allocates nothing. Not safe for concurrent use.
type DirReader struct {
	t      *Tree
	merged []child
	l      Layer
	base   NodeID // layer bits of a directory of one layer
	lo, hi Ent
	pos    uint64
}

// Dir opens a directory. A node that is no directory is empty.
func (t *Tree) Dir(dir NodeID) (DirReader, error) {
	if dir.Merged() {
		c, err := t.children(dir)
		return DirReader{t: t, merged: c}, err
	}
	l := t.layers[dir.Layer()]
	lo, hi, err := l.Children(dir.Ino())
	return DirReader{t: t, l: l, base: dir &^ (1<<32 - 1), lo: lo, hi: hi}, err
}

// Seek continues the walk at a position that Next returned; 0 is the start.
func (d *DirReader) Seek(pos uint64) { d.pos = pos }

// Next returns the next entry, and the position to Seek to for the one after it.
func (d *DirReader) Next() (name string, n NodeID, pos uint64, ok bool) {
	if d.l == nil {
		if d.pos >= uint64(len(d.merged)) {
			return "", 0, d.pos, false
		}
		c := d.merged[d.pos]
		d.pos++
		return d.t.name(c), c.node, d.pos, true
	}
	for d.pos < uint64(d.hi-d.lo) {
		s, i, f := d.l.Entry(d.lo + Ent(d.pos))
		d.pos++
		if f&EntWhiteout == 0 {
			return s, d.base | NodeID(i), d.pos, true
		}
	}
	return "", 0, d.pos, false
}
