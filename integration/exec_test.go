package integration

import (
	"os"
	"os/exec"
	"testing"
	"time"

	"imagefs/integration/harness"
)

// A program that has a control file open starts others: execve(2) closes their copy
// of it, and holds up who reads certain files of /proc until that is answered.
func TestExecWithAControlFileOpen(t *testing.T) {
	harness.Need(t, "root", "/dev/fuse")
	overBoth(t, func(t *testing.T, transport string) {
		s := box(t)
		s.Transport = transport
		m := s.Mount(t)
		for _, name := range []string{"tag", "load", "status", "events"} {
			mode := os.O_WRONLY
			if name == "status" || name == "events" {
				mode = os.O_RDONLY
			}
			f, err := os.OpenFile(m.Path("ctl", name), mode, 0)
			if err != nil {
				t.Fatal(err)
			}
			hung := time.AfterFunc(20*time.Second, m.Kill)
			for range 10 {
				if err := exec.Command("/bin/true").Run(); err != nil {
					t.Error(err)
				}
			}
			if !hung.Stop() {
				t.Fatalf("a program that has ctl/%s open cannot start another", name)
			}
			if err := f.Close(); err != nil {
				t.Error(err)
			}
		}
	})
}
