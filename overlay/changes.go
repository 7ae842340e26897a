package overlay

import (
	"cmp"
	"slices"
)

// Changes tells what a layer does to the tree below it; lower is nil for the
// lowest layer. It calls yield with
//
//	A  for each path that is new, those inside a new directory too
//	C  for each path that the layer has and that was there before
//	D  for each path that a whiteout or an opaque directory hides, without what was below it
//
// sorted bytewise by path, with a leading "/", until yield returns false. The
// root itself is no change.
func Changes(lower *Tree, l Layer, yield func(op byte, path string) bool) error {
	c := changes{lower: lower, l: l, yield: yield}
	_, err := c.dir("", 0, lower != nil, rootOf(lower), false)
	return err
}

func rootOf(t *Tree) NodeID {
	if t == nil {
		return 0
	}
	return t.Root()
}

type changes struct {
	lower *Tree
	l     Layer
	yield func(op byte, path string) bool
}

// event is a line to print (op), or a directory to go into (op 0). Its key is
// the name, with a "/" behind it for going in: so "a.b" comes before what is in "a".
type event struct {
	key   string
	op    byte
	ino   Ino
	below bool // the lower tree has a directory there
	low   NodeID
}

// dir handles one directory of the layer; below tells whether low is a directory
// of the lower tree, opaque that the layer hides all that is in it.
func (c *changes) dir(path string, i Ino, below bool, low NodeID, opaque bool) (more bool, err error) {
	opaque = opaque || c.l.Stat(i).Flags&FlagOpaque != 0
	lo, hi, err := c.l.Children(i)
	if err != nil {
		return false, err
	}
	var evs []event
	for e := lo; e < hi; e++ {
		name, ino, f := c.l.Entry(e)
		var was NodeID
		had := false
		if below {
			if was, had, err = c.lower.Lookup(low, name); err != nil {
				return false, err
			}
		}
		if f&EntWhiteout != 0 {
			added := false
			if e+1 < hi {
				next, _, _ := c.l.Entry(e + 1)
				added = next == name
			}
			if had && !added {
				evs = append(evs, event{key: name, op: 'D'})
			}
			continue
		}
		op := byte('A')
		if had {
			op = 'C'
		}
		evs = append(evs, event{key: name, op: op})
		if c.l.Stat(ino).Mode&typeMask == modeDir {
			sub := had && c.lower.Attr(was).Mode&typeMask == modeDir
			evs = append(evs, event{key: name + "/", ino: ino, below: sub, low: was})
		}
	}
	if below && opaque {
		if evs, err = c.hidden(evs, i, low); err != nil {
			return false, err
		}
	}
	slices.SortFunc(evs, func(x, y event) int { return cmp.Compare(x.key, y.key) })
	for _, ev := range evs {
		p := path + "/" + ev.key
		if ev.op != 0 {
			if !c.yield(ev.op, p) {
				return false, nil
			}
			continue
		}
		if more, err := c.dir(p[:len(p)-1], ev.ino, ev.below, ev.low, opaque); !more || err != nil {
			return false, err
		}
	}
	return true, nil
}

// hidden adds what an opaque directory hides and does not bring itself.
func (c *changes) hidden(evs []event, i Ino, low NodeID) ([]event, error) {
	d, err := c.lower.Dir(low)
	if err != nil {
		return nil, err
	}
	for {
		name, _, _, ok := d.Next()
		if !ok {
			return evs, nil
		}
		_, _, whiteout, added, err := find(c.l, i, name)
		if err != nil {
			return nil, err
		}
		if !added && !whiteout {
			evs = append(evs, event{key: name, op: 'D'})
		}
	}
}
