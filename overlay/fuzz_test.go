package overlay

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
)

func FuzzCleanPath(f *testing.F) {
	for _, s := range []string{"", ".", "./", "/", "a/b", "./a//b/", "/../x", "a/../b", "a/../../b", "..", "a\x00b", strings.Repeat("n", 256), strings.Repeat("d/", 3000), "\xff/\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := CleanPath(s)
		if err != nil {
			if !errors.Is(err, ErrName) {
				t.Fatal(err)
			}
			return
		}
		if again, err := CleanPath(p); err != nil || again != p {
			t.Fatalf("%q becomes %q, that %q %v", s, p, again, err)
		}
		if len(p) > maxPath || strings.HasPrefix(p, "/") {
			t.Fatalf("%q", p)
		}
		for c := range strings.SplitSeq(p, "/") {
			if p != "" && (c == "" || c == "." || c == ".." || len(c) > maxName || strings.IndexByte(c, 0) >= 0) {
				t.Fatalf("%q has the component %q", p, c)
			}
		}
		if err := NewBuilder().Add(Entry{Path: p, Kind: Dir}); err != nil {
			t.Fatal(err)
		}
	})
}

func FuzzParseWhiteout(f *testing.F) {
	for _, s := range []string{".wh.a", ".wh.", ".wh..", ".wh...", ".wh..wh..opq", ".wh..wh.plnk", ".wh", "wh.a", ".wh.a/b", ".wh..wh.", ".wh.\x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		kind, name, err := ParseWhiteout(s)
		switch {
		case err != nil:
			if !errors.Is(err, ErrName) || kind != 0 {
				t.Fatal(kind, err)
			}
		case kind == Whiteout:
			if name == "" || name == "." || name == ".." || strings.Contains(name, "/") || WhiteoutPrefix+name != s {
				t.Fatalf("%q hides %q", s, name)
			}
		case kind == Opaque:
			if s != OpaqueName {
				t.Fatalf("%q is opaque", s)
			}
		case kind != 0:
			t.Fatal(kind)
		}
	})
}

// use asks an index for everything that it has.
func use(t *testing.T, x *Index) {
	t.Helper()
	var buf []byte
	names := 0
	for i := range Ino(x.Inodes()) {
		a := x.Stat(i)
		if a.Nsec >= 1e9 {
			t.Fatalf("inode %d: %d ns", i, a.Nsec)
		}
		x.Ref(i)
		x.Whiteout(i)
		names += len(x.Readlink(i))
		x.Xattrs(i, func(name string, v []byte) bool { names += len(name) + len(v); return true })
		if buf = x.Path(buf[:0], i); len(buf) > maxDepth*(maxName+1) {
			t.Fatalf("inode %d has a path of %d bytes", i, len(buf))
		}
		lo, hi, err := x.Children(i)
		if err != nil {
			t.Fatal(err)
		}
		for e := lo; e < hi; e++ {
			name, c, _ := x.Entry(e)
			if int(c) >= x.Inodes() || c == 0 || name == "" || strings.Contains(name, "/") {
				t.Fatalf("entry %d: %q, inode %d", e, name, c)
			}
		}
	}
	tree, err := Merge(x, x)
	if err != nil {
		t.Fatal(err)
	}
	dump(t, tree)
	if err := Changes(tree, x, func(byte, string) bool { return true }); err != nil {
		t.Fatal(err)
	}
}

// seal puts the checksums of an index right where its sections are as long as its header says.
func seal(index []byte) []byte {
	if len(index) < headerSize {
		return index
	}
	sizes := sectionSizes(index)
	body := sizes[0] + sizes[1] + sizes[2] + sizes[3]
	if headerSize+body+sizes[4] > uint64(len(index)) {
		return index
	}
	appendSums(index[:headerSize+body], index[headerSize:][:body]) // over those that are there
	le.PutUint32(index[12:], headerSum(index, int(body)))
	return index
}

// ask asks for everything about an inode that has no error to return.
func ask(x *Index, i Ino) {
	x.Stat(i)
	x.Ref(i)
	x.Whiteout(i)
	x.Readlink(i)
	x.Path(nil, i)
	x.Xattrs(i, func(string, []byte) bool { return true })
}

// FuzzOpenIndex changes bytes of an index, and puts the checksums right: what is
// then accepted must still be sound, and what is not must do no harm to who
// looks into it before all is checked.
func FuzzOpenIndex(f *testing.F) {
	x := seedIndex(f)
	f.Add(x, uint32(60), uint32(1), byte(0xff))
	for at := uint32(16); at < uint32(len(x)); at += 37 {
		f.Add(x, at, at+4, byte(1))
	}
	f.Add([]byte("imagefs\x00"), uint32(0), uint32(0), byte(0))
	f.Fuzz(func(t *testing.T, b []byte, i, j uint32, v byte) {
		b = bytes.Clone(b)
		if len(b) >= headerSize {
			b[int(i)%len(b)] ^= v
			b[int(j)%len(b)] += v
			copy(b, magic)
			le.PutUint32(b[8:], formatNum)
			seal(b)
		}
		x, err := OpenIndex(b)
		if err == nil {
			use(t, x)
		} else if !errors.Is(err, ErrCorrupt) {
			t.Fatal(err)
		}
		y, lazyErr := OpenIndexLazily(b)
		if lazyErr != nil {
			if err == nil || !errors.Is(lazyErr, ErrCorrupt) {
				t.Fatal(lazyErr, err)
			}
			return
		}
		if y.Inodes() > 10*len(b) {
			t.Fatalf("%d inodes in %d bytes", y.Inodes(), len(b))
		}
		for i := range Ino(y.Inodes()) {
			i = Ino(y.Inodes()) - 1 - i // the last first
			if lo, hi, err := y.Children(i); err == nil {
				for e := lo; e < hi; e++ {
					y.Entry(e)
				}
			} else if !errors.Is(err, ErrCorrupt) {
				t.Fatal(err)
			}
			ask(y, i)
		}
		if again := y.Check(); (again == nil) != (err == nil) {
			t.Fatal(again, err)
		}
	})
}

func seedIndex(t testing.TB) []byte {
	b := NewBuilder()
	for _, e := range []Entry{
		{Path: "d/x", Kind: File, Attr: Attr{Size: 5}, Ref: 7}, {Path: "l", Kind: Hardlink, Link: "d/x"},
		{Path: "s", Kind: Symlink, Link: "target", Xattrs: []Xattr{{"security.x", []byte("v")}}},
		{Path: "w", Kind: Whiteout}, {Path: "w", Kind: Dir}, {Path: "w/y", Kind: Fifo, Xattrs: []Xattr{{"a.b", nil}, {"a.c", []byte("vv")}}},
		{Path: "o", Kind: Opaque}, {Path: "o/c", Kind: Char, Attr: Attr{Rdev: 0x103}}, {Path: "gone", Kind: Whiteout},
	} {
		if err := b.Add(e); err != nil {
			t.Fatal(err)
		}
	}
	out, err := b.Finish([]byte("{}"))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// FuzzBuilder adds records that bytes stand for, a few names in many kinds, and
// compares what comes out with what the Builder said was in it.
func FuzzBuilder(f *testing.F) {
	f.Add([]byte("\x01\x02\x03\x04\x05\x06"))
	f.Add([]byte{8, 1, 2, 0, 1, 1, 1, 1, 1, 7, 1, 2})
	f.Add(bytes.Repeat([]byte{8, 0x11, 0x22, 1, 0x21, 0, 9, 0x12, 0}, 4))
	f.Fuzz(func(t *testing.T, ops []byte) {
		b := NewBuilder()
		path := func(c byte) string {
			p := fmt.Sprintf("%c", 'a'+c&3)
			for c >>= 2; c != 0; c >>= 2 {
				p += fmt.Sprintf("/%c", 'a'+c&3)
			}
			return p
		}
		for ; len(ops) >= 3; ops = ops[3:] {
			e := Entry{Kind: Kind(ops[0]%10 + 1), Path: path(ops[1]), Link: path(ops[2])}
			e.Size = uint64(ops[2])
			if ops[2]&1 != 0 {
				e.Xattrs = []Xattr{{"user." + path(ops[2]), ops[:1]}}
			}
			if err := b.Add(e); err != nil && e.Kind != Hardlink {
				t.Fatalf("%+v: %v", e, err)
			} else if err != nil {
				return
			}
		}
		var dirs []string
		b.Dirs(func(p string, a Attr, _ bool) bool {
			if found, _, ok := b.Find(p, false); !ok || found != a {
				t.Fatalf("directory %q: %+v %+v", p, a, found)
			}
			dirs = append(dirs, p)
			return true
		})
		out, err := b.Finish(nil)
		if err != nil {
			if !errors.Is(err, ErrNoTarget) {
				t.Fatal(err)
			}
			return
		}
		x, err := OpenIndex(out)
		if err != nil {
			t.Fatalf("made an index that is not accepted: %v", err)
		}
		use(t, x)
		tree, err := Merge(x)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range dirs {
			if n, ok, err := tree.Walk(p); !ok || err != nil || tree.Attr(n).Mode&typeMask != modeDir {
				t.Fatalf("directory %q is lost", p)
			}
		}
	})
}
