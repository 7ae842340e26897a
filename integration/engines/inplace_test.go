package engines

import (
	"maps"
	"os"
	"path/filepath"
	"testing"

	"imagefs/integration/harness"
)

// One image in every form of archive, mounted where it lies, is what a store
// shows into which it was loaded.
func TestArchivesInPlace(t *testing.T) {
	harness.Need(t, "root", "/dev/fuse", "skopeo", "gzip")
	_, archives := oddArchives(t)
	archives = map[string]string{"odd:1": archives["odd:1"]}
	if e := harness.SharedEngine(t); e != nil {
		maps.Copy(archives, e.Archives)
	}
	for ref, archive := range archives {
		s := harness.NewStore(t)
		s.Run(t, "load", "-q", "-i", archive)
		want := harness.ReadManifest(t, rootfs(t, s.Mount(t)))
		for _, form := range forms(t, archive) {
			t.Run(ref+"/"+filepath.Base(form), func(t *testing.T) {
				before := listing(t, filepath.Dir(form))
				in := harness.Imagefs{Store: form}.Mount(t)
				harness.Same(t, form, want, harness.ReadManifest(t, rootfs(t, in)))
				in.Stop(t)
				if after := listing(t, filepath.Dir(form)); after != before {
					t.Errorf("beside the archive:\n%s\nbefore:\n%s", after, before)
				}
				harness.Imagefs{Store: form}.Run(t, "check")
			})
		}
	}
}

// forms writes what a docker archive holds in the other forms of archives, and returns the paths of all.
func forms(t *testing.T, archive string) []string {
	t.Helper()
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	harness.Run(t, "cp", archive, at("docker.tar"))
	harness.Run(t, "sh", "-c", `gzip -1 <"$1" >"$2"`, "sh", archive, at("docker.tar.gz"))
	toOCI(t, archive, dir)
	return []string{at("docker.tar"), at("docker.tar.gz"), at("layout"), at("oci.tar"), at("zstd")}
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
