package fusefs_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"imagefs/fusefs"
	"imagefs/store"
)

func TestDiffNames(t *testing.T) { bothModes(t, testDiffNames) }

func testDiffNames(t *testing.T, o fusefs.Options) {
	s := newStore(t)
	base := layerTar(t, "f=1")
	a := load(t, s, "a", []string{"a:1", "team/app:v1", "x:1", "x:1..a"}, base, layerTar(t, "g=1")).Encoded()
	b := load(t, s, "b", []string{"b:latest", "a:2"}, base, layerTar(t, "g=2"), layerTar(t, "h=3")).Encoded()
	dir := mount(t, s, o)
	if got := list(t, dir, "diff"); got != "" {
		t.Errorf("diff lists %q", got)
	}
	for name, want := range map[string]string{
		a + ".." + b:                         "",
		a + "@0.." + b + "@1":                "",
		a + ".." + a:                         "",
		"a:1..a:2":                           a + ".." + b,
		"a:1..b":                             a + ".." + b,
		"team+app:v1..docker.io+library+b":   a + ".." + b,
		a[:12] + ".." + b:                    a + ".." + b,
		a[:63] + ".." + b[:12]:               a + ".." + b,
		"sha256:" + a + "..sha256:" + b[:13]: a + ".." + b,
		"a:1@0..a:2@1":                       a + "@0.." + b + "@1",
		"a:1@1..a:2@2":                       a + ".." + b, // all of the layers
		a + "@1.." + b + "@02":               a + ".." + b,
		a + "@00.." + b:                      a + "@0.." + b,
		"x:1..a..b":                          a + ".." + b,
		"b..x:1..a":                          b + ".." + a,
		"a:1..a:1":                           a + ".." + a,
	} {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(dir, "diff", name), &st); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		to, _ := os.Readlink(filepath.Join(dir, "diff", name))
		if isLink := st.Mode&unix.S_IFMT == unix.S_IFLNK; to != want || isLink != (want != "") || isLink && st.Size != int64(len(to)) {
			t.Errorf("%s leads to %q, %d bytes, want %q", name, to, st.Size, want)
		}
		if err := unix.Stat(filepath.Join(dir, "diff", name), &st); err != nil || want != "" && st.Ino != stat(t, dir, "diff", want).Ino {
			t.Errorf("%s is another directory, %v", name, err)
		}
	}
	for _, name := range []string{"a:1", "a:1..", "..a:1", "a:1..c:1", "a:1.a:2", "a:1@2..b", "a:1@..b", "a:1@-1..b", "a:1@99999999999999999999..b",
		a[:11] + ".." + b, strings.ToUpper(a[:12]) + ".." + b, a + "..." + b, "a:1..a/2", strings.Repeat("0", 64) + ".." + b, strings.Repeat(".", 255)} {
		if _, err := os.Lstat(filepath.Join(dir, "diff", name)); !errors.Is(err, unix.ENOENT) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// By the grammar of references no name can be read as two pairs.
func TestDiffNamesAreClear(t *testing.T) {
	const letters, most = "a1:.", 8
	valid := map[string]bool{}
	var all []string
	for level := []string{""}; len(level[0]) < most; {
		var next []string
		for _, s := range level {
			for _, c := range letters {
				next = append(next, s+string(c))
			}
		}
		// A side of the longest has two letters less, and to ask takes most of the time.
		for _, s := range next {
			if len(s) <= most-2 {
				_, err := store.FamiliarTag(s)
				valid[s] = err == nil
			}
		}
		level = next
		all = append(all, next...)
	}
	pairs := 0
	for _, s := range all {
		n := 0
		for i := range s {
			if strings.HasPrefix(s[i:], "..") && valid[s[:i]] && valid[s[i+2:]] {
				n++
			}
		}
		if pairs += n; n > 1 {
			t.Errorf("%q can be read in %d ways", s, n)
		}
	}
	if pairs < 1000 {
		t.Errorf("%d pairs only", pairs)
	}
}

func TestDiffTree(t *testing.T) { bothModes(t, testDiffTree) }

func testDiffTree(t *testing.T, o fusefs.Options) {
	s := newStore(t)
	big := strings.Repeat("0123456789abcdef", 20_000)
	base := layerTar(t, "d/", "d/f=1", "d/moved=same", "gone/", "gone/x=x", "kept=k")
	load(t, s, "a", []string{"a:1"}, base, layerTar(t, "turns/", "turns/in=1", "d/old=1"))
	load(t, s, "b", []string{"a:2"}, base, layerTar(t, ".wh.gone", "d/f=2", "d/moved=same", "turns=file",
		"new/", "new/sub/", "new/sub/big="+big, "new/link->sub/big", "new/hard~new/sub/big"))
	dir := mount(t, s, o)
	pair := filepath.Join(dir, "diff/a:1..a:2")
	for path, want := range map[string]string{
		"":              "added/ changed/ changes deleted/ summary",
		"added":         "new/",
		"added/new":     "hard link sub/",
		"added/new/sub": "big",
		"changed":       "d/ turns",
		"changed/d":     "f",
		"deleted":       "d/ gone/ turns/",
		"deleted/d":     "old",
		"deleted/gone":  "x",
		"deleted/turns": "in",
	} {
		if got := list(t, pair, path); got != want {
			t.Errorf("%s lists %q, want %q", path, got, want)
		}
	}
	for path, want := range map[string]string{
		"changes": "C /d/f (content)\nD /d/old\nD /gone\nD /gone/x\nA /new\nA /new/hard\nA /new/link\nA /new/sub\nA /new/sub/big\n" +
			"C /turns (type)\nD /turns/in\n",
		"summary":           "added 5 paths 320000 bytes\ndeleted 4 paths 3 bytes\nchanged 2 paths 5 bytes\ngrowth 320001 bytes\n",
		"added/new/sub/big": big,
		"added/new/link":    big,
		"changed/d/f":       "2",
		"changed/turns":     "file",
		"deleted/turns/in":  "1",
	} {
		got := text(t, pair, path)
		if got != want {
			t.Errorf("%s is %.300q, want %.300q", path, got, want)
		}
		if st := stat(t, pair, path); st.Mode&unix.S_IFMT == unix.S_IFREG && st.Size != int64(len(want)) {
			t.Errorf("%s: st_size %d of %d", path, st.Size, len(want))
		}
	}
	one, two := filepath.Join(dir, "images/a/1/rootfs"), filepath.Join(dir, "images/a/2/rootfs")
	for path, is := range map[string]string{"added/new/hard": two + "/new/sub/big", "changed/d/f": two + "/d/f", "deleted/turns/in": one + "/turns/in"} {
		if x, y := stat(t, pair, path), stat(t, is); x.Ino != y.Ino || x.Nlink != y.Nlink {
			t.Errorf("%s is inode %d with %d links, in the image %d with %d", path, x.Ino, x.Nlink, y.Ino, y.Nlink)
		}
	}
	seen := map[uint64]string{}
	for _, d := range []string{two + "/new", two + "/d", pair + "/added/new", pair + "/changed/d", pair + "/deleted/d", pair + "/added", pair + "/changed", pair + "/deleted", pair} {
		if st := stat(t, d); seen[st.Ino] != "" {
			t.Errorf("%s and %s are one inode", d, seen[st.Ino])
		} else {
			seen[st.Ino] = d
		}
	}
	for path, want := range map[string]string{"changed/d/f": "1", "deleted/gone/x": "0", "deleted/gone": "0"} {
		value := make([]byte, 100)
		if n, err := unix.Lgetxattr(filepath.Join(pair, path), "user.imagefs.layer", value); err != nil || string(value[:max(n, 0)]) != want {
			t.Errorf("%s is of layer %q, %v, want %s", path, value[:max(n, 0)], err, want)
		}
	}
	for _, path := range []string{"added/d", "added/turns", "changed/new", "deleted/kept", "error", "nothing"} {
		_, err := os.Lstat(filepath.Join(pair, path))
		wantErr(t, path, err, unix.ENOENT)
	}
	for _, path := range []string{"changes", "added/new/sub/big"} {
		if _, err := os.OpenFile(filepath.Join(pair, path), os.O_WRONLY, 0); err == nil {
			t.Errorf("%s can be written", path)
		}
	}
	if got := text(t, dir, "diff/a:2..a:2/changes"); got != "" {
		t.Errorf("an image and itself: %q", got)
	}
	if got := list(t, dir, "diff/a:2..a:2/added"); got != "" {
		t.Errorf("an image and itself, added: %q", got)
	}
}

// A tag that is moved shows in the links at once; a removed image takes its pairs with it.
func TestDiffChanges(t *testing.T) { bothTransports(t, testDiffChanges) }

func testDiffChanges(t *testing.T, o fusefs.Options) {
	s := newStore(t)
	base := layerTar(t, "d/", "d/f=1")
	one := load(t, s, "a", []string{"a:1"}, base)
	two := load(t, s, "b", []string{"a:2"}, base, layerTar(t, "d/two=2"))
	dir := mount(t, s, o)
	path := filepath.Join(dir, "diff/a:1..a:2")
	if got := text(t, path, "changes"); got != "A /d/two\n" {
		t.Errorf("changes %q", got)
	}
	if err := command(dir, "tag", "a:1 a:2"); err != nil {
		t.Fatal(err)
	}
	if got := text(t, path, "changes"); got != "" {
		t.Errorf("after the retag: %q", got)
	}
	real := filepath.Join(dir, "diff", one.Encoded()+".."+two.Encoded())
	at, err := unix.Open(filepath.Join(real, "added/d"), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(at)
	if err := command(dir, "rmi", "-f "+two.String()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the pair goes", func() bool { _, err := os.Stat(real); return errors.Is(err, unix.ENOENT) })
	fd, err := unix.Openat(at, "never-seen", unix.O_RDONLY, 0)
	if err == nil {
		unix.Close(fd)
	}
	if !errors.Is(err, unix.ESTALE) && !errors.Is(err, unix.ENOENT) {
		t.Errorf("a directory of a removed pair: %v", err)
	}
	// The image comes back, and with it the pair as another directory.
	load(t, s, "b", []string{"a:2"}, base, layerTar(t, "d/two=2"))
	eventually(t, "return", func() bool {
		b, err := os.ReadFile(filepath.Join(real, "changes"))
		return err == nil && string(b) == "A /d/two\n"
	})
}

// A pair with a broken image says so, and fails where it is needed only.
func TestDiffBroken(t *testing.T) { bothModes(t, testDiffBroken) }

func testDiffBroken(t *testing.T, o fusefs.Options) {
	s := newStore(t)
	base := layerTar(t, "f=1")
	whole := load(t, s, "a", []string{"a:1"}, base)
	bad := load(t, s, "b", []string{"a:2"}, base, layerTar(t, "g=2"))
	if err := os.RemoveAll(filepath.Join(s.Root(), "image/overlay2/layerdb/sha256", chainOf(t, s, bad, 1))); err != nil {
		t.Fatal(err)
	}
	s = openStore(t, s.Root())
	dir := mount(t, s, o)
	pair := filepath.Join(dir, "diff/a:1..a:2")
	if got := list(t, pair); got != "added/ changed/ changes deleted/ error summary" {
		t.Errorf("lists %q", got)
	}
	if got := text(t, pair, "error"); !strings.HasPrefix(got, bad.Encoded()+": ") || strings.Count(got, "\n") != 1 || stat(t, pair, "error").Size != int64(len(got)) {
		t.Errorf("error: %q", got)
	}
	for _, file := range []string{"changes", "summary", "added", "deleted"} {
		_, err := os.Stat(filepath.Join(pair, file))
		wantErr(t, file, err, unix.EIO)
	}
	// What is whole of it can be compared.
	if got := text(t, dir, "diff/a:1..a:2@0/changes"); got != "" {
		t.Errorf("the whole layers: %q", got)
	}
	if got := list(t, dir, "diff", whole.Encoded()+".."+bad.Encoded()+"@0"); strings.Contains(got, "error") {
		t.Errorf("the whole layers list %q", got)
	}
}

// An image without layers can be compared too.
func TestDiffOfNothing(t *testing.T) {
	s := newStore(t)
	load(t, s, "a", []string{"empty:1"})
	load(t, s, "b", []string{"a:1"}, layerTar(t, "f=1"))
	dir := mount(t, s, fusefs.Options{})
	for pair, want := range map[string]string{"empty:1..a:1": "A /f\n", "a:1..empty:1": "D /f\n", "empty:1..empty:1": ""} {
		// What the root directory is like differs.
		got := strings.TrimPrefix(text(t, dir, "diff", pair, "changes"), "C / (time)\n")
		if got != want {
			t.Errorf("%s: %q", pair, got)
		}
		for _, part := range []string{"added", "changed", "deleted"} {
			if _, err := unix.Lgetxattr(filepath.Join(dir, "diff", pair, part), "user.imagefs.layer", make([]byte, 100)); err != nil && !errors.Is(err, unix.ENODATA) {
				t.Errorf("%s/%s: %v", pair, part, err)
			}
		}
	}
	if got := text(t, dir, "ctl/errors"); got != "" {
		t.Errorf("errors: %s", got)
	}
}

// In a store of several, its names are its own, and the directories those of all.
func TestDiffOfStores(t *testing.T) { bothModes(t, testDiffOfStores) }

func testDiffOfStores(t *testing.T, o fusefs.Options) {
	s := newTwoStores(t)
	dir := mount(t, s.all, o)
	a, b, same := s.ida.Encoded(), s.idb.Encoded(), s.shared.Encoded()
	for path, want := range map[string]string{
		"diff/both:x..same:1":                       a + ".." + same,
		"stores/first/diff/both:x..same:1":          "../../../diff/" + a + ".." + same,
		"stores/second/diff/both:x..same:1":         "../../../diff/" + b + ".." + same,
		"stores/second/diff/" + a + ".." + b:        "../../../diff/" + a + ".." + b,
		"stores/first/diff/app:1.." + b[:12] + "@0": "../../../diff/" + a + ".." + b + "@0",
	} {
		if to, err := os.Readlink(filepath.Join(dir, path)); err != nil || to != want {
			t.Errorf("%s leads to %q, %v, want %q", path, to, err, want)
		}
		if _, err := os.Stat(filepath.Join(dir, path, "changes")); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
	// The layer that both stores have is one, so nothing of it is compared.
	if got := text(t, dir, "diff/app:1..app:2/changes"); got != "C /etc/v (content)\n" {
		t.Errorf("changes %q", got)
	}
	for _, path := range []string{"stores/second/diff/app:1..app:2", "stores/first/diff/app:2..same:1"} {
		_, err := os.Lstat(filepath.Join(dir, path))
		wantErr(t, path, err, unix.ENOENT)
	}
	if got := list(t, dir, "stores/first/diff"); got != "" {
		t.Errorf("stores/first/diff lists %q", got)
	}
}
