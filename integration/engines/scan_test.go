package engines

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"imagefs/integration/harness"
)

// TestScanners points real scanners at the rootfs of a real image, mounted and
// as docker export and tar lay it out: they find the same in both. ClamAV has
// signatures of the test's own, of a program and of a line of configuration;
// debsums compares each file with what the image's own package database says.
func TestScanners(t *testing.T) {
	harness.Need(t, "root", "/dev/fuse", "clamscan", "sigtool", "debsums", "tar")
	e := harness.SharedEngine(t)
	if e == nil {
		harness.Missing(t, "the scripts that make images")
	}
	plain := filepath.Join(t.TempDir(), "plain")
	if err := os.Mkdir(plain, 0o755); err != nil {
		t.Fatal(err)
	}
	container := strings.TrimSpace(e.Docker.Run(t, "create", e.Old, "/bin/true"))
	t.Cleanup(func() { e.Docker.Run(t, "rm", container) })
	export := exec.Command("sh", "-c", `docker export "$1" | tar -xf - -C "$2"`, "sh", container, plain)
	export.Env = append(os.Environ(), "DOCKER_HOST="+e.Docker.Host)
	harness.RunCmd(t, export)

	s := harness.NewStore(t)
	s.Run(t, "load", "-q", "-i", e.Both)
	repo, tag, _ := strings.Cut(e.Old, ":")
	mounted := s.Mount(t, "--read-only").Path("images", repo, tag, "rootfs") + "/"

	signatures := t.TempDir()
	write := func(name, content string) {
		if err := os.WriteFile(filepath.Join(signatures, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("own.hdb", harness.Run(t, "sigtool", "--md5", plain+"/usr/sbin/nginx"))
	write("own.ndb", fmt.Sprintf("Tokens:0:*:%x\n", "server_tokens off"))
	for name, scan := range map[string][]string{
		"clamscan": {"clamscan", "--database", signatures, "--recursive", "--infected", "--no-summary", "DIR"},
		"debsums":  {"debsums", "--all", "--silent", "--root", "DIR"},
	} {
		want, got := findings(t, scan, plain), findings(t, scan, mounted)
		harness.Same(t, name, want, got)
		if len(got) < 2 {
			t.Errorf("%s finds too little to tell: %q", name, got)
		}
	}
}

// findings are the lines of a scanner's report, sorted, with the paths as they are in the image.
func findings(t *testing.T, scan []string, dir string) []string {
	t.Helper()
	args := slices.Clone(scan)
	args[slices.Index(args, "DIR")] = dir
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || exit.ExitCode() > 2) {
		t.Fatalf("%q: %v\n%s", args, err, out)
	}
	dir = strings.TrimSuffix(dir, "/")
	lines := harness.Lines(strings.ReplaceAll(string(out), dir, ""))
	for n := range lines {
		lines[n] = strings.ReplaceAll(lines[n], " //", " /")
	}
	slices.Sort(lines)
	return lines
}
