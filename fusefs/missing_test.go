package fusefs_test

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"imagefs/fusefs"
	"imagefs/store"
)

// A file that a layer has lost is damage, which is told of; a layer that goes is not.
func TestMissingFile(t *testing.T) { bothModes(t, testMissingFile) }

func testMissingFile(t *testing.T, o fusefs.Options) {
	s := newStore(t)
	tar := layerTar(t, "small=1", "large="+strings.Repeat("0123456789abcdef", 20_000), "kept=k")
	id := load(t, s, "", []string{"app:1"}, tar)
	dir := filepath.Join(mount(t, s, o), "ids", id.Encoded())
	errorsFile := filepath.Join(dir, "../../ctl/errors")
	for _, name := range []string{"small", "large"} {
		found, err := filepath.Glob(filepath.Join(s.Root(), "overlay2/*/diff", name))
		if err != nil || len(found) != 1 {
			t.Fatal(found, err)
		}
		if err := os.Remove(found[0]); err != nil {
			t.Fatal(err)
		}
	}
	read := func(name string) error {
		f, err := os.Open(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = io.Copy(io.Discard, f)
		return err
	}
	lines := 0
	for _, name := range []string{"rootfs/small", "rootfs/large", "layers/0/diff/small", "layers/0/layer.tar", "image.tar"} {
		if err := read(name); !errors.Is(err, unix.EIO) {
			t.Errorf("%s: %v", name, err)
		}
		if o.ReadOnly {
			continue
		}
		if n := strings.Count(text(t, errorsFile), "is missing in its directory"); n <= lines {
			t.Errorf("%s: ctl/errors has no line more: %s", name, text(t, errorsFile))
		} else {
			lines = n
		}
	}
	if err := read("rootfs/kept"); err != nil {
		t.Errorf("another file: %v", err)
	}

	// Now the layer is removed, as docker does it: its record first.
	if o.ReadOnly {
		return // its readers are kept for a while
	}
	all := text(t, errorsFile)
	record := filepath.Join(s.Root(), "image/overlay2/layerdb/sha256", store.ChainID([]digest.Digest{digest.FromBytes(tar)}).Encoded())
	if err := os.Rename(record, record+"-removing"); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"rootfs/small", "rootfs/large", "layers/0/layer.tar", "image.tar"} {
		if err := read(name); !errors.Is(err, unix.ESTALE) {
			t.Errorf("%s of a layer that is being removed: %v", name, err)
		}
	}
	if now := text(t, errorsFile); now != all {
		t.Errorf("ctl/errors has more lines: %s", now)
	}
}
