package integration

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"imagefs/integration/harness"
	"imagefs/overlay"
	"imagefs/store"
	"imagefs/store/docker"
	"imagefs/store/storetest/stacks"
)

// One that fails is run again by its name: -run 'TestOracle/seed=17$'.
var oracleSeeds = flag.Uint64("stacks", 24, "how many random stacks of layers are compared with the kernel")

// TestOracle loads random stacks of odd layers and compares, for each prefix of
// each stack, four views: a model of the layer rules, the kernel's overlayfs on
// the directories that the load made, our merge of the indexes that it made,
// and our merge of indexes made from the directories alone.
func TestOracle(t *testing.T) {
	harness.Need(t, "root")
	for seed := range *oracleSeeds {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) { oracle(t, stacks.New(seed)) })
	}
}

func oracle(t *testing.T, stack stacks.Stack) {
	ctx := context.Background()
	s, err := docker.Open(filepath.Join(t.TempDir(), "store"), docker.Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	id := ingest(t, s, stack.Tars()...)
	found := harness.ReadRoot(t, s.Root())
	if len(found) != 1 || len(found[0].Dirs) != len(stack) {
		t.Fatalf("on disk: %+v", found)
	}
	loaded := layersOf(t, s, id)
	foreign := foreignLayers(t, s, id)
	for n := 1; n <= len(stack); n++ {
		what := fmt.Sprintf("layers 0…%d", n-1)
		mnt := harness.KernelMount(t, found[0].Dirs[:n]...)
		kernel := kernelManifest(t, mnt)
		harness.Same(t, what+": kernel, not the model,", modelManifest(stack.View(n)), kernel)
		harness.Same(t, what+": merge, not the kernel,", kernel, treeManifest(t, loaded[:n]))
		harness.Same(t, what+": merge of scanned directories, not the kernel,", kernel, treeManifest(t, foreign[:n]))
	}
	for n, l := range loaded {
		checkTarOf(t, l, stack[n].Tar)
	}
	if err := s.Check(ctx, true, func(p store.Problem) { t.Errorf("check: %s: %v", p.What, p.Err) }); err != nil {
		t.Error(err)
	}
}

// ingest loads one image of these layers.
func ingest(t testing.TB, s store.Ingester, tars ...[]byte) digest.Digest {
	t.Helper()
	ctx := context.Background()
	in, err := s.Ingest(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Abort()
	var img store.NewImage
	var ids []digest.Digest
	for n, raw := range tars {
		l := store.NewLayer{DiffID: digest.FromBytes(raw)}
		if ids = append(ids, l.DiffID); !in.HasLayer(store.ChainID(ids)) {
			if l.Staged, err = in.Unpack(ctx, bytes.NewReader(raw)); err != nil {
				t.Fatalf("layer %d: %v", n, err)
			}
		}
		img.Layers = append(img.Layers, l)
	}
	if img.Config, err = json.Marshal(map[string]any{"os": "linux", "architecture": "amd64", "rootfs": map[string]any{"type": "layers", "diff_ids": ids}}); err != nil {
		t.Fatal(err)
	}
	if err := in.Commit(ctx, []store.NewImage{img}); err != nil {
		t.Fatal(err)
	}
	return digest.FromBytes(img.Config)
}

func layersOf(t testing.TB, s store.Store, id digest.Digest) []store.Layer {
	t.Helper()
	img, err := s.Image(context.Background(), id)
	if err == nil {
		err = img.Err()
	}
	if err != nil {
		t.Fatal(err)
	}
	return img.Layers()
}

// foreignLayers are those of the same store without anything of our own in it:
// read as they are looked into, then with indexes that are made and cached,
// then with the cached ones. All must show the same.
func foreignLayers(t testing.TB, s *docker.Store, id digest.Digest) []store.Layer {
	t.Helper()
	root := filepath.Join(t.TempDir(), "copy")
	harness.Run(t, "cp", "-a", s.Root(), root)
	if err := os.RemoveAll(filepath.Join(root, "imagefs")); err != nil {
		t.Fatal(err)
	}
	cache := filepath.Join(t.TempDir(), "cache")
	var out []store.Layer
	var first []harness.Manifest
	for _, o := range []docker.Options{{ReadOnly: true, Lazy: true}, {ReadOnly: true, Cache: cache}, {ReadOnly: true, Cache: cache}} {
		c, err := docker.Open(root, o)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		out = layersOf(t, c, id)
		var all []harness.Manifest
		for n := range out {
			all = append(all, treeManifest(t, out[:n+1]))
		}
		for n := range first {
			harness.Same(t, fmt.Sprintf("layers 0…%d, opened with %+v", n, o), first[n], all[n])
		}
		first = all
	}
	if kept, err := os.ReadDir(cache); err != nil || len(kept) != len(out) {
		t.Errorf("%d indexes in the cache for %d layers: %v", len(kept), len(out), err)
	}
	if _, err := os.Lstat(filepath.Join(root, "imagefs")); err == nil {
		t.Error("a store that is read only was written to")
	}
	return out
}

// line is what a reader can see of a path.
func line(p string, kind byte, a overlay.Attr, target string, xs []string, sum string) string {
	size, nlink := fmt.Sprint(a.Size), fmt.Sprint(a.Nlink)
	if kind == 'd' {
		size, nlink = "-", "-"
	}
	slices.Sort(xs)
	list := "["
	for i, x := range xs {
		if i > 0 {
			list += ","
		}
		// Long values would hide everything else in a message.
		if len(x) > 80 {
			x = fmt.Sprintf("%.20s…%x", x, sha256.Sum256([]byte(x)))
		}
		list += x
	}
	return fmt.Sprintf("%q %c %o %d %d %s %d.%09d %d,%d %s %q %s] %s", "/"+p, kind, a.Mode&0o7777, a.UID, a.GID, size, a.Sec, a.Nsec,
		a.Rdev>>8&0xfff, a.Rdev&0xff|a.Rdev>>12&^0xff, nlink, target, list, sum)
}

var kindOf = map[uint32]byte{unix.S_IFREG: 'f', unix.S_IFDIR: 'd', unix.S_IFLNK: 'l', unix.S_IFCHR: 'c', unix.S_IFBLK: 'b', unix.S_IFIFO: 'p', unix.S_IFSOCK: 's'}

// kernelManifest lists a mount. Overlayfs lists a whiteout in a directory that
// is not merged, and then says that there is nothing of that name; so does this.
func kernelManifest(t testing.TB, root string) harness.Manifest {
	t.Helper()
	var m harness.Manifest
	var walk func(p string)
	walk = func(p string) {
		path := root + "/" + p
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			if errors.Is(err, unix.ENOENT) {
				return
			}
			t.Fatal(err)
		}
		kind, target, sum := kindOf[st.Mode&unix.S_IFMT], "-", "-"
		switch kind {
		case 'l':
			var err error
			if target, err = os.Readlink(path); err != nil {
				t.Fatal(err)
			}
		case 'f':
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			h := sha256.Sum256(b)
			sum = hex.EncodeToString(h[:])
		}
		a := overlay.Attr{Mode: st.Mode, UID: st.Uid, GID: st.Gid, Sec: st.Mtim.Sec, Nsec: uint32(st.Mtim.Nsec), Nlink: uint32(st.Nlink), Size: uint64(st.Size),
			Rdev: unix.Major(uint64(st.Rdev))<<8 | unix.Minor(uint64(st.Rdev))&0xff | unix.Minor(uint64(st.Rdev))&^0xff<<12}
		m = append(m, line(p, kind, a, target, xattrsOf(t, path), sum))
		if kind != 'd' {
			return
		}
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		names, err := f.Readdirnames(-1)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			walk(join(p, name))
		}
	}
	walk("")
	slices.Sort(m)
	return m
}

// xattrsOf leaves out those by which overlayfs keeps its books.
func xattrsOf(t testing.TB, path string) (out []string) {
	t.Helper()
	buf, value := make([]byte, 64<<10), make([]byte, 64<<10)
	n, err := unix.Llistxattr(path, buf)
	if err != nil {
		t.Fatal(err)
	}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00") {
		if name == "" || strings.HasPrefix(name, "trusted.overlay.") {
			continue
		}
		v, err := unix.Lgetxattr(path, name, value)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, name+"="+hex.EncodeToString(value[:v]))
	}
	return out
}

// treeManifest is what a mount of our merge of layers would show.
func treeManifest(t testing.TB, layers []store.Layer) harness.Manifest {
	t.Helper()
	return contentSums{}.tree(t, layers)
}

// contentSums keeps the sums of contents, so that a file with many names, or in
// many views, is read once.
type contentSums map[contentOf]string

type contentOf struct {
	layer store.Layer
	ino   overlay.Ino
}

func (c contentSums) of(t testing.TB, l store.Layer, i overlay.Ino) string {
	t.Helper()
	if _, ok := c[contentOf{l, i}]; !ok {
		c[contentOf{l, i}] = contentSum(t, l, i)
	}
	return c[contentOf{l, i}]
}

func (c contentSums) tree(t testing.TB, layers []store.Layer) harness.Manifest {
	t.Helper()
	ctx := context.Background()
	indexes := make([]overlay.Layer, len(layers))
	for n, l := range layers {
		var err error
		if indexes[n], err = l.Index(ctx); err != nil {
			t.Fatal(err)
		}
	}
	tree, err := overlay.Merge(indexes...)
	if err != nil {
		t.Fatal(err)
	}
	var m harness.Manifest
	var walk func(p string, n overlay.NodeID)
	walk = func(p string, n overlay.NodeID) {
		a := tree.Attr(n)
		kind, target, sum := kindOf[a.Mode&unix.S_IFMT], "-", "-"
		switch kind {
		case 'l':
			target = tree.Readlink(n)
		case 'f':
			sum = c.of(t, layers[n.Layer()], n.Ino())
		}
		var xs []string
		tree.Xattrs(n, func(name string, v []byte) bool {
			xs = append(xs, name+"="+hex.EncodeToString(v))
			return true
		})
		m = append(m, line(p, kind, a, target, xs, sum))
		if kind != 'd' {
			return
		}
		d, err := tree.Dir(n)
		if err != nil {
			t.Fatal(err)
		}
		for {
			name, c, _, ok := d.Next()
			if !ok {
				return
			}
			if found, ok, err := tree.Lookup(n, name); !ok || err != nil || found != c {
				t.Fatalf("%q in %q: listed as %x, looked up as %x %v %v", name, p, c, found, ok, err)
			}
			walk(join(p, name), c)
		}
	}
	walk("", tree.Root())
	slices.Sort(m)
	return m
}

func join(dir, base string) string {
	if dir == "" {
		return base
	}
	return dir + "/" + base
}

func contentSum(t testing.TB, l store.Layer, i overlay.Ino) string {
	t.Helper()
	f, err := l.Open(context.Background(), i)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, io.NewSectionReader(f, 0, f.Size())); err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// modelManifest is what the model says.
func modelManifest(view *stacks.Node) harness.Manifest {
	var m harness.Manifest
	view.Walk(func(p string, n *stacks.Node) {
		a := overlay.Attr{Mode: n.Mode, UID: uint32(n.UID), GID: uint32(n.GID), Sec: n.Sec, Nsec: uint32(n.Nsec), Nlink: uint32(n.Nlink),
			Size: uint64(len(n.Body)), Rdev: uint32(n.Major)<<8 | uint32(n.Minor)&0xff | uint32(n.Minor)&^0xff<<12}
		target, sum := "-", "-"
		switch n.Type {
		case 'l':
			target, a.Size = n.Link, uint64(len(n.Link))
		case 'f':
			h := sha256.Sum256(n.Body)
			sum = hex.EncodeToString(h[:])
		}
		var xs []string
		for k, v := range n.Xattrs {
			xs = append(xs, k+"="+hex.EncodeToString([]byte(v)))
		}
		m = append(m, line(p, n.Type, a, target, xs, sum))
	})
	slices.Sort(m)
	return m
}

// checkTarOf reads a layer's tar whole and in random pieces.
func checkTarOf(t testing.TB, l store.Layer, want []byte) {
	t.Helper()
	ctx := context.Background()
	size, err := l.TarSize(ctx)
	if err != nil || size != int64(len(want)) {
		t.Errorf("layer %s: tar size %d %v, want %d", l.DiffID(), size, err, len(want))
	}
	f, err := l.Tar(ctx)
	if err != nil {
		t.Error(err)
		return
	}
	defer f.Close()
	got, err := io.ReadAll(io.NewSectionReader(f, 0, f.Size()))
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("layer %s: its tar is another: %v", l.DiffID(), err)
	}
}
