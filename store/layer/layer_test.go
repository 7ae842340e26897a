package layer

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	digest "github.com/opencontainers/go-digest"
	"github.com/vbatts/tar-split/tar/asm"
	"github.com/vbatts/tar-split/tar/storage"

	"imagefs/overlay"
	"imagefs/store"
	"imagefs/store/storetest"
)

var when = time.Date(2024, 5, 6, 7, 8, 9, 0, time.UTC)

// makeTar packs headers; content is by name.
func makeTar(t testing.TB, hdrs []tar.Header, content map[string][]byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range hdrs {
		if h.Typeflag == tar.TypeReg {
			h.Size = int64(len(content[h.Name]))
		}
		if h.ModTime.IsZero() {
			h.ModTime = when
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := w.Write(content[h.Name]); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// unpacked is a layer on disk with everything that belongs to it.
type unpacked struct {
	dir   *os.File
	split []byte
	spill *os.File
	index *Mapped
	tar   []byte
	u     *Unpacked
}

func unpack(t testing.TB, raw []byte, lower *unpacked, unpriv bool) (*unpacked, error) {
	t.Helper()
	if !unpriv {
		storetest.NeedRoot(t)
	}
	path := filepath.Join(t.TempDir(), "diff")
	if err := os.Mkdir(path, 0o755); err != nil {
		t.Fatal(err)
	}
	dir, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dir.Close() })
	spill, err := os.CreateTemp(t.TempDir(), "spill")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { spill.Close() })
	var split bytes.Buffer
	u, err := Unpack(context.Background(), bytes.NewReader(raw), UnpackOptions{Dst: dir, Split: &split, Spill: spill, Unprivileged: unpriv})
	if err != nil {
		return nil, err
	}
	defer u.Close()
	if u.DiffID != digest.FromBytes(raw) || u.TarSize != int64(len(raw)) {
		t.Fatalf("diff ID %s size %d", u.DiffID, u.TarSize)
	}
	var tree *overlay.Tree
	var open func(overlay.NodeID) (store.File, error)
	if lower != nil {
		if tree, err = overlay.Merge(lower.index); err != nil {
			t.Fatal(err)
		}
		open = func(n overlay.NodeID) (store.File, error) { return Open(lower.dir, lower.index, n.Ino()) }
	}
	if err := u.Settle(context.Background(), tree, open); err != nil {
		return nil, err
	}
	ix, err := u.Index()
	if err != nil {
		return nil, err
	}
	m, err := ReadIndex(ix)
	if err != nil {
		t.Fatal(err)
	}
	return &unpacked{dir: dir, split: split.Bytes(), spill: spill, index: m, tar: raw, u: u}, nil
}

func mustUnpack(t testing.TB, raw []byte, lower *unpacked) *unpacked {
	t.Helper()
	u, err := unpack(t, raw, lower, false)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func nameOf(l overlay.Layer, e overlay.Ent) string {
	name, _, _ := l.Entry(e)
	return name
}

// lines describes a layer, one line an entry.
func lines(l overlay.Layer, noBlocks bool) []string {
	var out []string
	var walk func(p string, i overlay.Ino)
	walk = func(p string, i overlay.Ino) {
		lo, hi, _ := l.Children(i)
		for e := lo; e < hi; e++ {
			name, c, f := l.Entry(e)
			a := l.Stat(c)
			a.Flags &^= overlay.FlagImplied
			if noBlocks {
				a.Blocks = 0
			}
			if f&overlay.EntWhiteout != 0 {
				if e+1 < hi && nameOf(l, e+1) == name {
					continue // on disk the addition stands alone
				}
				a = overlay.Attr{}
			}
			var x []string
			l.Xattrs(c, func(n string, v []byte) bool { x = append(x, fmt.Sprintf("%s=%x", n, v)); return true })
			out = append(out, fmt.Sprintf("%s/%s %d %+v %s %v", p, name, f, a, l.Readlink(c), x))
			if f == 0 {
				walk(p+"/"+name, c)
			}
		}
	}
	a := l.Stat(0)
	a.Flags &^= overlay.FlagImplied
	out = append(out, fmt.Sprintf("/ %+v", a))
	walk("", 0)
	return out
}

func sameLines(t *testing.T, what string, got, want []string) {
	t.Helper()
	for i := range max(len(got), len(want)) {
		g, w := "-", "-"
		if i < len(got) {
			g = got[i]
		}
		if i < len(want) {
			w = want[i]
		}
		if g != w {
			t.Fatalf("%s: line %d\n got %s\nwant %s", what, i, g, w)
		}
	}
}

// checkTar compares every way to get the tar back with the tar.
func checkTar(t *testing.T, u *unpacked) {
	t.Helper()
	src := TarSource{
		Split: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(u.split)), nil },
		Dir:   u.dir, Spill: u.spill,
		Temp: func() (*os.File, error) { return os.CreateTemp(t.TempDir(), "map") },
	}
	f, err := OpenTar(src)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if n, err := SplitSize(bytes.NewReader(u.split)); err != nil || n != int64(len(u.tar)) || f.Size() != n {
		t.Fatalf("size %d, %d, want %d: %v", n, f.Size(), len(u.tar), err)
	}
	h := sha256.New()
	if _, err := io.Copy(h, io.NewSectionReader(f, 0, f.Size())); err != nil {
		t.Fatal(err)
	}
	if digest.NewDigest(digest.SHA256, h) != u.u.DiffID {
		t.Fatal("the tar differs when read in sequence")
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		off := rng.Int64N(f.Size())
		b := make([]byte, rng.IntN(9000))
		n, err := f.ReadAt(b, off)
		if want := u.tar[off:min(off+int64(len(b)), f.Size())]; n != len(want) || !bytes.Equal(b[:n], want) || n < len(b) != (err == io.EOF) {
			t.Fatalf("read %d at %d: %d bytes, %v", len(b), off, n, err)
		}
	}
}

// checkStock has the tar-split library put the tar together.
func checkStock(t *testing.T, u *unpacked) {
	t.Helper()
	var out bytes.Buffer
	err := asm.WriteOutputTarStream(storage.NewPathFileGetter(u.dir.Name()), storage.NewJSONUnpacker(bytes.NewReader(u.split)), &out)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(out.Bytes(), u.tar) {
		t.Fatal("tar-split's own assembler gives another tar")
	}
}

func reg(name string, mode int64) tar.Header {
	return tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode}
}

func dir(name string, mode int64) tar.Header {
	return tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: mode}
}

func base() ([]tar.Header, map[string][]byte) {
	big := make([]byte, 300<<10)
	for i := range big {
		big[i] = byte(i * 7)
	}
	return []tar.Header{
			dir("./", 0o755), dir("etc/", 0o2750),
			{Typeflag: tar.TypeReg, Name: "etc/passwd", Mode: 0o644, Uid: 5, Gid: 70000},
			{Typeflag: tar.TypeReg, Name: "usr/bin/su", Mode: 0o4755, PAXRecords: map[string]string{
				"SCHILY.xattr.security.capability": "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
				"SCHILY.xattr.user.note":           "hi", "SCHILY.xattr.trusted.overlay.opaque": "y"}},
			reg("usr/big", 0o600), reg("empty", 0o444),
			{Typeflag: tar.TypeLink, Name: "usr/hard", Linkname: "usr/big"},
			{Typeflag: tar.TypeSymlink, Name: "usr/lnk", Linkname: "../etc", Uid: 3},
			{Typeflag: tar.TypeFifo, Name: "run/pipe", Mode: 0o622},
			{Typeflag: tar.TypeChar, Name: "dev/null", Mode: 0o666, Devmajor: 1, Devminor: 3},
			{Typeflag: tar.TypeBlock, Name: "dev/big", Mode: 0o660, Devmajor: 259, Devminor: 70000, ModTime: time.Unix(-5, 0)},
			{Typeflag: tar.TypeReg, Name: "frac", Mode: 0o644, ModTime: time.Unix(1700000000, 123456789), Format: tar.FormatPAX},
			dir("d", 0o711), reg("d/one", 0o644), reg("d/two", 0o644),
		}, map[string][]byte{"etc/passwd": []byte("root:x\n"), "usr/bin/su": []byte("elf"), "usr/big": big,
			"frac": []byte("f"), "d/one": []byte("1"), "d/two": []byte("22")}
}

func TestUnpackAgreesWithDisk(t *testing.T) {
	hdrs, content := base()
	low := mustUnpack(t, makeTar(t, hdrs, content), nil)
	up := mustUnpack(t, makeTar(t, []tar.Header{
		reg("usr/.wh.big", 0), dir("d/", 0o700), reg("d/.wh..wh..opq", 0), reg("d/new", 0o644),
		reg(".wh.run", 0), reg("run/file", 0o600), reg(".wh.empty", 0), reg("empty", 0o640),
		{Typeflag: tar.TypeLink, Name: "copy1", Linkname: "etc/passwd"},
		{Typeflag: tar.TypeLink, Name: "copy2", Linkname: "etc/passwd"},
		{Typeflag: tar.TypeLink, Name: "fwd", Linkname: "later"}, reg("later", 0o644),
		{Typeflag: tar.TypeChar, Name: "frac", Mode: 0},
		reg("etc/deep/x", 0o600), reg(".wh.gone/below", 0o644),
	}, map[string][]byte{"d/new": []byte("n"), "empty": []byte("not"), "later": []byte("late"), "run/file": []byte("r"), ".wh.gone/below": []byte("zzz")}), low)
	for n, u := range map[string]*unpacked{"low": low, "up": up} {
		b, err := Scan(context.Background(), u.dir, Limits{})
		if err != nil {
			t.Fatal(err)
		}
		raw, err := EncodeIndex(b, Meta{})
		if err != nil {
			t.Fatal(err)
		}
		m, err := ReadIndex(raw)
		if err != nil {
			t.Fatal(err)
		}
		sameLines(t, n, lines(u.index, true), lines(m, true))
		checkTar(t, u)
		checkStock(t, u)
	}
	b, err := ScanSplit(context.Background(), bytes.NewReader(low.split), nil, Limits{})
	if err != nil {
		t.Fatal(err)
	}
	for p, mode := range map[string]uint32{"etc": 0o042750, "usr/bin/su": 0o104755, "dev/null": 0o020666} {
		if a, _, ok := b.Find(p, false); !ok || a.Mode != mode {
			t.Errorf("%s: mode %o", p, a.Mode)
		}
	}
	for _, p := range []string{"copy1", "copy2", "fwd", "etc/deep/x"} {
		if _, err := os.Lstat(filepath.Join(up.dir.Name(), p)); err != nil {
			t.Error(err)
		}
	}
	c1, _ := os.Stat(filepath.Join(up.dir.Name(), "copy1"))
	c2, _ := os.Stat(filepath.Join(up.dir.Name(), "copy2"))
	if !os.SameFile(c1, c2) {
		t.Error("two links to one lower file became two files")
	}
}

func TestDuplicatesKeepTheTar(t *testing.T) {
	raw := makeTar(t, []tar.Header{reg("a", 0o644), reg("d/x", 0o644), reg("d/y", 0o600)},
		map[string][]byte{"a": []byte("first a"), "d/x": []byte("content x"), "d/y": []byte("y")})
	raw = raw[:len(raw)-1024]
	raw = append(raw, makeTar(t, []tar.Header{reg("a", 0o600), reg("d", 0o644), {Typeflag: tar.TypeSymlink, Name: "l", Linkname: "/etc"}, reg("l/f", 0o644)},
		map[string][]byte{"a": []byte("second a, longer"), "d": []byte("now a file"), "l/f": []byte("in")})...)
	u := mustUnpack(t, append(raw, "trailing rubbish"...), nil)
	checkTar(t, u)
	for p, want := range map[string]string{"a": "second a, longer", "d": "now a file", "l/f": "in"} {
		if got, err := os.ReadFile(filepath.Join(u.dir.Name(), p)); err != nil || string(got) != want {
			t.Errorf("%s: %q %v", p, got, err)
		}
	}
	if !u.u.Spilled {
		t.Error("nothing was spilled")
	}
}

func TestOpaqueRoot(t *testing.T) {
	hdrs, content := base()
	low := mustUnpack(t, makeTar(t, hdrs, content), nil)
	up := mustUnpack(t, makeTar(t, []tar.Header{reg(".wh..wh..opq", 0), reg("etc/x", 0o644)}, map[string][]byte{"etc/x": []byte("x")}), low)
	tree, err := overlay.Merge(low.index, up.index)
	if err != nil {
		t.Fatal(err)
	}
	d, _ := tree.Dir(tree.Root())
	if name, _, _, ok := d.Next(); !ok || name != "etc" {
		t.Fatalf("first name %q", name)
	}
	if name, _, _, ok := d.Next(); ok {
		t.Fatalf("%q shows through an opaque root", name)
	}
	if st, err := os.Lstat(filepath.Join(up.dir.Name(), "usr")); err != nil || st.Mode()&os.ModeCharDevice == 0 {
		t.Errorf("no whiteout on disk for usr: %v %v", st, err)
	}
}

func TestUnprivileged(t *testing.T) {
	hdrs, content := base()
	u, err := unpack(t, makeTar(t, hdrs, content), nil, true)
	if err != nil {
		t.Fatal(err)
	}
	p := mustUnpack(t, u.tar, nil)
	sameLines(t, "index", lines(u.index, true), lines(p.index, true))
	checkTar(t, u)
	if _, err := os.Lstat(filepath.Join(u.dir.Name(), "dev/null")); !errors.Is(err, os.ErrNotExist) {
		t.Error("a device was made")
	}
}

func TestHostile(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "outside")
	for name, hdrs := range map[string][]tar.Header{
		"dotdot":          {reg("a/../../x", 0o644)},
		"link out":        {{Typeflag: tar.TypeLink, Name: "x", Linkname: "../../etc/passwd"}},
		"link to nothing": {{Typeflag: tar.TypeLink, Name: "x", Linkname: "etc/passwd"}},
		"link to dir":     {dir("d", 0o755), {Typeflag: tar.TypeLink, Name: "x", Linkname: "d"}},
		"whiteout dot":    {reg(".wh..", 0)},
		"whiteout none":   {reg("a/.wh.", 0)},
		"root file":       {reg("./.", 0o644)},
		"long name":       {reg(strings.Repeat("n", 256), 0o644)},
		"long path":       {reg(strings.Repeat("n/", 2100)+"x", 0o644)},
		"owner":           {{Typeflag: tar.TypeReg, Name: "x", Uid: 1 << 33, Format: tar.FormatGNU}},
		"link loop":       {{Typeflag: tar.TypeLink, Name: "x", Linkname: "y"}, {Typeflag: tar.TypeLink, Name: "y", Linkname: "x"}},
		"target below":    {reg("d/f", 0o644), {Typeflag: tar.TypeLink, Name: "d", Linkname: "d/f"}},
	} {
		_, err := unpack(t, makeTar(t, hdrs, map[string][]byte{"d/f": []byte("x")}), nil, false)
		if !errors.Is(err, store.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
	u := mustUnpack(t, makeTar(t, []tar.Header{{Typeflag: tar.TypeSymlink, Name: "esc", Linkname: outside}, reg("esc/f", 0o644), reg("/abs", 0o644)},
		map[string][]byte{"esc/f": []byte("f"), "/abs": []byte("x")}), nil)
	if _, err := os.Lstat(outside); err == nil {
		t.Error("something was written outside")
	}
	if _, ok, _ := treeOf(t, u).Walk("abs"); !ok {
		t.Error("an absolute name is not beneath the root")
	}
	raw := makeTar(t, []tar.Header{reg("f", 0o644)}, map[string][]byte{"f": make([]byte, 5000)})
	if _, err := unpack(t, raw[:2000], nil, false); !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("truncated: %v", err)
	}
	big := bytes.Clone(raw)
	copy(big[124:], "77777777777\x00")
	if _, err := unpack(t, big, nil, false); !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("absurd size: %v", err)
	}
}

func treeOf(t testing.TB, us ...*unpacked) *overlay.Tree {
	var ls []overlay.Layer
	for _, u := range us {
		ls = append(ls, u.index)
	}
	tr, err := overlay.Merge(ls...)
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

func TestLimits(t *testing.T) {
	raw := makeTar(t, []tar.Header{reg("a", 0o644), reg("b", 0o644)}, nil)
	for _, lim := range []Limits{{Entries: 1}, {Size: 600}} {
		dir := t.TempDir()
		f, _ := os.Open(dir)
		defer f.Close()
		if _, err := Unpack(context.Background(), bytes.NewReader(raw), UnpackOptions{Dst: f, Split: io.Discard, Limits: lim, Unprivileged: os.Geteuid() != 0}); !errors.Is(err, store.ErrTooLarge) {
			t.Errorf("%+v: %v", lim, err)
		}
	}
}

func TestOpenChecksTheFile(t *testing.T) {
	u := mustUnpack(t, makeTar(t, []tar.Header{reg("f", 0o644), reg("d/g", 0o644)}, map[string][]byte{"f": []byte("hello"), "d/g": []byte("gg")}), nil)
	n, _, _ := treeOf(t, u).Walk("f")
	f, err := Open(u.dir, u.index, n.Ino())
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 9)
	if k, err := f.ReadAt(b, 0); k != 5 || err != io.EOF || f.Size() != 5 {
		t.Fatal(k, err)
	}
	f.Close()
	p := filepath.Join(u.dir.Name(), "f")
	for what, c := range map[string]struct {
		do   func() error
		want error
	}{
		"other size":    {func() error { return os.WriteFile(p, []byte("longer than"), 0o644) }, store.ErrCorrupt},
		"symbolic link": {func() error { os.Remove(p); return os.Symlink("/etc/passwd", p) }, store.ErrCorrupt},
		"gone":          {func() error { return os.Remove(p) }, store.ErrGone},
	} {
		os.Remove(p)
		os.WriteFile(p, []byte("hello"), 0o644)
		if err := c.do(); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(u.dir, u.index, n.Ino()); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", what, err)
		}
	}
	g, _, _ := treeOf(t, u).Walk("d/g")
	os.RemoveAll(filepath.Join(u.dir.Name(), "d"))
	os.Symlink("/etc", filepath.Join(u.dir.Name(), "d"))
	if _, err := Open(u.dir, u.index, g.Ino()); !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("directory replaced by a link: %v", err)
	}
}

// FuzzUnpack feeds hostile tars: whatever is in them, the tar that comes back is the same, and nothing is outside.
func FuzzUnpack(f *testing.F) {
	hdrs, content := base()
	content["usr/big"] = content["usr/big"][:600]
	f.Add(makeTar(f, hdrs, content))
	f.Add(makeTar(f, []tar.Header{reg(".wh..wh..opq", 0), reg("a", 0o644), reg("a", 0o600)}, map[string][]byte{"a": []byte("x")}))
	for _, raw := range hugeMembers(f) {
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if len(raw) > 64<<10 {
			return
		}
		top := t.TempDir()
		u, err := unpackIn(t, filepath.Join(top, "diff"), raw)
		names, _ := os.ReadDir(top)
		if len(names) > 1 {
			t.Fatalf("outside the layer: %v", names)
		}
		if err != nil {
			if !errors.Is(err, store.ErrCorrupt) && !errors.Is(err, store.ErrTooLarge) && !isSystem(err) {
				t.Fatalf("unclassified: %v", err)
			}
			return
		}
		fl, err := OpenTar(TarSource{Split: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(u.split)), nil }, Dir: u.dir, Spill: u.spill,
			Temp: func() (*os.File, error) { return os.CreateTemp(t.TempDir(), "map") }})
		if err != nil {
			t.Fatal(err)
		}
		defer fl.Close()
		got, err := io.ReadAll(io.NewSectionReader(fl, 0, fl.Size()))
		if err != nil || !bytes.Equal(got, raw) {
			t.Fatalf("tar differs: %v", err)
		}
	})
}
