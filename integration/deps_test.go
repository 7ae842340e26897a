package integration

import (
	"os/exec"
	"strings"
	"testing"
)

// The direction of dependencies: cmd → fusefs → store → overlay.
func TestDependencies(t *testing.T) {
	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}}|{{join .Imports " "}}|{{join .Deps " "}}`, "imagefs/...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	seen := 0
	for line := range strings.Lines(string(out)) {
		f := strings.Split(strings.TrimSpace(line), "|")
		pkg, deps := f[0], strings.Fields(f[2])
		if under(pkg, "imagefs/overlay") {
			deps = strings.Fields(f[1]) // what it imports itself: the standard library's fmt knows files
		}
		if strings.HasPrefix(pkg, "imagefs/integration") {
			continue
		}
		seen++
		for _, d := range deps {
			if why := forbidden(pkg, d); why != "" {
				t.Errorf("%s imports %s: %s", pkg, d, why)
			}
		}
	}
	if seen < 12 {
		t.Errorf("only %d packages were looked at", seen)
	}
	// A rule that forbids nothing would not be seen to fail otherwise.
	for _, bad := range [][2]string{
		{"imagefs/overlay", "os"}, {"imagefs/overlay", "imagefs/store"}, {"imagefs/store/layer", "github.com/spf13/cobra"},
		{"imagefs/store/docker", "github.com/hanwen/go-fuse/v2/fuse"}, {"imagefs/fusefs", "imagefs/store/docker"},
		{"imagefs/store/archive", "imagefs/store/docker"}, {"imagefs/store", "imagefs/fusefs"},
	} {
		if forbidden(bad[0], bad[1]) == "" {
			t.Errorf("%s may import %s", bad[0], bad[1])
		}
	}
}

// kinds are the packages that are a kind of store, or read one.
var kinds = []string{"imagefs/store/docker", "imagefs/store/containerd", "imagefs/store/containers", "imagefs/store/archive"}

func under(pkg, dir string) bool { return pkg == dir || strings.HasPrefix(pkg, dir+"/") }

// forbidden tells why a package must not depend on another, "" if it may.
func forbidden(pkg, dep string) string {
	own := under(dep, "imagefs")
	switch {
	case under(pkg, "imagefs/overlay"):
		if own && !under(dep, "imagefs/overlay") {
			return "overlay is pure"
		}
		if dep == "os" || dep == "net" || strings.Contains(strings.Split(dep, "/")[0], ".") {
			return "overlay knows the standard library only, and no files"
		}
	case under(pkg, "imagefs/store"):
		if under(dep, "imagefs/fusefs") || under(dep, "imagefs/cmd") {
			return "a store does not know who shows it"
		}
		if strings.HasPrefix(dep, "github.com/hanwen/go-fuse") || strings.HasPrefix(dep, "github.com/spf13/cobra") {
			return "a store knows neither FUSE nor a command line"
		}
		for _, k := range kinds {
			if under(dep, k) && !under(pkg, k) {
				return "kinds of store do not know each other"
			}
		}
	case under(pkg, "imagefs/fusefs"):
		for _, k := range kinds {
			if under(dep, k) {
				return "the file system knows no concrete store"
			}
		}
		if under(dep, "imagefs/cmd") || strings.HasPrefix(dep, "github.com/spf13/cobra") {
			return "the file system knows no command line"
		}
	}
	return ""
}
