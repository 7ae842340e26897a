package overlay

import (
	"bytes"
	"cmp"
	"fmt"
	"hash/crc32"
	"slices"
)

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
	body := len(w.inodes) + len(w.entries) + len(w.arena) + len(w.xattrs)
	blocks := (body + blockSize - 1) / blockSize
	out := make([]byte, headerSize, headerSize+body+blocks*sumSize+len(meta))
	copy(out, magic)
	le.PutUint32(out[8:], formatNum)
	for i, n := range []int{len(w.queue), len(w.entries) / entrySize, len(w.arena), len(w.xattrs), len(meta)} {
		le.PutUint32(out[16+4*i:], uint32(n))
	}
	for _, s := range [][]byte{w.inodes, w.entries, w.arena, w.xattrs} {
		out = append(out, s...)
	}
	out = append(appendSums(out, out[headerSize:]), meta...)
	le.PutUint32(out[12:], headerSum(out, body))
	return out
}

// appendSums appends the checksums of a body's blocks.
func appendSums(b, body []byte) []byte {
	for block := range slices.Chunk(body, blockSize) {
		b = le.AppendUint32(b, crc32.Checksum(block, castagnoli))
	}
	return b
}
