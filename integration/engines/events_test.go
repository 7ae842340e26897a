package engines

import (
	"bufio"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"imagefs/integration/harness"
)

// lines are what a program has printed so far.
type lines struct {
	mu  sync.Mutex
	all []string
}

// collect starts a program and keeps what keep makes of its lines, but for "".
func collect(t *testing.T, c *exec.Cmd, keep func(line string) string) *lines {
	t.Helper()
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	l := &lines{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for r := bufio.NewReader(out); ; {
			s, err := r.ReadString('\n')
			if s = keep(s); s != "" {
				l.mu.Lock()
				l.all = append(l.all, s)
				l.mu.Unlock()
			}
			if err != nil {
				_, _ = io.Copy(io.Discard, out)
				return
			}
		}
	}()
	t.Cleanup(func() {
		_ = c.Process.Kill()
		<-done
		_ = c.Wait()
	})
	return l
}

func (l *lines) get() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.all)
}

// What dockerd does shows in ctl/events as dockerd itself tells of it, and
// ctl/status says that the store is its.
func TestEventsOfDockers(t *testing.T) {
	harness.Need(t, "root", "/dev/fuse", "cat")
	dir := harness.Family(t)
	root := t.TempDir()
	d := harness.StartDocker(t, root)
	d.Run(t, "load", "-q", "-i", dir+"/all.tar")
	m := harness.Imagefs{Store: "docker:" + root}.Mount(t)

	var st struct {
		Stores []struct {
			Kind, Why        string
			Writable, Daemon bool
		}
	}
	if err := json.Unmarshal([]byte(m.Read(t, "ctl/status")), &st); err != nil {
		t.Fatal(err)
	}
	if len(st.Stores) != 1 || st.Stores[0].Kind != "docker" || st.Stores[0].Writable || !st.Stores[0].Daemon || !strings.Contains(st.Stores[0].Why, "Docker daemon") {
		t.Errorf("status: %+v", st)
	}

	// Neither misses what is done before it has begun to read.
	events, err := os.Open(m.Path("ctl/events"))
	if err != nil {
		t.Fatal(err)
	}
	cat := exec.Command("cat")
	cat.Stdin = events
	since := time.Now().Format(time.RFC3339Nano)
	ours := collect(t, cat, func(line string) string {
		var e struct{ Op, ID string }
		if json.Unmarshal([]byte(line), &e) != nil {
			return ""
		}
		return e.Op + " " + e.ID
	})
	events.Close()
	theirs := collect(t, d.Cmd("events", "--since", since, "--filter", "type=image", "--format", "{{.Action}} {{.Actor.ID}}"), strings.TrimSpace)
	names := harness.Lines(d.Run(t, "images", "--format", "{{.Repository}}:{{.Tag}}"))
	name := ""
	for _, n := range names {
		if !strings.Contains(n, "<none>") {
			name = n
		}
	}
	for _, c := range [][]string{{"tag", name, "me/app:v1"}, {"tag", name, "me/app:v2"}, {"rmi", "me/app:v1"}, {"rmi", "-f", d.ID(t, name)}} {
		d.Run(t, c...)
		// One change after the other: what two looks do not see is not told.
		if harness.Until(func() bool {
			a, b := ours.get(), theirs.get()
			slices.Sort(a)
			slices.Sort(b)
			return len(b) > 0 && slices.Equal(a, b)
		}) < 0 {
			t.Fatalf("after %q:\nimagefs %q\ndocker  %q", c, ours.get(), theirs.get())
		}
	}
	if all := strings.Join(ours.get(), "\n"); strings.Count(all, "untag ") < 2 || !strings.Contains(all, "delete ") {
		t.Errorf("got %s", all)
	}
}
