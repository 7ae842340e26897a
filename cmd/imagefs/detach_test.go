package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestDetachComesFirst: nothing that takes time is initialized before the process in the background is started.
func TestDetachComesFirst(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "imagefs")
	if err := os.Symlink(self, link); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(link, "version")
	cmd.Env = append(os.Environ(), "GODEBUG=inittrace=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	order := map[string]int{}
	for i, line := range strings.Split(string(out), "\n") {
		if f := strings.Fields(line); len(f) > 2 && f[0] == "init" {
			order[f[1]] = i + 1
		}
	}
	detach := order["imagefs/cmd/imagefs/detach"]
	if detach == 0 {
		t.Fatalf("not initialized: %v", order)
	}
	for _, slow := range []string{"github.com/distribution/reference", "github.com/opencontainers/go-digest", "github.com/hanwen/go-fuse/v2/splice", "regexp"} {
		if order[slow] == 0 || order[slow] < detach {
			t.Errorf("%s is number %d, detach %d", slow, order[slow], detach)
		}
	}
}
