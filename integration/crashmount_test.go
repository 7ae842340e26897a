package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"imagefs/integration/harness"
	"imagefs/store/storetest"
)

// namesShown is the names in a mount's images/ and the images they lead to.
func namesShown(t *testing.T, m *harness.Mount) []string {
	t.Helper()
	var out []string
	var walk func(dir string)
	walk = func(dir string) {
		list, err := os.ReadDir(m.Path("images", dir))
		if err != nil {
			t.Error(err)
			return
		}
		for _, e := range list {
			p := filepath.Join(dir, e.Name())
			if e.IsDir() {
				walk(p)
				continue
			}
			out = append(out, fmt.Sprintf("%s:%s=%s", dir, e.Name(), strings.TrimSpace(m.Read(t, "images", p, "id"))))
		}
	}
	walk("")
	slices.Sort(out)
	return out
}

// namesStored is the same of the store on disk, read without imagefs.
func namesStored(t *testing.T, store string) []string {
	t.Helper()
	var out []string
	for _, i := range harness.ReadRoot(t, store) {
		for _, n := range i.Names {
			out = append(out, n+"="+i.ID)
		}
	}
	slices.Sort(out)
	return out
}

// interim is the name that ln gives a link which then replaces another.
var interim = regexp.MustCompile(` "app:Cu[0-9A-Za-z]{6}"|"app:Cu[0-9A-Za-z]{6}" `)

// TestServerKilledAtEveryStep kills the server of a mount at each change that a
// command or a file operation makes to the store, and then the one that takes
// its place. Whatever the kernel told the caller is true afterwards: what
// succeeded is there, what failed has happened wholly or not at all.
func TestServerKilledAtEveryStep(t *testing.T) {
	harness.Need(t, "root", "/dev/fuse", "mv", "ln")
	full := harness.NewStore(t)
	full.Run(t, "load", "-i", crashArchive(t))
	one := strings.TrimSpace(full.Run(t, "images", "-q", "--no-trunc", "app:2"))
	full.Run(t, "tag", "app:1", "spare:1")
	root := filepath.Join(t.TempDir(), "a root.tar")
	if err := os.WriteFile(root, storetest.Files("etc/=", "etc/passwd=root"), 0o644); err != nil {
		t.Fatal(err)
	}
	program, err := crashBinary()
	if err != nil {
		t.Fatal(err)
	}
	more := filepath.Join(t.TempDir(), "more.tar")
	image := storetest.Image{Names: []string{"app:2", "more:1"}, Layers: [][]byte{storetest.Files("more/=", "more/f=1")}}
	if err := os.WriteFile(more, storetest.Docker(image).Tar(), 0o644); err != nil {
		t.Fatal(err)
	}
	// $1 is an archive, $2 a root file system.
	shell := func(script string) func(m *harness.Mount) error {
		return func(m *harness.Mount) error {
			c := exec.Command("sh", "-ec", script, "sh", more, root)
			c.Dir = m.Dir
			out, err := c.CombinedOutput()
			if err != nil {
				return fmt.Errorf("%w\n%s", err, out)
			}
			return nil
		}
	}
	write := func(file, line string) func(m *harness.Mount) error {
		return func(m *harness.Mount) error { return os.WriteFile(m.Path("ctl", file), []byte(line), 0) }
	}
	for _, c := range []struct {
		name    string
		do      func(m *harness.Mount) error
		least   int
		between []string // what leads to the states on the way, if it is several commands
	}{
		{"rename", shell("mv -T images/app/1 images/app/x"), 4, nil},
		{"rename onto a name", shell("mv -T images/app/1 images/app/2"), 4, nil},
		{"rename onto the last name of an image", shell("mv -T images/spare/1 images/app/2"), 4, nil},
		{"rename into another repository", shell("mv -T images/app/1 images/team/app/latest"), 4, nil},
		{"exchange", func(m *harness.Mount) error {
			return unix.Renameat2(unix.AT_FDCWD, m.Path("images/app/1"), unix.AT_FDCWD, m.Path("images/app/2"), unix.RENAME_EXCHANGE)
		}, 4, nil},
		{"link", shell("ln -s app:1 images/app/x"), 4, nil},
		{"link that replaces", shell("ln -sfn app:1 images/app/2"), 8, nil},
		{"unlink", shell("rm images/app/1"), 3, nil},
		{"unlink of an image's last name", shell("rm images/app/2"), 3, nil},
		{"removal of a directory of names", shell("rm -r images/spare"), 3, nil},
		{"removal of an image", shell("rmdir ids/" + strings.TrimPrefix(one, "sha256:")), 10, nil},
		{"ctl/tag of what is there", write("tag", "app:1 app:2\n"), 4, nil},
		{"ctl/rmi of a name", write("rmi", "spare:1"), 3, nil},
		{"ctl/rmi of an image", write("rmi", "-f "+one), 10, nil},
		{"ctl/prune", shell("rm images/app/2; echo dangling >ctl/prune"), 15, []string{"rm images/app/2"}},
		{"ctl/import", shell(`echo "\"$2\" root:1" >ctl/import`), 20, nil},
		{"ctl/load", shell(`cat "$1" >ctl/load`), 20, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			fresh := func() harness.Imagefs {
				s := harness.NewStore(t)
				harness.Run(t, "cp", "-a", full.Store, s.Store)
				return s
			}
			state := func(s harness.Imagefs) string {
				lines := strings.Split(imported.ReplaceAllString(stateOf(t, s.Store), `sha256:x ["root:1"]`), "\n")
				slices.Sort(lines)
				return strings.Join(lines, "\n")
			}
			s := fresh()
			before := state(s)
			m := s.Mount(t)
			if err := c.do(m); err != nil {
				t.Fatal(err)
			}
			m.Stop(t)
			after := state(s)
			allowed := []string{before, after}
			for _, script := range c.between {
				s := fresh()
				m := s.Mount(t)
				if err := shell(script)(m); err != nil {
					t.Fatal(err)
				}
				m.Stop(t)
				allowed = append(allowed, state(s))
			}
			if before == after && c.between == nil {
				t.Fatalf("it changes nothing:\n%s", after)
			}
			dir := t.TempDir()
			steps, died := 1, 0
			for ; ; steps++ {
				s := fresh()
				when := fmt.Sprintf("killed at step %d", steps)
				crashing := s
				crashing.Program, crashing.Env = program, []string{fmt.Sprintf("IMAGEFS_CRASH_AT=%d", steps)}
				m := crashing.TryMountAt(t, dir)
				if m.Killed(0) { // before anything was asked of it
					if now := state(s); now != before {
						t.Errorf("%s, before it was ready:\n%s", when, now)
					}
				} else {
					err := c.do(m)
					wait := 5 * time.Second
					if err == nil {
						wait = 0
					}
					killed := m.Killed(wait)
					if err == nil {
						if now := state(s); now != after {
							t.Errorf("%s: it succeeded, but it is not there:\n%s", when, now)
						}
						if !killed {
							m.Stop(t)
							break
						}
					} else if !killed {
						t.Fatalf("%s: %v, and the server lives", when, err)
					}
					died++
				}
				// The next dies while it recovers, or soon after; the one after that does not.
				again := s
				again.Program, again.Env = program, []string{fmt.Sprintf("IMAGEFS_CRASH_AT=%d", 1+steps%5)}
				if m := again.TryMountAt(t, dir); !m.Killed(50 * time.Millisecond) {
					m.Kill()
				}
				m = s.MountAt(t, dir)
				tidy(t, s, when+", mounted again")
				stored, shown := namesStored(t, s.Store), namesShown(t, m)
				if !slices.Equal(stored, shown) {
					t.Errorf("%s: shown are\n%q, stored\n%q", when, shown, stored)
				}
				m.Stop(t)
				whole(t, s, when)
				now := state(s)
				if strings.HasPrefix(c.name, "link") && !slices.Contains(allowed, now) {
					// ln makes the link under a name of its own and renames it.
					now = interim.ReplaceAllString(now, "")
				}
				if !slices.Contains(allowed, now) {
					t.Errorf("%s: neither before nor after:\n%s", when, now)
				}
				if err := os.RemoveAll(s.Store); err != nil {
					t.Fatal(err)
				}
				if t.Failed() {
					t.FailNow()
				}
			}
			if t.Logf("%d steps", died); died < c.least {
				t.Errorf("only %d steps", died)
			}
		})
	}
}
