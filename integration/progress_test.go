package integration

import (
	"context"
	"os/exec"
	"strings"
	"testing"
	"time"

	"imagefs/integration/harness"
)

// TestProgressOnATerminal runs commands that take more than a second on a terminal:
// they show how far they are, and end as they do elsewhere.
func TestProgressOnATerminal(t *testing.T) {
	harness.Need(t, "root", "script", "stty")
	dir := t.TempDir()
	largeImage(t, dir, 3, 40<<20)
	s := harness.NewStore(t)
	on := func(command string) (string, time.Duration) {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		like := s.Cmd(t)
		c := exec.CommandContext(ctx, "script", "-qec", "stty rows 24 cols 80; exec "+strings.Join(like.Args, " ")+" "+command, "/dev/null")
		c.Env, c.Dir, c.WaitDelay = like.Env, dir, time.Second
		start := time.Now()
		out, err := c.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%.2000s", command, err, out)
		}
		return string(out), time.Since(start)
	}
	for _, c := range []struct {
		command string
		bar     bool
		last    string
	}{
		{"load -i large.tar", true, "Loaded image: large:1"},
		{"copy large:1 --to oci:gzip --compress gzip", true, "Copied image: large:1"},
		{"copy large:1 --to docker-archive:out.tar --compress gzip", true, "Copied image: large:1"},
		{"copy large:1 --to docker:copied", true, "Copied image: large:1"},
		{"copy -q large:1 --to oci:quiet --compress gzip", false, "Copied image: large:1"},
	} {
		out, took := on(c.command)
		if !strings.HasSuffix(strings.TrimSpace(out), c.last) {
			t.Errorf("%s: the end is %q", c.command, out[max(0, len(out)-200):])
		}
		shown := strings.Contains(out, " of 125.8") // bytes of all layers
		t.Logf("%s: %v, a bar: %v", c.command, took.Round(time.Millisecond), shown)
		if shown && !c.bar || !shown && c.bar && took > 3*time.Second {
			t.Errorf("%s: a bar: %v, after %v\n%.500q", c.command, shown, took, out)
		}
	}
}
