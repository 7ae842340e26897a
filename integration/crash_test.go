package integration

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"imagefs/integration/harness"
	"imagefs/store/storetest"
)

// crashBinary is imagefs built to die at the change to the store whose number
// is in the environment.
var crashBinary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "crash-")
	if err != nil {
		return "", err
	}
	c := exec.Command("go", "build", "-tags", "imagefs_crash", "-o", filepath.Join(dir, "imagefs"), "./cmd/imagefs")
	c.Dir = harness.Repo()
	if out, err := c.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build imagefs: %w\n%s", err, out)
	}
	return filepath.Join(dir, "imagefs"), nil
})

// dieAt runs the command and lets it die at a step; false if it ended before, well or not.
func dieAt(t *testing.T, s harness.Imagefs, step int, args ...string) (died bool, out string) {
	t.Helper()
	b, err := crashBinary()
	if err != nil {
		t.Fatal(err)
	}
	c := s.Cmd(t, args...)
	c.Path, c.Env = b, append(c.Env, fmt.Sprintf("IMAGEFS_CRASH_AT=%d", step))
	said, err := c.CombinedOutput()
	if err == nil {
		return false, ""
	}
	st, ok := c.ProcessState.Sys().(syscall.WaitStatus)
	return ok && st.Signal() == syscall.SIGKILL, fmt.Sprintf("%v\n%s", err, said)
}

// stateOf is the images of a store and their names, read without imagefs.
func stateOf(t *testing.T, store string) string {
	t.Helper()
	if _, err := os.Stat(filepath.Join(store, "image/overlay2/repositories.json")); err != nil {
		return "" // not even made
	}
	var out []string
	for _, i := range harness.ReadRoot(t, store) {
		out = append(out, fmt.Sprintf("%s %q %d", i.ID, i.Names, len(i.Dirs)))
	}
	slices.Sort(out)
	return strings.Join(out, "\n")
}

// whole checks that a store is whole: imagefs finds nothing wrong, and nothing
// of what was interrupted is left.
func whole(t *testing.T, s harness.Imagefs, when string) {
	t.Helper()
	if _, err := os.Stat(filepath.Join(s.Store, "image/overlay2/imagedb")); err != nil {
		return // it was not even made
	}
	c := s.Cmd(t, "check", "-q")
	if out, err := c.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("%s: check: %v\n%s", when, err, out)
	}
	tidy(t, s, when)
}

// tidy checks that nothing is left of what was interrupted.
func tidy(t *testing.T, s harness.Imagefs, when string) {
	t.Helper()
	for _, d := range []string{"imagefs/stage", "imagefs/journal", "image/overlay2/layerdb/tmp"} {
		if left, err := os.ReadDir(filepath.Join(s.Store, d)); err != nil && !os.IsNotExist(err) || len(left) > 0 {
			t.Errorf("%s: left in %s: %v %v", when, d, left, err)
		}
	}
	err := filepath.WalkDir(s.Store, func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && d.Name() == "diff" {
			return fs.SkipDir
		}
		if strings.HasPrefix(d.Name(), ".tmp-") || strings.HasSuffix(d.Name(), "-removing") {
			t.Errorf("%s: left behind: %s", when, p)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// crashArchive has two images that share a layer, and something of everything
// that the store keeps: whiteouts, a hard link into the layer below, a file
// that only the tar has.
func crashArchive(t *testing.T) string {
	t.Helper()
	base := storetest.Files("etc/=", "etc/passwd=root", "bin/sh=shell", "gone=x")
	top := storetest.Tar(storetest.Entry{Name: "etc/group", Body: "first"}, storetest.Entry{Name: "etc/group", Body: "second"},
		storetest.Entry{Name: ".wh.gone"}, storetest.Entry{Name: "bin/bash", Type: '1', Link: "bin/sh"})
	other := storetest.Files("other=1", "etc/.wh..wh..opq=")
	raw := storetest.Docker(
		storetest.Image{Names: []string{"app:1", "team/app:latest"}, Layers: [][]byte{base, top}},
		storetest.Image{Names: []string{"app:2"}, Layers: [][]byte{base, other}}).Tar()
	name := filepath.Join(t.TempDir(), "crash.tar")
	if err := os.WriteFile(name, raw, 0o644); err != nil {
		t.Fatal(err)
	}
	return name
}

// TestKilledAtEveryStep kills a load, removals and a tag at each change that
// they make, and then the recovery too. After the next start everything or
// nothing of it has happened.
func TestKilledAtEveryStep(t *testing.T) {
	harness.Need(t, "root", "go")
	archive := crashArchive(t)
	full := harness.NewStore(t)
	full.Run(t, "load", "-i", archive)
	root := filepath.Join(t.TempDir(), "root.tar")
	if err := os.WriteFile(root, storetest.Files("etc/=", "etc/passwd=root"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		from  string // a store to start with, "" for none
		args  []string
		least int // steps that there must be
	}{
		"load":                      {"", []string{"load", "-i", archive}, 60},
		"load of what is there":     {full.Store, []string{"load", "-i", archive}, 5},
		"rmi of a name":             {full.Store, []string{"rmi", "app:1"}, 3},
		"rmi of a name and image":   {full.Store, []string{"rmi", "app:2"}, 10},
		"rmi by ID, with all names": {full.Store, []string{"rmi", "-f", strings.Fields(full.Run(t, "images", "-q", "--no-trunc", "app:1"))[0]}, 10},
		"prune of several":          {full.Store, []string{"prune", "-af"}, 15},
		"tag":                       {full.Store, []string{"tag", "app:1", "new/name:x"}, 4},
		"tag that is taken":         {full.Store, []string{"tag", "app:1", "app:2"}, 4},
		"import":                    {full.Store, []string{"import", root, "root:1"}, 20},
		"copy of several":           {"", []string{"copy", "app", "--to", "HERE"}, 40},
	} {
		t.Run(name, func(t *testing.T) {
			fresh := func() harness.Imagefs {
				s := harness.NewStore(t)
				if c.from != "" {
					harness.Run(t, "cp", "-a", c.from, s.Store)
				}
				return s
			}
			args := func(s harness.Imagefs) []string {
				out := slices.Clone(c.args)
				for n := range out {
					out[n] = strings.ReplaceAll(out[n], "HERE", s.Store)
				}
				return out
			}
			by := func(s harness.Imagefs) harness.Imagefs { // who does it
				if c.args[0] == "copy" {
					return full
				}
				return s
			}
			state := func(s harness.Imagefs) string {
				if name == "import" { // each has a time, and with that an ID, of its own
					lines := strings.Split(imported.ReplaceAllString(stateOf(t, s.Store), `sha256:x ["root:1"]`), "\n")
					slices.Sort(lines)
					return strings.Join(lines, "\n")
				}
				return stateOf(t, s.Store)
			}
			done := fresh()
			before := state(done)
			by(done).Run(t, args(done)...)
			after := state(done)
			if before == after && name != "load of what is there" {
				t.Fatalf("it changes nothing:\n%s", after)
			}
			steps := 1
			for ; ; steps++ {
				s := fresh()
				when := fmt.Sprintf("killed at step %d", steps)
				died, out := dieAt(t, by(s), steps, args(s)...)
				if !died {
					if out != "" {
						t.Errorf("%s: %s", when, out)
					}
					break
				}
				// The one that recovers is killed as well.
				_, _ = dieAt(t, s, 1+steps%7, "images")
				whole(t, s, when)
				now := state(s)
				if now != before && now != after {
					t.Errorf("%s: neither before nor after:\n%s", when, now)
				}
				if strings.HasPrefix(name, "load") || strings.HasPrefix(name, "copy") {
					by(s).Run(t, args(s)...)
					whole(t, s, when+", loaded again")
					if again := state(s); again != after {
						t.Errorf("%s: loaded again:\n%s", when, again)
					}
				}
				if err := os.RemoveAll(s.Store); err != nil {
					t.Fatal(err)
				}
				if t.Failed() {
					t.FailNow()
				}
			}
			if t.Logf("%d steps", steps-1); steps <= c.least {
				t.Errorf("only %d steps", steps-1)
			}
		})
	}
}

// imported is the line of stateOf of what was imported.
var imported = regexp.MustCompile(`sha256:[0-9a-f]{64} \["root:1"\]`)

// TestKilledAtAnyTime kills a load and a removal whenever it comes.
func TestKilledAtAnyTime(t *testing.T) {
	harness.Need(t, "root")
	var files []string
	for n := range 800 {
		files = append(files, fmt.Sprintf("d%d/f%d=%s", n%30, n, strings.Repeat("x", n*7)))
	}
	layers := [][]byte{storetest.Files(files[:300]...), storetest.Files(files[300:]...)}
	archive := filepath.Join(t.TempDir(), "large.tar")
	if err := os.WriteFile(archive, storetest.Docker(storetest.Image{Names: []string{"large:1"}, Layers: layers}).Tar(), 0o644); err != nil {
		t.Fatal(err)
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	s := harness.NewStore(t)
	start := time.Now()
	s.Run(t, "load", "-i", archive)
	loading := time.Since(start)
	loaded := stateOf(t, s.Store)
	for round := range 15 {
		args := []string{"load", "-i", archive}
		if stateOf(t, s.Store) != "" {
			args = []string{"rmi", "large:1"}
		}
		c := s.Cmd(t, args...)
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(r.Int64N(int64(loading + loading/4))))
		_ = c.Process.Kill()
		_ = c.Wait()
		when := fmt.Sprintf("round %d: %s", round, args[0])
		whole(t, s, when)
		if now := stateOf(t, s.Store); now != "" && now != loaded {
			t.Fatalf("%s: half there:\n%s", when, now)
		}
	}
	s.Run(t, "load", "-i", archive)
	whole(t, s, "at the end")
}

// TestManyAtOnce lets processes load the same, remove it and look at it at the same time.
func TestManyAtOnce(t *testing.T) {
	harness.Need(t, "root")
	archive := crashArchive(t)
	s := harness.NewStore(t)
	s.Run(t, "load", "-i", archive)
	after := stateOf(t, s.Store)
	s.Run(t, "rmi", "app:1", "team/app", "app:2")
	t.Run("two loads of the same", func(t *testing.T) {
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				if out, err := s.Cmd(t, "load", "-i", archive).CombinedOutput(); err != nil {
					t.Errorf("load: %v\n%s", err, out)
				}
			})
		}
		wg.Wait()
		whole(t, s, "after the loads")
		if now := stateOf(t, s.Store); now != after {
			t.Errorf("after the loads:\n%s", now)
		}
	})
	t.Run("load, rmi, tag and images", func(t *testing.T) {
		var wg sync.WaitGroup
		for n := range 4 {
			wg.Go(func() {
				for range 8 {
					args := [][]string{{"load", "-i", archive}, {"rmi", "app:2"}, {"tag", "app:1", "more:1"}, {"images"}}[n]
					out, err := s.Cmd(t, args...).CombinedOutput()
					// A name may be gone or not there yet, and a layer that a load counts on may go.
					if err != nil && !strings.Contains(string(out), "no such image") && !strings.Contains(string(out), "load again") {
						t.Errorf("%q: %v\n%s", args, err, out)
					}
				}
			})
		}
		wg.Wait()
		s.Run(t, "load", "-i", archive)
		whole(t, s, "at the end")
	})
}
