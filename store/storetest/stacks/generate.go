package stacks

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
)

// New makes a stack of one to six layers, the same for the same seed.
func New(seed uint64) Stack {
	g := &generator{r: rand.New(rand.NewPCG(seed, 0x6f646420746172))}
	var view *Node
	var s Stack
	for range 1 + g.r.IntN(6) {
		g.lower, g.known = nil, nil
		if view != nil {
			view.Walk(func(p string, _ *Node) { g.lower = append(g.lower, p) })
		}
		slices.Sort(g.lower)
		var l Layer
		for range 1 + g.r.IntN(45) {
			l.Entries = append(l.Entries, g.entry()...)
		}
		l.Entries = g.shuffleSome(l.Entries)
		view, l.Entries = g.legal(view, l.Entries)
		l.Tar = pack(g.r, l.Entries)
		s = append(s, l)
	}
	return s
}

type generator struct {
	r     *rand.Rand
	lower []string // paths of the layers below
	known []string // paths of this layer
}

// legal drops entries until the model takes the layer.
func (g *generator) legal(view *Node, es []Entry) (*Node, []Entry) {
	for {
		next, err := apply(view, es)
		if err == nil {
			return next, es
		}
		var bad *badEntry
		if !errors.As(err, &bad) {
			panic(err)
		}
		es = slices.Delete(es, bad.index, bad.index+1)
	}
}

// shuffleSome moves a few entries elsewhere: links before their targets,
// whiteouts behind what they stand beside.
func (g *generator) shuffleSome(es []Entry) []Entry {
	for range g.r.IntN(6) {
		from, to := g.r.IntN(len(es)), g.r.IntN(len(es))
		e := es[from]
		es = slices.Insert(slices.Delete(es, from, from+1), to, e)
	}
	return es
}

var names = []string{"a", "b", "c", "d", "e", "x.y", "a.b", "sub", "etc", "ä", "new\nline", "\xff\xfe", "sp ace", `back\slash`,
	strings.Repeat("n", 255), ".wh..wh.plnk", ".wh", "-rf", "*", "tab\t", "日本"}

func (g *generator) pick(from []string) string { return from[g.r.IntN(len(from))] }

func (g *generator) name() string {
	if g.r.IntN(4) > 0 {
		return names[g.r.IntN(6)]
	}
	return g.pick(names)
}

// path makes up a path or takes one that is there.
func (g *generator) path() string {
	switch n := g.r.IntN(10); {
	case n < 3 && len(g.lower) > 1:
		if p := g.pick(g.lower); p != "" {
			return p
		}
	case n < 5 && len(g.known) > 0:
		return g.pick(g.known)
	case n == 5 && len(g.known) > 0:
		return g.short(g.pick(g.known) + "/" + g.name())
	}
	depth := 1 + g.r.IntN(4)
	if g.r.IntN(60) == 0 {
		depth = 40 + g.r.IntN(100)
	}
	parts := make([]string, depth)
	for i := range parts {
		if parts[i] = g.name(); depth > 4 && len(parts[i]) > 20 {
			parts[i] = "z"
		}
	}
	return strings.Join(parts, "/")
}

func (g *generator) short(p string) string {
	if len(p) > 1000 {
		return "a"
	}
	return p
}

// spell writes a path as tars do.
func (g *generator) spell(p string, dir bool) string {
	switch g.r.IntN(8) {
	case 0:
		p = "./" + p
	case 1:
		p = "/" + p
	case 2:
		p = strings.Replace(p, "/", "//", 1)
	case 3:
		p = strings.Replace(p, "/", "/./", 1)
	}
	if dir && g.r.IntN(4) > 0 {
		p += "/"
	}
	return p
}

var modes = []uint32{0o644, 0o644, 0o600, 0o755, 0, 0o4755, 0o2755, 0o1777, 0o6711, 0o7777, 0o111, 0o500}

func (g *generator) attrs(e *Entry) {
	e.Mode = modes[g.r.IntN(len(modes))]
	ids := []int{0, 0, 1, 1000, 65534, 1 << 20, 1<<32 - 2}
	e.UID, e.GID = ids[g.r.IntN(len(ids))], ids[g.r.IntN(len(ids))]
	secs := []int64{0, 1, 1700000000, 1700000000 + g.r.Int64N(1000000), -1, -2000000000, 1<<31 - 1, 1 << 31, 1<<32 + 5, 1 << 33}
	e.Sec = secs[g.r.IntN(len(secs))]
	if g.r.IntN(2) == 0 {
		nsecs := []int64{1, 100, 120000000, 999999999, g.r.Int64N(1e9)}
		e.Nsec = nsecs[g.r.IntN(len(nsecs))]
	}
	if g.r.IntN(4) == 0 {
		e.Xattrs = map[string]string{}
		for range 1 + g.r.IntN(3) {
			k := g.pick([]string{"user.a", "user.b\xff", "user.empty", "user.long", "security.capability", "trusted.overlay.opaque", "user.overlay.opaque", "trusted.x"})
			e.Xattrs[k] = map[string]string{"user.empty": "", "user.long": strings.Repeat("v\n", 500), "trusted.overlay.opaque": "y",
				"user.overlay.opaque": "y", "security.capability": "\x01\x00\x00\x02\x00\x04\x00\x00" + strings.Repeat("\x00", 12)}[k]
			if v := e.Xattrs[k]; v == "" && k != "user.empty" {
				e.Xattrs[k] = "value\x00with NUL"
			}
		}
		if e.Type != 'f' {
			delete(e.Xattrs, "security.capability")
		}
		if k := g.r.IntN(8); k < 2 && (e.Type == 'f' || e.Type == 'd') {
			e.Xattrs["system.posix_acl_access"] = acl(7, 5, 4, 1)
			if k == 1 && e.Type == 'd' {
				e.Xattrs["system.posix_acl_default"] = acl(6, 0, 2, 0)
			}
		}
	}
}

// acl encodes an ACL: for the owner, for user 1000, the mask (and the group), for all others.
func acl(owner, user, mask, other byte) string {
	b := []byte{2, 0, 0, 0}
	for _, e := range [][2]byte{{1, owner}, {2, user}, {4, mask}, {16, mask}, {32, other}} {
		id := []byte{0xff, 0xff, 0xff, 0xff}
		if e[0] == 2 {
			id = []byte{0xe8, 3, 0, 0}
		}
		b = append(append(b, e[0], 0, e[1], 0), id...)
	}
	return string(b)
}

// entry makes the next entry, or a few that belong together.
func (g *generator) entry() []Entry {
	p := g.path()
	e := Entry{Path: p}
	switch n := g.r.IntN(100); {
	case n < 30:
		e.Type = 'f'
		e.Body = g.body()
	case n < 50:
		e.Type = 'd'
	case n < 51:
		e.Type, e.Path = 'd', ""
	case n < 58:
		e.Type = 'l'
		e.Link = g.pick([]string{"a", "../..", "/etc/passwd", "d/a", strings.Repeat("t", 255), "\xff\n", p})
	case n < 70:
		e.Type = 'h'
		e.Link = g.spell(g.path(), false)
	case n < 73:
		e.Type, e.Major, e.Minor = 'c', g.r.Int64N(1<<12), g.r.Int64N(1<<20)
		if g.r.IntN(4) == 0 {
			return g.done(g.whiteout(p, 'c'))
		}
	case n < 75:
		e.Type, e.Major, e.Minor = 'b', 8, g.r.Int64N(300)
	case n < 78:
		e.Type = 'p'
	case n < 81:
		e.Type, e.Form = 'f', "gx"[g.r.IntN(2)]
		e.Body = g.holes()
	case n < 90:
		return g.done(g.whiteout(p, "\x00\x00\x00d"[g.r.IntN(4)]))
	case n < 94:
		e = Entry{Type: 'o', Path: p, Name: g.spell(p+"/.wh..wh..opq", false)}
		if g.r.IntN(10) == 0 {
			e.Path, e.Name = "", ".wh..wh..opq"
		}
		return g.done(e)
	default:
		// A whiteout and what takes its place.
		e.Type = "fdlp"[g.r.IntN(4)]
		e.Link = "there"
		g.attrs(&e)
		e.Name = g.spell(p, e.Type == 'd')
		return g.done(g.whiteout(p, 0), e)
	}
	if e.Type != 'l' {
		g.attrs(&e)
	} else {
		e.Sec = 1600000000
	}
	e.Name = g.spell(e.Path, e.Type == 'd')
	return g.done(e)
}

func (g *generator) whiteout(p string, form byte) Entry {
	dir, base := split(p)
	if len(base) > 251 || strings.HasPrefix(base, ".wh.") {
		base = "a"
		p = strings.TrimPrefix(dir+"/a", "/")
	}
	e := Entry{Type: 'w', Path: p, Form: form, Name: g.spell(strings.TrimPrefix(dir+"/.wh."+base, "/"), form == 'd')}
	if form == 'c' {
		e.Name = g.spell(p, false)
	}
	return e
}

func (g *generator) done(es ...Entry) []Entry {
	for _, e := range es {
		if e.Path != "" && len(e.Path) < 3000 {
			g.known = append(g.known, e.Path)
		}
		if e.Type == 'w' && e.Form == 'd' {
			es = append(es, Entry{Type: 's', Name: strings.TrimSuffix(e.Name, "/") + "/below", Path: "below a whiteout", Body: []byte("nothing")})
		}
	}
	return es
}

func (g *generator) body() []byte {
	switch g.r.IntN(6) {
	case 0:
		return nil
	case 1:
		return make([]byte, 512*g.r.IntN(20))
	case 2:
		return bytes.Repeat([]byte(fmt.Sprintf("%d ", g.r.Uint64())), g.r.IntN(20000))
	}
	return fmt.Appendf(nil, "content %d", g.r.Uint64())
}

// holes makes the content of a sparse file: blocks of data with zeros between them and at the end.
func (g *generator) holes() []byte {
	var b []byte
	for range g.r.IntN(4) {
		b = append(b, make([]byte, 4096*g.r.IntN(30))...)
		b = append(b, bytes.Repeat([]byte{'s'}, 512*(1+g.r.IntN(9)))...)
	}
	return append(b, make([]byte, 512*g.r.IntN(100))...)
}
