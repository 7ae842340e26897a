package fusefs_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"imagefs/fusefs"
	"imagefs/fusefs/uring/uringtest"
	"imagefs/store/docker"
)

func TestTree(t *testing.T) { bothTransports(t, testTree) }

func testTree(t *testing.T, o fusefs.Options) {
	s := newStore(t)
	base := layerTar(t, "etc/", "etc/a=1", "etc/b=2", "etc/l->a", "etc/h~etc/a", "old/", "old/x=x", "f=file")
	top := layerTar(t, "etc/", "etc/.wh.b", "etc/c=3", "old/", "old/.wh..wh..opq", "old/y=y", ".wh.f")
	id := load(t, s, "", []string{"app:1", "app/sub:x", "app:sub"}, base, top)
	dir := mount(t, s, o)

	for path, want := range map[string]string{
		"":                               "README ctl/ diff/ digests/ ids/ images/",
		"images":                         "app/",
		"images/app":                     "1 :sub sub/",
		"images/app/1/rootfs":            "etc/ old/",
		"images/app/1/rootfs/etc":        "a c h l",
		"images/app/1/rootfs/old":        "y",
		"images/app/1/layers":            "0/ 1/",
		"images/app/1/layers/0/rootfs":   "etc/ f old/",
		"images/app/1/layers/1/diff":     ".wh.f etc/ old/",
		"images/app/1/layers/1/diff/etc": ".wh.b c",
		"images/app/1/layers/1/diff/old": ".wh..wh..opq y",
		"images/app/1/layers/0":          "chainid changes diff/ diffid layer.tar rootfs/ size",
		"images/app/1/layers/1":          "chainid changes diff/ diffid layer.tar rootfs size",
		"ids":                            id.Encoded() + "/",
		"ctl":                            "errors events help import last load prune rmi status tag",
	} {
		if got := list(t, dir, path); got != want {
			t.Errorf("%s lists %q, want %q", path, got, want)
		}
	}
	img := filepath.Join(dir, "images/app/1")
	for path, want := range map[string]string{
		"rootfs/etc/a":          "1",
		"rootfs/etc/l":          "1",
		"layers/1/changes":      "C /etc\nD /etc/b\nA /etc/c\nD /f\nC /old\nD /old/x\nA /old/y\n",
		"layers/1/diff/.wh.f":   "",
		"layers/1/diffid":       digestOf(top) + "\n",
		"layers/0/chainid":      digestOf(base) + "\n",
		"layers/1/rootfs/etc/c": "3",
		"id":                    id.String() + "\n",
		"architecture":          "amd64\n",
		"os":                    "linux\n",
		"created":               "2024-01-02T03:04:05Z\n",
		"tags":                  "app/sub:x\napp:1\napp:sub\n",
	} {
		if got := text(t, img, path); got != want {
			t.Errorf("%s is %q, want %q", path, got, want)
		}
	}
	for _, path := range []string{"images/app/:1/id", "images/app:1/id", "images/app/:sub/id", "images/app:sub/id", "ids/" + id.Encoded()[:12] + "/id"} {
		if got := text(t, dir, path); got != id.String()+"\n" {
			t.Errorf("%s is %q", path, got)
		}
	}
	if got := digestOf([]byte(text(t, img, "config.json"))); got != id.String() {
		t.Errorf("config.json hashes to %s, want %s", got, id)
	}
	if got := digestOf([]byte(text(t, img, "layers/0/layer.tar"))); got != digestOf(base) {
		t.Errorf("layer.tar hashes to %s, want %s", got, digestOf(base))
	}
	for _, path := range []string{"images/no", "images/app/2", "ids/" + strings.Repeat("0", 64), "ids/" + id.Encoded()[:11], "images/app/1/nothing",
		"images/app/1/layers/2", "images/app/1/layers/00", "images/app/1/rootfs/etc/b", "images/app/1/digests", "images/app/1/error", "digests/sha256"} {
		_, err := os.Lstat(filepath.Join(dir, path))
		wantErr(t, path, err, unix.ENOENT)
	}
}

func digestOf(b []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(b)) }

// Every file's size is the number of bytes that can be read from it.
func TestSizesAreTrue(t *testing.T) { bothModes(t, testSizesAreTrue) }

// bothModes runs a test on a mount with control files, and on a read-only one,
// which is served without OPEN, over each transport.
func bothModes(t *testing.T, test func(t *testing.T, o fusefs.Options)) {
	bothTransports(t, func(t *testing.T, o fusefs.Options) {
		t.Run("with ctl", func(t *testing.T) { test(t, o) })
		t.Run("read-only", func(t *testing.T) { o.ReadOnly = true; test(t, o) })
	})
}

// bothTransports runs a test over each transport.
func bothTransports(t *testing.T, test func(t *testing.T, o fusefs.Options)) {
	t.Run("dev", func(t *testing.T) { test(t, fusefs.Options{Transport: fusefs.Dev}) })
	t.Run("io_uring", func(t *testing.T) {
		uringtest.Need(t)
		test(t, fusefs.Options{Transport: fusefs.IOUring})
	})
}

func testSizesAreTrue(t *testing.T, o fusefs.Options) {
	s := newStore(t)
	load(t, s, "", []string{"a:1"}, layerTar(t, "d/", "d/f=x", "odd\nname=y"), layerTar(t, "d/g=z"))
	dir := mount(t, s, o)
	n := 0
	err := filepath.Walk(filepath.Join(dir, "ids"), func(p string, st os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		if st.Mode().IsRegular() {
			if b, err := os.ReadFile(p); err != nil || int64(len(b)) != st.Size() {
				t.Errorf("%s: st_size %d, read %d bytes, %v", p, st.Size(), len(b), err)
			}
			n++
		}
		return nil
	})
	if err != nil || n < 20 {
		t.Errorf("walked %d files: %v", n, err)
	}
}

func TestSameFileSameInode(t *testing.T) { bothTransports(t, testSameFileSameInode) }

func testSameFileSameInode(t *testing.T, o fusefs.Options) {
	s := newStore(t)
	base := layerTar(t, "d/", "d/f=x", "d/g~d/f")
	load(t, s, "", []string{"a:1"}, base, layerTar(t, "d/one=1"))
	load(t, s, "", []string{"a:2"}, base, layerTar(t, "d/two=2"))
	dir := mount(t, s, o)
	one, two := stat(t, dir, "images/a/1/rootfs/d/f"), stat(t, dir, "images/a/2/rootfs/d/g")
	if one.Ino != two.Ino || one.Nlink != 2 {
		t.Errorf("inodes %d and %d, %d links", one.Ino, two.Ino, one.Nlink)
	}
	if in := stat(t, dir, "images/a/1/layers/0/diff/d/f"); in.Ino != one.Ino {
		t.Errorf("in the diff the inode is %d, in the rootfs %d", in.Ino, one.Ino)
	}
	dirs := map[uint64]string{}
	err := filepath.Walk(filepath.Join(dir, "ids"), func(p string, st os.FileInfo, err error) error {
		if err == nil && st.IsDir() {
			ino := stat(t, p).Ino
			if other, ok := dirs[ino]; ok {
				t.Errorf("one directory at two paths: %s and %s", other, p)
			}
			if ino>>60 != 0 {
				t.Errorf("inode number %#x of %s leaves overlayfs no room", ino, p)
			}
			dirs[ino] = p
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// layer.tar is read at random.
func TestLayerTarAtRandom(t *testing.T) { bothModes(t, testLayerTarAtRandom) }

func testLayerTarAtRandom(t *testing.T, o fusefs.Options) {
	s := newStore(t)
	r := rand.New(rand.NewSource(1))
	var entries []string
	for n := range 60 {
		b := make([]byte, r.Intn(20000))
		r.Read(b)
		entries = append(entries, fmt.Sprintf("f%d=%x", n, b))
	}
	raw := layerTar(t, entries...)
	load(t, s, "", []string{"a:1"}, raw)
	dir := mount(t, s, o)
	f, err := os.Open(filepath.Join(dir, "images/a/1/layers/0/layer.tar"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for range 300 {
		off := r.Int63n(int64(len(raw)))
		b := make([]byte, r.Intn(50000))
		n, err := f.ReadAt(b, off)
		if err != nil && err != io.EOF || !bytes.Equal(b[:n], raw[off:min(off+int64(len(b)), int64(len(raw)))]) {
			t.Fatalf("%d bytes at %d: %d, %v", len(b), off, n, err)
		}
	}
}

// A large file is read by the kernel itself, or through the server: the bytes are the same, and so is mmap.
func TestLargeFile(t *testing.T) { bothModes(t, testLargeFile) }

func testLargeFile(t *testing.T, o fusefs.Options) {
	s := newStore(t)
	content := strings.Repeat("0123456789abcdef", 1<<16)
	load(t, s, "", []string{"a:1"}, layerTar(t, "big="+content))
	dir := mount(t, s, o)
	p := filepath.Join(dir, "images/a/1/rootfs/big")
	if got := text(t, p); got != content {
		t.Errorf("%d bytes, want %d", len(got), len(content))
	}
	f, err := os.Open(p)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	m, err := unix.Mmap(int(f.Fd()), 0, len(content), unix.PROT_READ, unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(m)
	if string(m) != content {
		t.Error("mapped content is another")
	}
}

// Many small files read one after the other are pushed ahead; each has its own bytes.
func TestSmallFilesInTurn(t *testing.T) {
	s := newStore(t)
	var low, top []string
	for n := range 1000 {
		f := fmt.Sprintf("d/f%03d=%s", n, strings.Repeat(fmt.Sprint(n, " "), n%300))
		if n%3 == 0 {
			top = append(top, f)
		} else {
			low = append(low, f)
		}
	}
	load(t, s, "", []string{"a:1"}, layerTar(t, low...), layerTar(t, top...))
	bothModes(t, func(t *testing.T, o fusefs.Options) { testSmallFilesInTurn(t, s, o) })
}

func testSmallFilesInTurn(t *testing.T, s *docker.Store, o fusefs.Options) {
	dir := mount(t, s, o)
	for range 2 {
		for n := range 1000 {
			want := strings.Repeat(fmt.Sprint(n, " "), n%300)
			if got := text(t, dir, "images/a/1/rootfs/d", fmt.Sprintf("f%03d", n)); got != want {
				t.Fatalf("f%03d has %d bytes, want %d", n, len(got), len(want))
			}
		}
	}
}

// Many who read the same files in turn, at once, while what they are about to read is
// pushed: nobody waits for anybody for good.
func TestSmallFilesByMany(t *testing.T) {
	s := newStore(t)
	var files []string
	for d := range 20 {
		for n := range 40 {
			files = append(files, fmt.Sprintf("d%02d/f%02d=%s", d, n, strings.Repeat(fmt.Sprint(d, n, " "), 1+(d*n)%900)))
		}
	}
	load(t, s, "", []string{"a:1"}, layerTar(t, files...))
	bothModes(t, func(t *testing.T, o fusefs.Options) { testSmallFilesByMany(t, s, files, o) })
}

func testSmallFilesByMany(t *testing.T, s *docker.Store, files []string, o fusefs.Options) {
	for range 3 {
		dir := filepath.Join(mount(t, s, o), "images/a/1/rootfs")
		var wg sync.WaitGroup
		for reader := range 8 {
			wg.Go(func() {
				for k := range files {
					if reader%4 == 3 {
						k = len(files) - 1 - k
					}
					name, want, _ := strings.Cut(files[k], "=")
					if b, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(b) != want {
						t.Errorf("%s: %d bytes, %v", name, len(b), err)
					}
				}
			})
		}
		wg.Wait()
	}
}

// A volatile file keeps its old content for who has it open, and shows the new one to who looks again.
func TestVolatileText(t *testing.T) { bothModes(t, testVolatileText) }

func testVolatileText(t *testing.T, o fusefs.Options) {
	s := newStore(t)
	id := load(t, s, "", []string{"a:1"}, layerTar(t, "f=1"))
	dir := mount(t, s, o)
	p := filepath.Join(dir, "ids", id.Encoded(), "tags")
	if got := text(t, p); got != "a:1\n" {
		t.Errorf("tags: %q", got)
	}
	if err := s.Tag(ctx, "b:2", id); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the new tag", func() bool { b, _ := os.ReadFile(p); return string(b) == "a:1\nb:2\n" })
	for _, ref := range []string{"a:1", "b:2"} {
		if err := s.Untag(ctx, ref); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "no tags", func() bool { _, err := os.Stat(p); return os.IsNotExist(err) })
}

func TestReadOnlyAndImmutable(t *testing.T) { bothTransports(t, testReadOnlyAndImmutable) }

func testReadOnlyAndImmutable(t *testing.T, o fusefs.Options) {
	s := newStore(t)
	load(t, s, "", []string{"a:1"}, layerTar(t, "f=x"))
	for _, c := range []struct {
		ro   bool
		want error
	}{{false, unix.EPERM}, {true, unix.EROFS}} {
		o.ReadOnly = c.ro
		dir := mount(t, s, o)
		refused := func(what string, err error) {
			t.Helper()
			// Of an ordinary user the kernel first asks for permission: the files are root's.
			if os.Geteuid() == 0 || !errors.Is(err, unix.EACCES) {
				wantErr(t, what, err, c.want)
			}
		}
		root := filepath.Join(dir, "images/a/1/rootfs")
		refused("create", os.WriteFile(root+"/new", nil, 0o600))
		refused("write", os.WriteFile(root+"/f", nil, 0o600))
		refused("remove", os.Remove(root+"/f"))
		refused("mkdir", os.Mkdir(root+"/d", 0o700))
		refused("chmod", os.Chmod(root+"/f", 0o600))
		refused("rename", os.Rename(root+"/f", root+"/g"))
		refused("link", os.Link(root+"/f", root+"/g"))
		refused("setxattr", unix.Setxattr(root+"/f", "user.x", nil, 0))
		if _, err := os.Stat(filepath.Join(dir, "ctl")); (err != nil) != c.ro {
			t.Errorf("read-only %v: ctl: %v", c.ro, err)
		}
	}
}

func TestBrokenImageHidesNoOther(t *testing.T) {
	bothTransports(t, func(t *testing.T, o fusefs.Options) {
		t.Run("record", func(t *testing.T) {
			testBrokenImageHidesNoOther(t, o, func(t *testing.T, s *docker.Store, bad digest.Digest) string {
				return filepath.Join(s.Root(), "image/overlay2/layerdb/sha256", chainOf(t, s, bad, 1))
			})
		})
		t.Run("files", func(t *testing.T) {
			testBrokenImageHidesNoOther(t, o, func(t *testing.T, s *docker.Store, _ digest.Digest) string {
				found, err := filepath.Glob(filepath.Join(s.Root(), "overlay2/*/diff/g"))
				if err != nil || len(found) != 1 {
					t.Fatal(found, err)
				}
				return filepath.Dir(found[0])
			})
		})
	})
}

// testBrokenImageHidesNoOther has a store from which lost was removed.
func testBrokenImageHidesNoOther(t *testing.T, o fusefs.Options, lost func(*testing.T, *docker.Store, digest.Digest) string) {
	s := newStore(t)
	bad := load(t, s, "bad", []string{"bad:1"}, layerTar(t, "f=1"), layerTar(t, "g=1"))
	load(t, s, "good", []string{"good:1"}, layerTar(t, "f=2"))
	if err := os.RemoveAll(lost(t, s, bad)); err != nil {
		t.Fatal(err)
	}
	dir := mount(t, s, o)
	if got := list(t, dir, "images"); got != "bad/ good/" {
		t.Errorf("images lists %q", got)
	}
	if got := text(t, dir, "images/good/1/rootfs/f"); got != "2" {
		t.Errorf("the good image has %q", got)
	}
	if got := text(t, dir, "images/bad/1/error"); !strings.Contains(got, "layer 1") {
		t.Errorf("error: %q", got)
	}
	if got := text(t, dir, "images/bad/1/layers/0/rootfs/f"); got != "1" {
		t.Errorf("the intact layer has %q", got)
	}
	_, err := os.ReadDir(filepath.Join(dir, "images/bad/1/rootfs"))
	wantErr(t, "broken rootfs", err, unix.EIO)
	// Its archive, and the tar of the layer that is broken, are there and cannot be read.
	if got := list(t, dir, "images/bad/1"); !strings.Contains(got, " image.tar ") {
		t.Errorf("the broken image lists %q", got)
	}
	for _, name := range []string{"image.tar", "layers/1/layer.tar"} {
		if got := list(t, dir, "images/bad/1", filepath.Dir(name)); !strings.Contains(got, filepath.Base(name)) {
			t.Errorf("%s is not listed: %q", name, got)
		}
		_, err := os.Open(filepath.Join(dir, "images/bad/1", name))
		wantErr(t, "broken "+name, err, unix.EIO)
	}
	if got := text(t, dir, "images/bad/1/layers/0/layer.tar"); len(got) == 0 {
		t.Error("the tar of the intact layer is empty")
	}
	if got := text(t, dir, "ctl/errors"); !strings.Contains(got, bad.String()) {
		t.Errorf("ctl/errors does not name the image: %q", got)
	}
}
