package overlay

import "strings"

// By is what made a path go.
type By uint8

// The ways in which a layer deletes a path.
const (
	ByWhiteout    By = iota + 1 // a whiteout of the path, or of a directory above it
	ByOpaque                    // an opaque directory above it
	ByReplacement               // something that is no directory, at the place of a directory above it
)

// String names the way.
func (b By) String() string {
	return [...]string{"", "whiteout", "opaque directory", "replaced directory"}[b]
}

// Step is what one layer does to one path.
type Step struct {
	Layer int    // from the bottom, from 0
	Op    byte   // 'A' added, 'C' changed, 'D' deleted
	What  What   // of 'C': in what, as far as the index tells: see Trace
	By    By     // of 'D'
	At    string // of 'D': the path that the layer has instead, of the whiteout, the opaque directory or the replacement
	Ino   Ino    // of 'A' and 'C': the inode in the layer
}

// Trace tells what the layers, the lowest first, do to a path, which is
// relative and cleaned, "" for the root. Symbolic links are not followed. There
// is a step for each layer that has the path, or that hides what lower ones
// have; none for a directory that a layer only implies and that is there
// already. If the last step is no 'D', its layer is where the merged tree has
// the path from; without a step no layer ever had it.
//
// Content is not read: of a file that comes again with the same size What does
// not have DiffContent, and it can be 0; see What.Undecided. What is compared with
// is the step before.
//
// The layers are looked into along the path only; nothing is merged.
func Trace(layers []Layer, path string) ([]Step, error) {
	var names []string
	if path != "" {
		names = strings.Split(path, "/")
	}
	var out []Step
	var now struct { // what the layers so far have at the path
		there bool
		layer Layer
		ino   Ino
	}
	for k, l := range layers {
		at, err := follow(l, names)
		if err != nil {
			return nil, err
		}
		switch {
		case !at.has:
			if now.there && at.by != 0 {
				out = append(out, Step{Layer: k, Op: 'D', By: at.by, At: strings.Join(names[:at.depth], "/")})
				now.there = false
			}
			continue
		case !now.there:
			out = append(out, Step{Layer: k, Op: 'A', Ino: at.ino})
		case at.by == 0 && isDir(l, at.ino) && l.Stat(at.ino).Flags&(FlagImplied|FlagOpaque) == FlagImplied &&
			isDir(now.layer, now.ino) && now.layer.Stat(now.ino).Flags&FlagImplied == 0:
			continue // the merged directory keeps the attributes that it has
		default:
			out = append(out, Step{Layer: k, Op: 'C', What: diffInodes(now.layer, now.ino, l, at.ino), Ino: at.ino})
		}
		now.there, now.layer, now.ino = true, l, at.ino
	}
	return out, nil
}

// place is what one layer has to do with a path.
type place struct {
	has   bool // the layer has the path, as ino
	ino   Ino
	by    By  // what hides lower layers' path, 0 for nothing
	depth int // how many names of the path lead to that
}

func follow(l Layer, names []string) (p place, err error) {
	hide := func(by By, depth int) {
		if p.by == 0 {
			p.by, p.depth = by, depth
		}
	}
	for n, name := range names {
		if !isDir(l, p.ino) {
			hide(ByReplacement, n)
			return p, nil
		}
		if l.Stat(p.ino).Flags&FlagOpaque != 0 {
			hide(ByOpaque, n)
		}
		_, i, whiteout, ok, err := find(l, p.ino, name)
		if err != nil {
			return p, err
		}
		if whiteout {
			hide(ByWhiteout, n+1)
		}
		if !ok {
			return p, nil
		}
		p.ino = i
	}
	p.has = true
	return p, nil
}

func isDir(l Layer, i Ino) bool { return l.Stat(i).Mode&typeMask == modeDir }
