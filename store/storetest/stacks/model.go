package stacks

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Node is what there is at a path.
type Node struct {
	Entry
	Nlink    int // of anything but a directory: its names in its own layer
	Children map[string]*Node

	implied, opaque bool
	white           map[string]bool // names that are hidden in lower layers
	pending         bool            // a hard link whose target has not come
	index           int             // of the entry
}

func newDir() *Node {
	return &Node{Entry: Entry{Type: 'd', Mode: 0o755}, Children: map[string]*Node{}, white: map[string]bool{}}
}

// badEntry is an entry that makes a layer illegal.
type badEntry struct {
	index int
	why   string
}

func (e *badEntry) Error() string { return fmt.Sprintf("entry %d: %s", e.index, e.why) }

// View returns what layers 0…n-1 look like together; n is 1 at least.
func (s Stack) View(n int) *Node {
	var view *Node
	for i := range n {
		next, err := apply(view, s[i].Entries)
		if err != nil {
			panic(err) // New makes legal layers only
		}
		view = next
	}
	return view
}

// Walk calls visit with each path below a node, parents first, in no order.
func (n *Node) Walk(visit func(p string, n *Node)) { n.walk("", visit) }

func (n *Node) walk(p string, visit func(string, *Node)) {
	visit(p, n)
	for name, c := range n.Children {
		c.walk(strings.TrimPrefix(p+"/"+name, "/"), visit)
	}
}

func split(p string) (dir, base string) {
	i := strings.LastIndexByte(p, '/')
	return p[:max(i, 0)], p[i+1:]
}

// dir finds a directory of a layer under construction; what is in its way goes.
func (n *Node) dir(p string) *Node {
	for s := range strings.SplitSeq(p, "/") {
		if s == "" {
			continue
		}
		c := n.Children[s]
		if c == nil || c.Type != 'd' || c.pending {
			c = newDir()
			c.implied = true
			n.Children[s] = c
		}
		n = c
	}
	return n
}

func (n *Node) at(p string) *Node {
	for s := range strings.SplitSeq(p, "/") {
		if n == nil || s == "" {
			return n
		}
		n = n.Children[s]
	}
	return n
}

// apply puts a layer on top of a view, nil for the lowest: first it hides, then it adds.
func apply(lower *Node, entries []Entry) (*Node, error) {
	root := newDir()
	root.implied = true
	var newest Entry
	for i, e := range entries {
		if e.Sec < 0 {
			e.Sec, e.Nsec = 0, 0 // as Docker has it
		}
		if e.Type != 'w' && e.Type != 'o' && e.Type != 's' && (e.Sec > newest.Sec || e.Sec == newest.Sec && e.Nsec > newest.Nsec) {
			newest.Sec, newest.Nsec = e.Sec, e.Nsec
		}
		if err := add(root, i, e); err != nil {
			return nil, err
		}
	}
	if err := resolve(root, lower); err != nil {
		return nil, err
	}
	root.count()
	return merge(lower, root, newest), nil
}

func add(root *Node, i int, e Entry) error {
	dir, base := split(e.Path)
	if e.Type == 's' {
		return nil
	}
	if e.Type == 'o' {
		root.dir(e.Path).opaque = true
		return nil
	}
	if e.Path == "" {
		root.Entry, root.implied = keep(e), false
		return nil
	}
	if e.Type == 'h' {
		return addLink(root, i, e)
	}
	parent := root.dir(dir)
	switch old := parent.Children[base]; {
	case e.Type == 'w':
		parent.white[base] = true
	case e.Type == 'd' && old != nil && old.Type == 'd' && !old.pending:
		old.Entry, old.implied = keep(e), false
	case e.Type == 'd':
		d := newDir()
		d.Entry = keep(e)
		parent.Children[base] = d
	default:
		parent.Children[base] = &Node{Entry: keep(e)}
	}
	return nil
}

func addLink(root *Node, i int, e Entry) error {
	dir, base := split(e.Path)
	target := clean(e.Link)
	switch {
	case target == e.Path:
		return nil
	case target == "":
		return &badEntry{i, "a link to the root"}
	case strings.HasPrefix(target, e.Path+"/"), strings.HasPrefix(e.Path, target+"/"):
		return &badEntry{i, "a link in the way of its target"}
	}
	t := root.at(target)
	if t != nil && t.Type == 'd' && !t.pending {
		return &badEntry{i, "a link to a directory"}
	}
	parent := root.dir(dir)
	if t != nil && !t.pending {
		parent.Children[base] = t
	} else {
		parent.Children[base] = &Node{Entry: e, pending: true, index: i}
	}
	return nil
}

// keep drops the attributes that Linux does not let a file of that type have.
func keep(e Entry) Entry {
	e.Xattrs = maps.Clone(e.Xattrs)
	for name := range e.Xattrs {
		user := strings.HasPrefix(name, "user.")
		switch {
		case strings.HasPrefix(name, "trusted."), strings.HasPrefix(name, "user.overlay."):
			delete(e.Xattrs, name) // they would steer overlayfs
		case user && e.Type != 'f' && e.Type != 'd':
			delete(e.Xattrs, name)
		}
	}
	if e.Type == 'l' {
		e.Mode = 0o777
	}
	if a := e.Xattrs["system.posix_acl_access"]; a != "" {
		// The kernel gives the owner's, the mask's and the others' rights to the mode.
		e.Mode = e.Mode&^0o777 | uint32(a[6])<<6 | uint32(a[30])<<3 | uint32(a[38])
	}
	return e
}

// resolve gives the links that waited their inodes: from their own layer first,
// then, as a copy, from below.
func resolve(root, lower *Node) error {
	copies := map[*Node]*Node{} // what is below → its copy
	var one func(p string, seen map[string]bool) (*Node, error)
	one = func(p string, seen map[string]bool) (*Node, error) {
		n := root.at(p)
		if n != nil && !n.pending {
			return n, nil
		}
		if n == nil {
			low := lower.at(p)
			if low == nil {
				return nil, nil
			}
			if copies[low] == nil && low.Type != 'd' {
				c := *low
				copies[low] = &c
			}
			return copies[low], nil
		}
		if seen[p] {
			return nil, &badEntry{n.index, "a loop of links"}
		}
		seen[p] = true
		t, err := one(clean(n.Link), seen)
		if err != nil {
			return nil, err
		}
		if t == nil || t.Type == 'd' {
			return nil, &badEntry{n.index, "a link to nothing"}
		}
		dir, base := split(p)
		root.at(dir).Children[base] = t
		return t, nil
	}
	var waiting []string
	root.Walk(func(p string, n *Node) {
		if n.pending {
			waiting = append(waiting, p)
		}
	})
	slices.Sort(waiting)
	for _, p := range waiting {
		if _, err := one(p, map[string]bool{}); err != nil {
			return err
		}
	}
	return nil
}

// count sets the link counts of a layer.
func (n *Node) count() {
	n.Walk(func(_ string, c *Node) { c.Nlink = 0 })
	n.Walk(func(_ string, c *Node) { c.Nlink++ })
}

// merge puts a layer's directory over what is below it; lower may be nil.
func merge(lower, up *Node, newest Entry) *Node {
	out := newDir()
	below := lower != nil && lower.Type == 'd'
	switch {
	case !up.implied:
		out.Entry = up.Entry
	case below:
		out.Entry = lower.Entry
	default:
		out.Sec, out.Nsec = newest.Sec, newest.Nsec
	}
	if below && !up.opaque {
		for name, c := range lower.Children {
			if !up.white[name] {
				out.Children[name] = c
			}
		}
	}
	for name, c := range up.Children {
		if c.Type == 'd' {
			c = merge(out.Children[name], c, newest)
		}
		out.Children[name] = c
	}
	return out
}
