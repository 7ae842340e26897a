package fusefs_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"imagefs/fusefs"
)

// replaced gives a file of a store's layer other content of the same size.
func replaced(t *testing.T, root, name string) {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(root, "overlay2/*/diff", name))
	if err != nil || len(found) != 1 {
		t.Fatal(found, err)
	}
	b, err := os.ReadFile(found[0])
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	if err := os.WriteFile(found[0], b, 0o644); err != nil {
		t.Fatal(err)
	}
}

// readBy reads a file in pieces.
func readBy(path string, n int64) (size int64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	return io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{f}, make([]byte, n))
}

// Who reads a tar to its end does not get the content of a file that was replaced.
func TestTarOfReplacedFile(t *testing.T) { bothModes(t, testTarOfReplacedFile) }

func testTarOfReplacedFile(t *testing.T, o fusefs.Options) {
	big := strings.Repeat("0123456789abcdef", 200_000)
	for _, file := range []string{"small", "big", "tail"} {
		for _, piece := range []int64{4096, 128 << 10, 4 << 20} {
			s := newStore(t)
			id := load(t, s, "", []string{"app:1"}, layerTar(t, "small=1", "big="+big, "tail=22"), layerTar(t, "other=o"))
			dir := mount(t, s, o)
			replaced(t, s.Root(), file)
			for _, name := range []string{"layers/0/layer.tar", "image.tar"} {
				for range 2 {
					if n, err := readBy(filepath.Join(dir, "ids", id.Encoded(), name), piece); !errors.Is(err, unix.EIO) {
						t.Errorf("%s, pieces of %d, %s replaced: %d bytes, %v", name, piece, file, n, err)
					}
				}
			}
			if !o.ReadOnly {
				if got := text(t, dir, "ctl/errors"); !strings.Contains(got, `has another content than the layer's`) || !strings.Contains(got, file) {
					t.Errorf("ctl/errors: %s", got)
				}
			}
			if got := text(t, dir, "ids", id.Encoded(), "layers/1/layer.tar"); len(got) == 0 {
				t.Error("the other layer is empty")
			}
		}
	}
}

// What the kernel has of a tar that was read in part does not keep it from being looked at.
func TestTarReadInPartThenWhole(t *testing.T) { bothModes(t, testTarReadInPartThenWhole) }

func testTarReadInPartThenWhole(t *testing.T, o fusefs.Options) {
	for _, name := range []string{"layers/0/layer.tar", "image.tar"} {
		s := newStore(t)
		raw := layerTar(t, "big="+strings.Repeat("0123456789abcdef", 400_000), "tail=2")
		id := load(t, s, "", []string{"app:1"}, raw)
		dir := mount(t, s, o)
		replaced(t, s.Root(), "big")
		p := filepath.Join(dir, "ids", id.Encoded(), name)
		for _, off := range []int64{0, 1 << 20, 6_000_000} {
			f, err := os.Open(p)
			if err != nil {
				t.Fatal(err)
			}
			b := make([]byte, 5000)
			if _, err := f.ReadAt(b, off); err != nil {
				t.Errorf("%s: a part, at %d: %v", name, off, err)
			}
			f.Close()
		}
		if n, err := readBy(p, 64<<10); !errors.Is(err, unix.EIO) {
			t.Errorf("%s after a part of it: %d bytes, %v", name, n, err)
		}
	}
}

// A tar that was read whole stays in the kernel's cache.
func TestTarStaysCached(t *testing.T) {
	s := newStore(t)
	raw := layerTar(t, "big="+strings.Repeat("0123456789abcdef", 400_000), "tail=2")
	id := load(t, s, "", []string{"app:1"}, raw)
	dir := mount(t, s, fusefs.Options{})
	p := filepath.Join(dir, "ids", id.Encoded(), "layers/0/layer.tar")
	if got := text(t, p); !bytes.Equal([]byte(got), raw) {
		t.Fatal("another tar")
	}
	f, err := os.Open(p)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	m, err := unix.Mmap(int(f.Fd()), 0, len(raw), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(m)
	in := make([]byte, (len(raw)+4095)/4096)
	if err := mincore(m, in); err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, c := range in {
		n += int(c & 1)
	}
	if n < len(in)*9/10 {
		t.Errorf("%d of %d pages are cached", n, len(in))
	}
}

func mincore(b, in []byte) error {
	_, _, e := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), uintptr(unsafe.Pointer(&in[0])))
	if e != 0 {
		return e
	}
	return nil
}
