package engines

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"imagefs/integration/harness"
)

// A daemon's store is read in place while the daemon lives and when it is
// dead, and written only when it is dead.
func TestDockersStore(t *testing.T) {
	harness.Need(t, "root", "/dev/fuse")
	root := filepath.Join(t.TempDir(), "docker")
	d := harness.StartDocker(t, root)
	refs := buildOdd(t, d)
	s := harness.Imagefs{Store: root}

	t.Run("alive", func(t *testing.T) {
		m := s.Mount(t)
		sameList(t, d, s)
		for _, ref := range refs {
			t.Run(ref, func(t *testing.T) { checkAgainst(t, d, m, ref) })
		}
		if to, err := filepath.EvalSymlinks(m.Path("images/localhost:5000/team/odd/live")); err != nil || filepath.Base(to) != d.ID(t, "odd:2")[7:] {
			t.Errorf("localhost:5000/team/odd:live: %s %v", to, err)
		}
		if err := os.WriteFile(m.Path("ctl/tag"), []byte("odd:1 odd:mine\n"), 0); !errors.Is(err, unix.EROFS) {
			t.Errorf("tag behind a daemon's back: %v, want EROFS", err)
		}
		if _, said := s.Fail(t, "tag", "odd:1", "odd:mine"); !strings.Contains(said, "daemon is running") {
			t.Errorf("tag behind a daemon's back: %q", said)
		}
		d.Run(t, "tag", "odd:1", "odd:new")
		shows(t, m, "images/odd/new/rootfs/version", true)
		d.Run(t, "rmi", "odd:new")
		shows(t, m, "images/odd/new", false)
	})
	d.Stop(t)
	t.Run("dead", func(t *testing.T) {
		m := s.Mount(t)
		for _, img := range harness.ReadRoot(t, root) {
			if len(img.Names) > 0 {
				harness.CheckImage(t, m, img)
			}
		}
		s.Run(t, "check")
		if err := os.WriteFile(m.Path("ctl/tag"), []byte("odd:1 odd:mine\n"), 0); err != nil {
			t.Errorf("tag in a dead daemon's store: %v", err)
		}
		s.Run(t, "rmi", "odd:2", "localhost:5000/team/odd:live")
	})
	d = harness.StartDocker(t, root)
	sameList(t, d, s)
	if d.ID(t, "odd:mine") != d.ID(t, "odd:1") {
		t.Error("the daemon does not see the tag that was made while it was dead")
	}
	if out := d.Run(t, "run", "--rm", "--network", "none", "odd:mine", "cat", "/version"); out != "version 1\n" {
		t.Errorf("%q", out)
	}
}

// shows waits for what a daemon did to show in a mount.
func shows(t *testing.T, m *harness.Mount, path string, want bool) {
	t.Helper()
	took := harness.Until(func() bool {
		_, err := os.Stat(m.Path(path))
		return (err == nil) == want
	})
	if took < 0 {
		t.Errorf("after docker's change: %s there: %v", path, !want)
	} else if took > time.Second {
		t.Logf("docker's change took %s to show", took)
	}
}

// The store of a daemon that has real images, in place.
func TestSharedStore(t *testing.T) {
	harness.Need(t, "root", "/dev/fuse")
	e := harness.SharedEngine(t)
	if e == nil {
		t.Log("no reference scripts: TestDockersStore does this with smaller images")
		return
	}
	s := harness.Imagefs{Store: e.Docker.Root}
	sameList(t, e.Docker, s)
	m := s.Mount(t)
	for _, ref := range e.Images {
		t.Run(ref, func(t *testing.T) { checkAgainst(t, e.Docker, m, ref) })
	}
}
