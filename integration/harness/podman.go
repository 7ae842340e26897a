package harness

import (
	"encoding/base64"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// Podman is podman on a storage of its own.
type Podman struct {
	Root   string
	Driver string

	options []string
	run     string
	owner   uint32 // of the storage, in a user namespace of theirs; 0: root, in none
}

// The IDs that an ordinary user's user namespace has, besides their own for root.
const (
	firstSubID = 100_000
	subIDs     = 200_000
)

// NewPodman makes an empty storage that goes with the test. owner is the user
// who has it, 0 for root. Options are those of the driver.
func NewPodman(t testing.TB, driver string, owner uint32, options ...string) *Podman {
	t.Helper()
	Need(t, "root", "podman", "runc")
	run, err := os.MkdirTemp("", "p") // at most 50 characters
	if err != nil {
		t.Fatal(err)
	}
	// Nor may its owner reach what a test has to itself.
	root, err := os.MkdirTemp("", "storage")
	if err != nil {
		t.Fatal(err)
	}
	p := &Podman{Root: root, Driver: driver, options: options, run: run, owner: owner}
	for _, d := range []string{p.Root, run} {
		if err := os.Chown(d, int(owner), int(owner)); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		// It keeps its storage mounted on itself.
		for _, m := range []string{filepath.Join(p.Root, driver), p.Root} {
			_ = unix.Unmount(m, unix.MNT_DETACH)
		}
		if err := os.RemoveAll(p.Root); err != nil {
			t.Error(err)
		}
	})
	return p
}

// Cmd prepares a command that works on the storage: podman, buildah.
func (p *Podman) Cmd(name string, args ...string) *exec.Cmd {
	all := []string{"--root", p.Root, "--runroot", p.run, "--storage-driver", p.Driver}
	for _, o := range p.options {
		all = append(all, "--storage-opt", o)
	}
	if name == "podman" {
		all = append(all, "--tmpdir", p.run, "--cgroup-manager", "cgroupfs", "--events-backend", "none", "--runtime", "runc")
	}
	c := exec.Command(name, append(all, args...)...)
	c.Env = append(os.Environ(), "TMPDIR="+p.run)
	if p.owner != 0 {
		// What podman does for an ordinary user, without an entry in /etc/passwd for them.
		ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: int(p.owner), Size: 1}, {ContainerID: 1, HostID: firstSubID, Size: subIDs}}
		c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
			UidMappings: ids, GidMappings: ids, GidMappingsEnableSetgroups: true, Credential: &syscall.Credential{}}
		c.Env = append(c.Env, "HOME="+p.run, "XDG_RUNTIME_DIR="+p.run,
			"_CONTAINERS_USERNS_CONFIGURED=1", "_CONTAINERS_ROOTLESS_UID=1000", "_CONTAINERS_ROOTLESS_GID=1000")
	}
	return c
}

// Run runs a podman command, which must succeed, and returns its standard output.
func (p *Podman) Run(t testing.TB, args ...string) string {
	t.Helper()
	return RunCmd(t, p.Cmd("podman", args...))
}

// Buildah runs a buildah command on the storage.
func (p *Podman) Buildah(t testing.TB, args ...string) string {
	t.Helper()
	Need(t, "buildah")
	return RunCmd(t, p.Cmd("buildah", args...))
}

// Images reads the images of the storage by the simplest code that can, so that
// it can judge the store packages. Dirs are those of the overlay driver.
func (p *Podman) Images(t testing.TB) []DiskImage {
	t.Helper()
	var images []struct {
		ID, Layer string
		Names     []string
	}
	var layers []struct{ ID, Parent string }
	readJSON(t, filepath.Join(p.Root, p.Driver+"-images/images.json"), &images)
	readJSON(t, filepath.Join(p.Root, p.Driver+"-layers/layers.json"), &layers)
	parent := map[string]string{}
	for _, l := range layers {
		parent[l.ID] = l.Parent
	}
	var out []DiskImage
	for _, i := range images {
		d := DiskImage{ID: "sha256:" + i.ID, Names: i.Names}
		var config struct {
			RootFS struct {
				DiffIDs []string `json:"diff_ids"`
			}
		}
		b, err := os.ReadFile(filepath.Join(p.Root, p.Driver+"-images", i.ID, "="+base64.StdEncoding.EncodeToString([]byte(d.ID))))
		if err == nil {
			err = json.Unmarshal(b, &config)
		}
		if err != nil {
			t.Fatal(err)
		}
		d.DiffIDs = config.RootFS.DiffIDs
		for l := i.Layer; l != ""; l = parent[l] {
			d.Dirs = append(d.Dirs, filepath.Join(p.Root, p.Driver, l, "diff"))
		}
		slices.Reverse(d.Dirs)
		out = append(out, d)
	}
	return out
}

// Image finds an image by its name, as podman has it.
func (p *Podman) Image(t testing.TB, name string) DiskImage {
	t.Helper()
	for _, i := range p.Images(t) {
		if slices.Contains(i.Names, name) {
			return i
		}
	}
	t.Fatalf("%s is not in %s", name, p.Root)
	return DiskImage{}
}

// Readable copies a file to where everybody can read it.
func Readable(t testing.TB, file string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), filepath.Base(file))
	Run(t, "cp", file, to)
	if err := os.Chmod(to, 0o644); err != nil {
		t.Fatal(err)
	}
	for d := filepath.Dir(to); strings.HasPrefix(d, os.TempDir()+"/"); d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return to
}
