package integration

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"imagefs/integration/harness"
	"imagefs/store/report"
	"imagefs/store/storetest"
	"imagefs/store/storetest/stacks"
)

// tree is a manifest by path.
type tree map[string]node

// side is one of the two trees that are compared, and the inodes of its paths.
type side struct {
	tree
	inodes map[string]uint64
}

func sideOf(t *testing.T, root string) side {
	t.Helper()
	s := side{treeOf(t, kernelManifest(t, root)), map[string]uint64{}}
	for path := range s.tree {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(root, path), &st); err != nil {
			t.Fatal(err)
		}
		s.inodes[path] = st.Ino
	}
	return s
}

// sum counts the files of some paths, each inode once.
type sum struct {
	bytes int
	seen  map[uint64]bool
}

func (s *sum) add(of side, path string) {
	n, i := of.tree[path], of.inodes[path]
	if n[0] != "f" || s.seen[i] {
		return
	}
	if s.seen == nil {
		s.seen = map[uint64]bool{}
	}
	s.seen[i] = true
	size, _ := strconv.Atoi(n[4])
	s.bytes += size
}

// taken is what all files take.
func (s side) taken() int {
	var all sum
	for path := range s.tree {
		all.add(s, path)
	}
	return all.bytes
}

// node is what a manifest says of a path: kind mode uid gid size mtime device
// links target xattrs content.
type node []string

func treeOf(t *testing.T, m harness.Manifest) tree {
	t.Helper()
	out := tree{}
	for _, line := range m {
		quoted, err := strconv.QuotedPrefix(line)
		if err != nil {
			t.Fatal(err)
		}
		path, _ := strconv.Unquote(quoted)
		n := strings.SplitN(strings.TrimPrefix(line[len(quoted):], " "), " ", 9)
		// The target is quoted; the names of xattrs can have anything in them, the content's digest cannot.
		target, err := strconv.QuotedPrefix(n[8])
		if err != nil {
			t.Fatal(err)
		}
		rest := n[8][len(target)+1:]
		sum := strings.LastIndexByte(rest, ' ')
		n = append(n[:8], target, rest[:sum], rest[sum+1:])
		out[path] = n
	}
	return out
}

// differences is what is not the same in two nodes, as plainly as it can be said.
func (n node) differences(o node) string {
	if n[0] != o[0] {
		return "type"
	}
	var out []string
	for _, c := range []struct {
		what   string
		fields []int
	}{{"type", []int{6}}, {"content", []int{4, 10}}, {"mode", []int{1}}, {"owner", []int{2, 3}}, {"time", []int{5}}, {"xattr", []int{9}}, {"link", []int{8}}} {
		if c.what == "content" && n[0] != "f" {
			continue
		}
		if slices.ContainsFunc(c.fields, func(i int) bool { return n[i] != o[i] }) {
			out = append(out, c.what)
		}
	}
	return strings.Join(out, ",")
}

// expected is what diff/<a>..<b>/ must have.
type expected struct {
	changes, summary string
	parts            map[string]harness.Manifest
}

// expect compares two trees path by path.
func expect(x, y side) expected {
	a, b := x.tree, y.tree
	var paths []string
	for p := range a {
		paths = append(paths, p)
	}
	for p := range b {
		if _, ok := a[p]; !ok {
			paths = append(paths, p)
		}
	}
	slices.SortFunc(paths, func(x, y string) int { return slices.Compare(strings.Split(x, "/"), strings.Split(y, "/")) })
	var changes strings.Builder
	count, bytes := map[string]int{}, map[string]*sum{"added": {}, "deleted": {}, "changed": {}}
	show := map[string]map[string]node{"added": {"/": b["/"]}, "changed": {"/": b["/"]}, "deleted": {"/": a["/"]}}
	for _, p := range paths {
		n, m := a[p], b[p]
		op, part, of, what, in := "C", "changed", y, "", b
		switch {
		case n == nil:
			op, part = "A", "added"
		case m == nil:
			op, part, of, in = "D", "deleted", x, a
		default:
			if what = n.differences(m); what == "" {
				continue
			}
			what = " (" + what + ")"
		}
		fmt.Fprintf(&changes, "%s %s%s\n", op, report.Path(p), what)
		count[part]++
		bytes[part].add(of, p)
		for up := p; up != "/" && up != ""; up = filepath.Dir(up) {
			show[part][up] = in[up]
		}
	}
	e := expected{changes: changes.String(), parts: map[string]harness.Manifest{}}
	for _, part := range []string{"added", "deleted", "changed"} {
		e.summary += fmt.Sprintf("%s %d paths %d bytes\n", part, count[part], bytes[part].bytes)
	}
	e.summary += fmt.Sprintf("growth %d bytes\n", y.taken()-x.taken())
	for part, nodes := range show {
		for p, n := range nodes {
			e.parts[part] = append(e.parts[part], fmt.Sprintf("%q %s", p, strings.Join(n, " ")))
		}
		slices.Sort(e.parts[part])
	}
	return e
}

// checkPair compares a directory of diff/ with what the plain comparison of two trees says.
func checkPair(t *testing.T, m *harness.Mount, name string, a, b side) {
	t.Helper()
	want := expect(a, b)
	if got := m.Read(t, "diff", name, "changes"); got != want.changes {
		t.Errorf("%s/changes:\n%s\nwant:\n%s", name, got, want.changes)
	}
	if got := m.Read(t, "diff", name, "summary"); got != want.summary {
		t.Errorf("%s/summary:\n%s\nwant:\n%s", name, got, want.summary)
	}
	for part, w := range want.parts {
		harness.Same(t, name+"/"+part, w, kernelManifest(t, m.Path("diff", name, part)))
	}
}

// diffCommand runs imagefs diff, and returns what it prints and its exit code.
func diffCommand(t *testing.T, s harness.Imagefs, args ...string) (string, int) {
	t.Helper()
	out, err := s.Cmd(t, append([]string{"diff"}, args...)...).Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return string(out), exit.ExitCode()
	}
	if err != nil {
		t.Fatal(err)
	}
	return string(out), 0
}

// stackImages are images of layers as odd as they can be, that have some of them in common.
func stackImages(seed uint64) []storetest.Image {
	x, y := stacks.New(seed).Tars(), stacks.New(seed+1000).Tars()
	mixed := append(slices.Clone(x[:(len(x)+1)/2]), y...)
	// The same files once more, from other layers.
	twice := append([][]byte{storetest.Files("only-here=x")}, x...)
	return []storetest.Image{{Names: []string{"a:1"}, Layers: x}, {Names: []string{"b/b:1"}, Layers: mixed}, {Names: []string{"c:1"}, Layers: twice}}
}

// Pairs of random images differ in the tree as the kernel's overlay mounts of
// their layers do, and the command says the same.
func TestCompareLikeKernel(t *testing.T) {
	harness.Need(t, "root", "/dev/fuse")
	for seed := range *oracleSeeds / 4 {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			s := harness.NewStore(t)
			name := filepath.Join(t.TempDir(), "images.tar")
			if err := os.WriteFile(name, storetest.Docker(stackImages(seed)...).Tar(), 0o644); err != nil {
				t.Fatal(err)
			}
			s.Run(t, "load", "-q", "-i", name)
			s.Transport = []string{"", "dev"}[seed%2]
			if seed%4 == 1 {
				// Another program's store: layers are read as they are looked into.
				copied := filepath.Join(t.TempDir(), "copy")
				harness.Run(t, "cp", "-a", s.Store, copied)
				if err := os.RemoveAll(filepath.Join(copied, "imagefs")); err != nil {
					t.Fatal(err)
				}
				s.Store = copied
			}
			var flags []string
			if seed%3 == 0 {
				flags = append(flags, "--read-only")
			}
			comparePairs(t, s, s.Mount(t, flags...))
		})
	}
}

// comparePairs compares all pairs of a store's images, and each with its own lower layers.
func comparePairs(t *testing.T, s harness.Imagefs, m *harness.Mount) {
	t.Helper()
	found := harness.ReadRoot(t, s.Store)
	sides := map[string]side{}
	for _, img := range found {
		id := strings.TrimPrefix(img.ID, "sha256:")
		if len(img.Dirs) == 0 || img.AnyRoot {
			continue
		}
		sides[id] = sideOf(t, harness.KernelMount(t, img.Dirs...))
		if n := len(img.Dirs) / 2; n > 0 {
			sides[fmt.Sprintf("%s@%d", id, n-1)] = sideOf(t, harness.KernelMount(t, img.Dirs[:n]...))
		}
	}
	for a, x := range sides {
		for b, y := range sides {
			name := a + ".." + b
			checkPair(t, m, name, x, y)
			changes := m.Read(t, "diff", name, "changes")
			mirrored := []byte(m.Read(t, "diff", b+".."+a, "changes"))
			for i, c := range mirrored {
				if i == 0 || mirrored[i-1] == '\n' {
					mirrored[i] = map[byte]byte{'A': 'D', 'D': 'A', 'C': 'C'}[c]
				}
			}
			if string(mirrored) != changes {
				t.Errorf("%s..%s is not the mirror:\n%s\nof:\n%s", b, a, mirrored, changes)
			}
			if a > b {
				continue // what the command prints of the mirror is known
			}
			out, code := diffCommand(t, s, a, b)
			if want := min(len(changes), 1); out != changes || code != want {
				t.Errorf("imagefs diff %s: exit %d, %q\nchanges: %q", name, code, out, changes)
			}
			if out, _ := diffCommand(t, s, "--stat", a, b); out != m.Read(t, "diff", name, "summary") {
				t.Errorf("imagefs diff --stat %s: %s", name, out)
			}
			if a == b && changes != "" {
				t.Errorf("%s: %s", name, changes)
			}
		}
	}
}

// Real images differ as the kernel's overlay mounts of them do, and in the same
// way in the archive that they came in, read in place.
func TestCompareFixtures(t *testing.T) {
	harness.Need(t, "root", "/dev/fuse")
	archives := fixtureArchives(t)
	s := harness.NewStore(t)
	var places []string
	for _, name := range []string{"da-docker1809-alpine310.tar.gz", "da-docker1809-busybox-14layers.tar"} {
		if archives[name] == "" {
			t.Fatalf("no fixture %s", name)
		}
		s.Run(t, "load", "-q", "-i", archives[name])
		places = append(places, "--store", archives[name])
	}
	comparePairs(t, s, s.Mount(t))

	found := harness.ReadRoot(t, s.Store)
	if len(found) < 2 {
		t.Fatalf("%d images", len(found))
	}
	name := found[0].ID[7:] + ".." + found[1].ID[7:]
	want, code := diffCommand(t, s, found[0].ID, found[1].ID)
	if code != 1 || len(want) < 1000 {
		t.Fatalf("exit %d, %d bytes", code, len(want))
	}
	dir := t.TempDir()
	run := func(args ...string) string {
		c := s.Cmd(t, append(slices.Clone(places), args...)...)
		c.Args = slices.Delete(c.Args, 1, 3) // without the store of its own
		return harness.RunCmd(t, c)
	}
	run("mount", dir)
	t.Cleanup(func() { run("umount", dir) })
	in, err := filepath.Glob(filepath.Join(dir, "stores/*/diff"))
	if err != nil || len(in) != 2 {
		t.Errorf("%q, %v", in, err)
	}
	for _, in := range append(in, filepath.Join(dir, "diff")) {
		if got, err := os.ReadFile(filepath.Join(in, name, "changes")); err != nil || string(got) != want {
			t.Errorf("%s: %d bytes, %v, want %d", in, len(got), err, len(want))
		}
	}
}
