package daemon

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// A path means what it means to the process whose root the view is: links in it
// do not lead out.
func TestStat(t *testing.T) {
	view := t.TempDir()
	for _, d := range []string{"lib/docker", "data"} {
		if err := os.MkdirAll(filepath.Join(view, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	outside := t.TempDir()
	for name, to := range map[string]string{"abs": "/data", "up": "../../../../data", "out": outside} {
		if err := os.Symlink(to, filepath.Join(view, name)); err != nil {
			t.Fatal(err)
		}
	}
	for path, want := range map[string]string{"/lib/docker": "lib/docker", "/abs": "data", "/up": "data", "/lib/../data": "data", "/out": "", "/none": "", outside: ""} {
		got, err := Stat(view, path)
		if want == "" {
			if err == nil {
				t.Errorf("%s was found", path)
			}
			continue
		}
		var st unix.Stat_t
		if serr := unix.Stat(filepath.Join(view, want), &st); err != nil || serr != nil || st.Ino != got.Ino || st.Dev != got.Dev {
			t.Errorf("%s is not %s: %v %v", path, want, err, serr)
		}
	}
}
