package integration

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"imagefs/integration/harness"
)

// TestWays does everything that changes a store in three ways: as commands,
// through control files, and as operations on the files of the tree. What is
// then in the store is what the act says, whatever the way, and the mount and
// the command line show it.
func TestWays(t *testing.T) { overBoth(t, testWays) }

func testWays(t *testing.T, transport string) {
	dir := harness.Family(t)
	for _, act := range harness.Acts {
		t.Run(strings.ReplaceAll(act.Name, " ", "_"), func(t *testing.T) {
			s := harness.NewStore(t)
			s.Transport = transport
			if len(act.Commands) > 0 && transport == "dev" { // commands know no transport
				way(t, s, dir, act, func(t *testing.T) error { return byCommand(t, s, dir, act) })
			}
			if len(act.Control) > 0 {
				way(t, s, dir, act, func(t *testing.T) error { return byControl(t, s, dir, act) })
			}
			if act.Files != "" {
				way(t, s, dir, act, func(t *testing.T) error { return byFiles(t, s, dir, act) })
			}
		})
	}
}

// way does an act in one way to a store of its own.
func way(t *testing.T, s harness.Imagefs, dir string, act harness.Act, do func(*testing.T) error) {
	t.Helper()
	if err := os.RemoveAll(s.Store); err != nil {
		t.Fatal(err)
	}
	s.Run(t, "load", "-q", "-i", dir+"/all.tar")
	if err := do(t); (err != nil) != act.Fails {
		t.Errorf("%v, should fail: %v", err, act.Fails)
	}
	if got := harness.FamilyState(t, s.Store); got != act.Want {
		t.Errorf("the store has\n%s\nwant\n%s", got, act.Want)
	}
	whole(t, s, act.Name)
}

func byCommand(t *testing.T, s harness.Imagefs, dir string, act harness.Act) error {
	var err error
	for _, args := range act.Commands {
		if err != nil {
			t.Fatalf("before %q: %v", args, err)
		}
		args = strings.Split(harness.Spell(t, strings.Join(args, "\x00"), dir, s.Store), "\x00")
		c := s.Cmd(t, args...)
		c.Dir = dir
		var said []byte
		if said, err = c.CombinedOutput(); err != nil && strings.Count(string(said), "\n") != 1 {
			t.Errorf("%q: %v: want one line\n%s", args, err, said)
		}
	}
	return err
}

func byControl(t *testing.T, s harness.Imagefs, dir string, act harness.Act) error {
	m := s.Mount(t)
	defer m.Stop(t)
	var err error
	for _, line := range act.Control {
		if err != nil {
			t.Fatalf("before %q: %v", line, err)
		}
		file, command, _ := strings.Cut(harness.Spell(t, line, dir, s.Store), " ")
		err = os.WriteFile(m.Path("ctl", file), []byte(command+"\n"), 0)
		if r := last(t, m); r.OK != (err == nil) || r.Op != file || (r.Error == "") != (err == nil) {
			t.Errorf("%q: %v, and ctl/last: %+v", line, err, r)
		}
	}
	shows(t, m, act)
	return err
}

func byFiles(t *testing.T, s harness.Imagefs, dir string, act harness.Act) error {
	m := s.Mount(t)
	defer m.Stop(t)
	c := exec.Command("sh", "-ec", harness.Spell(t, act.Files, dir, s.Store))
	c.Dir = m.Dir
	said, err := c.CombinedOutput()
	if (err != nil) != act.Fails {
		t.Errorf("%s: %s", act.Files, said)
	}
	shows(t, m, act)
	return err
}

// shows checks that the mount has the names that the act leaves.
func shows(t *testing.T, m *harness.Mount, act harness.Act) {
	t.Helper()
	ids, err := os.ReadDir(m.Path("ids"))
	if err != nil {
		t.Fatal(err)
	}
	if want := len(harness.Lines(act.Want)); len(ids) != want {
		t.Errorf("ids/ has %d images, want %d", len(ids), want)
	}
	left := map[string]bool{}
	for _, line := range harness.Lines(act.Want) {
		for _, name := range strings.Fields(line)[1:] {
			left[name] = true
			repo, tag, _ := strings.Cut(name, ":")
			letter := strings.Fields(line)[0]
			if got := m.Read(t, "images", repo, tag, "rootfs/etc", letter); got != letter+"\n" {
				t.Errorf("%s: %q", name, got)
			}
		}
	}
	for _, name := range []string{"app:1", "app:2", "team/app:latest", "other:1"} {
		repo, tag, _ := strings.Cut(name, ":")
		if _, err := os.Lstat(m.Path("images", repo, tag)); !left[name] && !os.IsNotExist(err) {
			t.Errorf("%s is still there: %v", name, err)
		}
	}
}
