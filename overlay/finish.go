package overlay

import "fmt"

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

// SetTime changes the modification time of a path that is there.
func (b *Builder) SetTime(path string, sec int64, nsec uint32) error {
	i := uint32(0)
	if path != "" {
		k, ok := b.lookup(path)
		if !ok || b.names[k].state != alive {
			return fmt.Errorf("%.200q is not in the layer: %w", path, ErrName)
		}
		i = b.names[k].ino
	}
	b.inodes[i].Sec, b.inodes[i].Nsec = sec, min(nsec, 1e9-1)
	return nil
}

// resolve gives each hard link that came before its target an inode. A target
// may be such a link too: the chain is followed once.
func (b *Builder) resolve() error {
	onChain := make([]bool, len(b.links))
	var chain []int
	var byIno map[uint32]uint32
	for first := range b.links {
		if !b.waiting(first) {
			continue
		}
		chain = chain[:0]
		ino, ok := uint32(0), false
		for l := first; ; {
			chain = append(chain, l)
			onChain[l] = true
			t, found := b.lookup(b.links[l].target)
			if !found {
				break
			}
			if n := &b.names[t]; n.state == alive {
				ino, ok = n.ino, b.inodes[n.ino].Mode&typeMask != modeDir
				break
			} else if l = int(n.ino); onChain[l] {
				break
			}
		}
		for _, l := range chain {
			onChain[l] = false
			if ok {
				n := &b.names[b.links[l].name]
				n.state, n.ino = alive, ino
			}
		}
		if ok {
			continue
		}
		if byIno == nil {
			byIno = b.dirNames()
		}
		// One that no path leads to counts for nothing; but a path led to its target.
		if _, reached := b.path(b.links[first].name, byIno); reached || len(chain) > 1 {
			l := b.links[chain[len(chain)-1]]
			return fmt.Errorf("hard link %.200q to %.200q: %w", b.nameOf(&b.names[l.name]), l.target, ErrNoTarget)
		}
	}
	return nil
}
