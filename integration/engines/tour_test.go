package engines

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"imagefs/integration/harness"
)

// step is a command of the README's tour and what it prints there.
type step struct{ command, output string }

// tour reads the steps of the README's tour: in its blocks of code, lines that
// begin with "# " are commands, and what follows is their output.
func tour(t *testing.T) []step {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(harness.Repo(), "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(b), "\n## A tour of")
	text, _, _ = strings.Cut(text, "\n## ")
	var out []step
	for n, block := range strings.Split(text, "\n```") {
		if n%2 == 0 {
			continue // prose
		}
		for line := range strings.Lines(strings.TrimPrefix(block, "\n")) {
			if command, ok := strings.CutPrefix(line, "# "); ok {
				out = append(out, step{command: strings.TrimSuffix(command, "\n")})
			} else if len(out) > 0 {
				out[len(out)-1].output += line
			}
		}
	}
	return out
}

// What differs from one making of the images to the next, and from one moment to another.
var (
	hexes  = regexp.MustCompile(`\b[0-9a-f]{12,64}\b`)
	ages   = regexp.MustCompile(`(About )?\b(an?|\d+) (second|minute|hour|day|week|month|year)s?( ago)?\b|Less than a second ago`)
	sizes  = regexp.MustCompile(`\b\d+(\.\d+)?[kMG]?B\b`)
	blanks = regexp.MustCompile(`[ \t]+`)
)

func plain(s string) string {
	s = hexes.ReplaceAllString(s, "(hex)")
	s = ages.ReplaceAllString(s, "(age)")
	s = sizes.ReplaceAllString(s, "(size)")
	return strings.TrimSpace(blanks.ReplaceAllString(s, " "))
}

func words(s string) string {
	return strings.Join(slices.Sorted(slices.Values(strings.Fields(s))), " ")
}

func sorted(s string) string {
	return strings.Join(slices.Sorted(strings.Lines(s+"\n")), "")
}

// TestTour does what the README tells a new user to do, and sees what it says they will see.
func TestTour(t *testing.T) {
	harness.Need(t, "root", "/dev/fuse", "bash")
	e := harness.SharedEngine(t)
	if e == nil {
		harness.Missing(t, "the scripts that make images")
	}
	dir := t.TempDir()
	harness.Run(t, "cp", filepath.Join(harness.NeedFixtures(t), "da-docker1809-alpine310.tar.gz"), filepath.Join(dir, "alpine.tar.gz"))
	if err := os.Symlink(e.Both, filepath.Join(dir, "web.tar")); err != nil {
		t.Fatal(err)
	}
	steps := tour(t)
	if len(steps) < 20 {
		t.Fatalf("the README's tour has %d commands only", len(steps))
	}
	// One shell for all, as it is for the user; a line of its own ends each command's output.
	const end = "=== end of a step ==="
	script := "exec 2>&1\ntrap 'mountpoint -q mnt && imagefs umount mnt' EXIT\n"
	for _, s := range steps {
		script += fmt.Sprintf("%s\necho; echo '%s'\n", s.command, end)
	}
	c := exec.Command("bash", "-c", script)
	c.Dir = dir
	c.Env = append(os.Environ(), "PATH="+filepath.Dir(harness.Binary(t))+":"+os.Getenv("PATH"), "IMAGEFS_STORE="+filepath.Join(dir, "store"), "LC_ALL=C.UTF-8", "TZ=UTC",
		"XDG_CACHE_HOME="+filepath.Join(dir, "cache"))
	b, err := c.Output()
	if err != nil {
		t.Errorf("the tour: %v", err)
	}
	said := strings.Split(string(b), end)
	for n, s := range steps {
		if n >= len(said)-1 {
			t.Fatalf("the tour ends before %q", s.command)
		}
		got, want := plain(said[n]), plain(s.output)
		if strings.HasPrefix(s.command, "ls ") { // in columns on a terminal
			got, want = words(got), words(want)
		}
		if strings.HasPrefix(s.command, "imagefs load ") { // in the archive's order, which docker save leaves to chance
			got, want = sorted(got), sorted(want)
		}
		if got != want {
			t.Errorf("# %s\nprints\n%s\nthe README says\n%s", s.command, got, want)
		}
	}
}
