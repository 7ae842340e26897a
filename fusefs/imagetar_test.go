package fusefs_test

import (
	"bytes"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"imagefs/fusefs"
	"imagefs/store"
	"imagefs/store/save"
)

// saved is the archive of images as `imagefs save` writes it.
func saved(t testing.TB, s store.Store, refs ...string) []byte {
	t.Helper()
	items, err := save.Select(ctx, s, refs)
	if err != nil {
		t.Fatal(err)
	}
	a, err := save.Docker(ctx, items)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	var b bytes.Buffer
	if err := a.Write(ctx, &b, nil); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// image.tar is the archive that is saved with the image's names, at any place, and follows its names.
func TestImageTar(t *testing.T) { bothModes(t, testImageTar) }

func testImageTar(t *testing.T, o fusefs.Options) {
	s := newStore(t)
	base := layerTar(t, "etc/", "etc/a=1", "big="+strings.Repeat("0123456789", 200_000))
	id := load(t, s, "", []string{"app:1"}, base, layerTar(t, "etc/b=2"), base)
	dir := mount(t, s, o)
	p := filepath.Join(dir, "ids", id.Encoded(), "image.tar")
	want := saved(t, s, "app:1")
	if got := text(t, p); got != string(want) {
		t.Errorf("image.tar is not what save writes: %d bytes, want %d", len(got), len(want))
	}
	f, err := os.Open(p)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	// The kernel keeps what was read: without that, each read comes to the server.
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		off := r.Int64N(int64(len(want)))
		b := make([]byte, r.IntN(100_000))
		n, err := f.ReadAt(b, off)
		if err != nil && err != io.EOF || !bytes.Equal(b[:n], want[off:min(off+int64(len(b)), int64(len(want)))]) {
			t.Fatalf("%d bytes at %d: %d, %v", len(b), off, n, err)
		}
	}
	was := stat(t, p)
	if err := s.Tag(ctx, "team/app:x", id); err != nil {
		t.Fatal(err)
	}
	both := saved(t, s, "app:1", "team/app:x")
	eventually(t, "the new name", func() bool { b, _ := os.ReadFile(p); return bytes.Equal(b, both) })
	if now := stat(t, p); now.Ino == was.Ino || now.Size != int64(len(both)) {
		t.Errorf("inode %d of %d bytes, was %d", now.Ino, now.Size, was.Ino)
	}
	// Who had it open still reads what it was.
	b := make([]byte, len(want))
	if n, err := f.ReadAt(b, 0); n != len(want) || !bytes.Equal(b, want) {
		t.Errorf("the old one: %d bytes, %v", n, err)
	}
	for _, ref := range []string{"app:1", "team/app:x"} {
		if err := s.Untag(ctx, ref); err != nil {
			t.Fatal(err)
		}
	}
	none := saved(t, s, id.String())
	eventually(t, "no names", func() bool { b, _ := os.ReadFile(p); return bytes.Equal(b, none) })
}

// A store that cannot give a layer's tar back has no image.tar; the Dockerfile needs none.
func TestNoImageTar(t *testing.T) {
	s := newStore(t)
	id := load(t, s, "", []string{"app:1"}, layerTar(t, "a=1"), layerTar(t, "b=2"))
	splits, err := filepath.Glob(filepath.Join(s.Root(), "image/overlay2/layerdb/sha256/*/tar-split.json.gz"))
	if err != nil || len(splits) != 2 {
		t.Fatal(splits, err)
	}
	if err := os.Remove(splits[1]); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(mount(t, s, fusefs.Options{}), "ids", id.Encoded())
	_, err = os.Lstat(filepath.Join(dir, "image.tar"))
	wantErr(t, "image.tar", err, unix.ENOENT)
	if got := list(t, dir); strings.Contains(got, "image.tar") || !strings.Contains(got, "Dockerfile") || strings.Contains(got, "manifest.json") {
		t.Errorf("listed: %s", got)
	}
	if got := text(t, dir, "Dockerfile"); !strings.HasPrefix(got, "# Rebuilt from the history of "+id.String()) {
		t.Errorf("Dockerfile: %s", got)
	}
}
