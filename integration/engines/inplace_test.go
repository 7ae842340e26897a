package engines

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"imagefs/integration/harness"
)

// One image in every form of archive, mounted where it lies, is what a store
// shows into which it was loaded.
func TestArchivesInPlace(t *testing.T) {
	harness.Need(t, "root", "/dev/fuse")
	cache, err := harness.CacheDir()
	if err != nil {
		t.Fatal(err)
	}
	for loaded, forms := range map[string][]string{
		"tiny-1.docker.tar": {"tiny-1.docker.tar", "tiny-1.oci", "tiny-1.oci.tar", "tiny-1.zstd.oci"},
		"web-1.docker.tar":  {"web-1.docker.tar", "web-1.docker.tar.gz", "web-1.oci.tar", "web-1.zstd.oci"},
	} {
		path := filepath.Join(cache, "images", loaded)
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			t.Logf("no %s: the reference scripts have saved no images", path)
			continue
		}
		s := harness.NewStore(t)
		s.Run(t, "load", "-i", path)
		m := s.Mount(t)
		want := harness.ReadManifest(t, rootfs(t, m))
		for _, form := range forms {
			t.Run(form, func(t *testing.T) {
				p := filepath.Join(cache, "images", form)
				before := listing(t, filepath.Dir(p))
				in := harness.Imagefs{Store: p}.Mount(t)
				harness.Same(t, form, want, harness.ReadManifest(t, rootfs(t, in)))
				in.Stop(t)
				if after := listing(t, filepath.Dir(p)); after != before {
					t.Errorf("beside the archive:\n%s\nbefore:\n%s", after, before)
				}
				harness.Imagefs{Store: p}.Run(t, "check")
			})
		}
	}
}

// rootfs is the tree of the only image of a mount.
func rootfs(t *testing.T, m *harness.Mount) string {
	t.Helper()
	ids, err := filepath.Glob(m.Path("ids", "*", "rootfs"))
	if err != nil || len(ids) != 1 {
		t.Fatalf("%d images, %v", len(ids), err)
	}
	return ids[0]
}

func listing(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	s := ""
	for _, e := range entries {
		st, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		s += e.Name() + " " + st.ModTime().String() + "\n"
	}
	return s
}
