package layer

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"imagefs/overlay"
	"imagefs/store"
)

func link(name, target string) tar.Header {
	return tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target}
}

func symlink(name, target string) tar.Header {
	return tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target}
}

// show says what a path of a merged tree is: "-" for nothing, a letter for the
// type, the permissions, and the content of a file or the target of a link.
func show(t *testing.T, tree *overlay.Tree, us []*unpacked, path string) string {
	t.Helper()
	n, ok, err := tree.Walk(path)
	if err != nil {
		t.Fatal(err)
	}
	if !ok {
		return "-"
	}
	switch a := tree.Attr(n); a.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return fmt.Sprintf("d %o", a.Mode&0o7777)
	case unix.S_IFLNK:
		return "l " + tree.Readlink(n)
	case unix.S_IFREG:
		u := us[n.Layer()]
		f, err := Open(u.dir, u.index, n.Ino())
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		b, err := io.ReadAll(io.NewSectionReader(f, 0, f.Size()))
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("f %o %s", a.Mode&0o7777, b)
	default:
		return fmt.Sprintf("%o", a.Mode)
	}
}

// Container engines disagree about all of these. The layer is refused where it
// is dangerous, and else shown as the OCI image spec (layer.md) has it.
func TestWhereEnginesDisagree(t *testing.T) {
	content := map[string][]byte{}
	for _, n := range []string{"a", "d/x", "low/f", "first", "second", "keep", "ld/n", "new", "d/new", "t/x"} {
		content[n] = []byte(n)
	}
	lower := []tar.Header{dir("./", 0o700), reg("a", 0o644), dir("d", 0o711), reg("d/x", 0o600), dir("t", 0o755), reg("t/x", 0o644),
		reg("low/f", 0o640), symlink("ld", "t"), reg("keep", 0o644)}
	for name, c := range map[string]struct {
		upper   []tar.Header
		refused bool
		want    map[string]string
	}{
		"hard link to a file that only the lower layer has": {
			[]tar.Header{link("h1", "low/f"), link("h2", "./low/f")}, false,
			map[string]string{"h1": "f 640 low/f", "h2": "f 640 low/f", "low/f": "f 640 low/f"}},
		"hard link to a file that the layer hides below": {
			[]tar.Header{reg(".wh.a", 0), link("b", "a")}, false,
			map[string]string{"a": "-", "b": "f 644 a"}},
		"hard link to a symbolic link below": {
			[]tar.Header{link("h", "ld")}, false, map[string]string{"h": "l t"}},
		"hard link to a later entry": {
			[]tar.Header{link("h", "first"), reg("first", 0o604)}, false,
			map[string]string{"h": "f 604 first", "first": "f 604 first"}},
		"hard link to a later entry rather than to what is below": {
			[]tar.Header{link("h", "a"), reg("a", 0o604)}, false, map[string]string{"h": "f 604 a"}},
		"hard links to a link that waits": {
			[]tar.Header{link("h1", "h2"), link("h2", "h3"), link("h3", "low/f")}, false,
			map[string]string{"h1": "f 640 low/f", "h2": "f 640 low/f", "h3": "f 640 low/f"}},
		"hard link to nothing":             {[]tar.Header{link("h", "none")}, true, nil},
		"hard link to a directory":         {[]tar.Header{link("h", "d")}, true, nil},
		"hard link to the layer's root":    {[]tar.Header{link("h", "./")}, true, nil},
		"hard link to a link to itself":    {[]tar.Header{link("h", "i"), link("i", "h")}, true, nil},
		"hard link out of the layer":       {[]tar.Header{link("h", "../a")}, true, nil},
		"hard link below its own target":   {[]tar.Header{reg("a", 0o644), link("a/h", "a")}, true, nil},
		"hard link in place of its parent": {[]tar.Header{reg("d/new", 0o644), link("d", "d/new")}, true, nil},
		"one path twice: the last": {
			[]tar.Header{reg("first", 0o644), dir("first", 0o750), reg("keep", 0o600), symlink("keep", "x"), dir("e", 0o755), reg("e/f", 0o644), reg("e", 0o601)}, false,
			map[string]string{"first": "d 750", "keep": "l x", "e": "f 601 ", "e/f": "-"}},
		"whiteout, then a directory of its name": {
			[]tar.Header{reg(".wh.d", 0), dir("d", 0o755), reg("d/new", 0o644)}, false,
			map[string]string{"d": "d 755", "d/x": "-", "d/new": "f 644 d/new"}},
		"directory, then a whiteout of its name": {
			[]tar.Header{dir("d", 0o755), reg("d/new", 0o644), reg(".wh.d", 0)}, false,
			map[string]string{"d": "d 755", "d/x": "-", "d/new": "f 644 d/new"}},
		"file, then a whiteout of its name": {
			[]tar.Header{reg("a", 0o604), reg(".wh.a", 0)}, false, map[string]string{"a": "f 604 a"}},
		"whiteout, then a file of its name": {
			[]tar.Header{reg(".wh.a", 0), reg("a", 0o604)}, false, map[string]string{"a": "f 604 a"}},
		"whiteout of nothing":       {[]tar.Header{reg(".wh.", 0)}, true, nil},
		"whiteout of .":             {[]tar.Header{reg("d/.wh..", 0)}, true, nil},
		"whiteout of ..":            {[]tar.Header{reg("d/.wh...", 0)}, true, nil},
		"whiteout of what is not":   {[]tar.Header{reg(".wh.none", 0)}, false, map[string]string{"none": "-", "a": "f 644 a"}},
		"opaque root, at the end":   {[]tar.Header{reg("d/new", 0o644), reg(".wh..wh..opq", 0)}, false, map[string]string{"a": "-", "t": "-", "d/x": "-", "d/new": "f 644 d/new"}},
		"opaque root, at the start": {[]tar.Header{reg(".wh..wh..opq", 0), reg("d/new", 0o644)}, false, map[string]string{"a": "-", "t": "-", "d/x": "-", "d/new": "f 644 d/new"}},
		"mode of the root entry":    {[]tar.Header{dir(".", 0o751)}, false, map[string]string{"": "d 751", "a": "f 644 a"}},
		"no root entry":             {[]tar.Header{reg("new", 0o644)}, false, map[string]string{"": "d 700"}},
		"character device 0:0 is a whiteout": {
			[]tar.Header{{Typeflag: tar.TypeChar, Name: "a"}, {Typeflag: tar.TypeChar, Name: "d"}}, false,
			map[string]string{"a": "-", "d": "-", "d/x": "-", "keep": "f 644 keep"}},
		"overlayfs's xattrs never come from a tar": {
			[]tar.Header{{Typeflag: tar.TypeDir, Name: "d", Mode: 0o755, PAXRecords: map[string]string{
				"SCHILY.xattr.trusted.overlay.opaque": "y", "SCHILY.xattr.user.overlay.opaque": "y", "SCHILY.xattr.trusted.overlay.redirect": "/t"}}}, false,
			map[string]string{"d": "d 755", "d/x": "f 600 d/x"}},
		"a name that leads out":             {[]tar.Header{reg("../x", 0o644)}, true, nil},
		"a name that leads out after a way": {[]tar.Header{reg("d/../../x", 0o644)}, true, nil},
		"a name that stays in":              {[]tar.Header{reg("d/../new", 0o644)}, false, map[string]string{"d/x": "f 600 d/x", "new": "f 644 "}},
		"an absolute name":                  {[]tar.Header{reg("/d/./y", 0o644)}, false, map[string]string{"d/y": "f 644 "}},
		"names that AUFS kept for itself":   {[]tar.Header{dir(".wh..wh.plnk", 0o700), reg(".wh..wh.aufs", 0o400)}, false, map[string]string{".wh..wh.plnk": "d 700", ".wh..wh.aufs": "f 400 "}},
		"whiteouts that are directories":    {[]tar.Header{dir(".wh.d", 0o755), reg(".wh.d/x", 0o644), reg(".wh.d/y/.wh.z", 0)}, false, map[string]string{"d": "-", ".wh.d": "-", "d/x": "-"}},
		"something below a link of a lower layer": {
			[]tar.Header{reg("ld/n", 0o644)}, false,
			map[string]string{"ld": "d 755", "ld/n": "f 644 ld/n", "t/n": "-", "t/x": "f 644 t/x"}},
		"something below a link of the same layer": {
			[]tar.Header{symlink("sl", "t"), reg("sl/n", 0o644)}, false,
			map[string]string{"sl": "d 755", "sl/n": "f 644 ", "t/n": "-"}},
		"something below a file of a lower layer": {
			[]tar.Header{reg("a/b", 0o644)}, false, map[string]string{"a": "d 755", "a/b": "f 644 "}},
		"opaque directory without an entry": {
			[]tar.Header{reg("d/.wh..wh..opq", 0), reg("d/new", 0o644)}, false,
			map[string]string{"d": "d 711", "d/x": "-", "d/new": "f 644 d/new"}},
		"new directory without an entry where one is hidden": {
			[]tar.Header{reg(".wh.d", 0), reg("d/new", 0o644)}, false, map[string]string{"d": "d 755", "d/x": "-"}},
	} {
		t.Run(name, func(t *testing.T) {
			low := mustUnpack(t, makeTar(t, lower, content), nil)
			up, err := unpack(t, makeTar(t, c.upper, content), low, false)
			if c.refused {
				if !errors.Is(err, store.ErrCorrupt) {
					t.Fatalf("not refused: %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			us := []*unpacked{low, up}
			tree := treeOf(t, us...)
			for p, want := range c.want {
				if got := show(t, tree, us, p); got != want {
					t.Errorf("%q is %q, want %q", p, got, want)
				}
			}
			checkTar(t, up)
		})
	}
}

// TestOverlayXattrsStayOut looks at the disk: what steers the kernel must not be there.
func TestOverlayXattrsStayOut(t *testing.T) {
	u := mustUnpack(t, makeTar(t, []tar.Header{{Typeflag: tar.TypeDir, Name: "d", Mode: 0o755, PAXRecords: map[string]string{
		"SCHILY.xattr.trusted.overlay.opaque": "y", "SCHILY.xattr.trusted.overlay.redirect": "/t", "SCHILY.xattr.trusted.overlay.metacopy": "",
		"SCHILY.xattr.user.overlay.whiteout": "y", "SCHILY.xattr.system.overlay": "x", "SCHILY.xattr.user.ok": "1"}}}, nil), nil)
	buf := make([]byte, 4096)
	n, err := unix.Llistxattr(filepath.Join(u.dir.Name(), "d"), buf)
	if err != nil || string(buf[:n]) != "user.ok\x00" {
		t.Errorf("%q %v", buf[:max(n, 0)], err)
	}
}

// TestTimesThatTheFileSystemCannotKeep: the index says what the disk says.
func TestTimesThatTheFileSystemCannotKeep(t *testing.T) {
	far := when.AddDate(7000, 0, 0)
	hdrs := []tar.Header{reg("f", 0o644), dir("d", 0o755), dir("./", 0o755), symlink("l", "x")}
	for i := range hdrs {
		hdrs[i].ModTime, hdrs[i].Format = far, tar.FormatPAX
	}
	u := mustUnpack(t, makeTar(t, hdrs, nil), nil)
	for _, p := range []string{"", "f", "d", "l"} {
		st, err := os.Lstat(filepath.Join(u.dir.Name(), p))
		if err != nil {
			t.Fatal(err)
		}
		tree := treeOf(t, u)
		n, _, _ := tree.Walk(p)
		if a := tree.Attr(n); a.Sec != st.ModTime().Unix() {
			t.Errorf("%q: %d, on disk %d", p, a.Sec, st.ModTime().Unix())
		}
	}
}
