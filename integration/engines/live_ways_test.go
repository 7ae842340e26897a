package engines

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"imagefs/integration/harness"
)

// moreLive does to a living daemon's store what came after tag, rmi and load:
// import, copy, prune, and the state of it all.
func moreLive(t *testing.T, d *harness.Docker, m *harness.Mount, s harness.Imagefs, agree func(*testing.T)) {
	t.Run("status", func(t *testing.T) {
		var st struct {
			Stores []struct {
				Why              string
				Writable, Daemon bool
			}
		}
		if err := json.Unmarshal([]byte(m.Read(t, "ctl/status")), &st); err != nil {
			t.Fatal(err)
		}
		if len(st.Stores) != 1 || !st.Stores[0].Writable || !st.Stores[0].Daemon {
			t.Errorf("%+v", st)
		}
	})
	t.Run("import", func(t *testing.T) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "hello"), []byte("hello\n"), 0o640); err != nil {
			t.Fatal(err)
		}
		tar := filepath.Join(t.TempDir(), "root.tar")
		harness.Run(t, "tar", "-C", dir, "-cf", tar, ".")
		id := strings.TrimSpace(s.Run(t, "import", "-q", "-c", "ENV A=1", tar, "imported:1"))
		if got := d.ID(t, "imported:1"); got != id {
			t.Errorf("docker has %s, imagefs said %s", got, id)
		}
		if env := d.Run(t, "image", "inspect", "-f", "{{.Config.Env}}", "imported:1"); env != "[A=1]\n" {
			t.Errorf("%q", env)
		}
		if err := os.WriteFile(m.Path("ctl/import"), []byte(tar+" imported:2\n"), 0); err != nil {
			t.Errorf("%v\n%s", err, m.Read(t, "ctl/last"))
		}
		harness.CheckImage(t, m, byID(t, d.Root, d.ID(t, "imported:2")))
		agree(t)
	})
	t.Run("copy", func(t *testing.T) {
		other := harness.NewStore(t)
		archive := filepath.Join(t.TempDir(), "kit.tar")
		s.Run(t, "save", "-q", "-o", archive, "kit:1")
		other.Run(t, "load", "-q", "-i", archive)
		other.Run(t, "copy", "-q", "kit:1", "--to", d.Root, "--as", "copied:1")
		if d.ID(t, "copied:1") != d.ID(t, "kit:1") {
			t.Error("copied:1 is another image")
		}
		agree(t)
	})
	t.Run("prune", func(t *testing.T) {
		// An image that lost its last name, and all that the builders left.
		id := d.ID(t, "imported:1")
		if err := os.Remove(m.Path("images/imported/1")); err != nil {
			t.Fatal(err)
		}
		would := s.Run(t, "prune", "--dry-run")
		dangling := harness.Lines(d.Run(t, "images", "-q", "--no-trunc", "--filter", "dangling=true"))
		if !slices.Contains(dangling, id) {
			t.Errorf("%s is not dangling: %q", id, dangling)
		}
		did := s.Run(t, "prune", "-f")
		for _, out := range []string{would, did} {
			if !strings.Contains(out, id) {
				t.Errorf("%s does not go:\n%s", id, out)
			}
		}
		if left := d.Run(t, "images", "-q", "--filter", "dangling=true"); left != "" {
			t.Errorf("docker has %q left", left)
		}
		if err := os.WriteFile(m.Path("ctl/prune"), []byte("dangling\n"), 0); err != nil {
			t.Errorf("%v\n%s", err, m.Read(t, "ctl/last"))
		}
		if !d.Has("kit:1") {
			t.Error("kit:1 went")
		}
		agree(t)
	})
}
