package engines

import (
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"imagefs/integration/harness"
)

// made matches the ID that docker import prints, which the time of the import is part of.
var made = regexp.MustCompile(`(?m)^sha256:[0-9a-f]{64}$`)

// TestDockersWay gives docker and imagefs the same commands on the same images:
// they print the same lines, and leave the same images and names.
func TestDockersWay(t *testing.T) {
	dir := harness.Family(t)
	d := harness.StartDocker(t, t.TempDir())
	for _, act := range harness.Acts {
		if act.NotDocker {
			continue
		}
		t.Run(strings.ReplaceAll(act.Name, " ", "_"), func(t *testing.T) {
			if ids := harness.Lines(d.Run(t, "images", "-aq")); len(ids) > 0 {
				slices.Sort(ids)
				d.Run(t, append([]string{"rmi", "-f"}, slices.Compact(ids)...)...)
			}
			s := harness.NewStore(t)
			d.Run(t, "load", "-q", "-i", dir+"/all.tar")
			s.Run(t, "load", "-q", "-i", dir+"/all.tar")
			docker := func(args []string) *exec.Cmd {
				if args[0] == "prune" {
					args = append([]string{"image"}, args...)
				}
				return d.Cmd(args...)
			}
			theirs := commands(t, act, dir, d.Root, docker)
			ours := commands(t, act, dir, s.Store, func(args []string) *exec.Cmd { return s.Cmd(t, args...) })
			harness.Same(t, "what docker and imagefs print", theirs, ours)
			if got := harness.FamilyState(t, d.Root); got != act.Want {
				t.Errorf("docker's store has\n%s\nwant\n%s", got, act.Want)
			}
			if got := harness.FamilyState(t, s.Store); got != act.Want {
				t.Errorf("imagefs's store has\n%s\nwant\n%s", got, act.Want)
			}
			if act.Name != "import" { // the time of which is in its list
				sameList(t, d, s)
			}
		})
	}
}

// commands runs the commands of an act and returns the lines that they print, sorted: the order
// of the daemon's is that of a map.
func commands(t *testing.T, act harness.Act, dir, root string, command func([]string) *exec.Cmd) []string {
	t.Helper()
	var lines []string
	for n, args := range act.Commands {
		c := command(strings.Split(harness.Spell(t, strings.Join(args, "\x00"), dir, root), "\x00"))
		c.Dir = dir
		out, err := c.Output()
		if last := n == len(act.Commands)-1; (err != nil) != (last && act.Fails) {
			t.Errorf("%q: %v\n%s", c.Args, err, out)
		}
		text := string(out)
		if args[0] == "import" {
			text = made.ReplaceAllString(text, "(ID)")
		}
		lines = append(lines, harness.Lines(text)...)
	}
	slices.Sort(lines)
	return lines
}
