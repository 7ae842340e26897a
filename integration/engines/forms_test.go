package engines

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"imagefs/integration/harness"
)

// newPodman returns a function that runs podman on a storage of its own.
func newPodman(t *testing.T) func(t *testing.T, args ...string) string {
	t.Helper()
	run, err := os.MkdirTemp("", "p") // at most 50 characters
	if err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(t.TempDir(), "root")
	t.Cleanup(func() {
		// It keeps its storage mounted on itself.
		for _, m := range []string{filepath.Join(root, "overlay"), root} {
			_ = unix.Unmount(m, unix.MNT_DETACH)
		}
	})
	return func(t *testing.T, args ...string) string {
		t.Helper()
		return harness.Run(t, "podman", append([]string{"--root", root, "--runroot", run, "--tmpdir", run, "--storage-driver", "overlay", "--cgroup-manager", "cgroupfs", "--events-backend", "none", "--runtime", "runc"}, args...)...)
	}
}

// skopeoCopy copies an image with skopeo.
func skopeoCopy(t *testing.T, args ...string) {
	t.Helper()
	harness.Run(t, "skopeo", append([]string{"--insecure-policy", "copy", "-q"}, args...)...)
}

// toOCI writes the image of a docker archive into dir, in the forms of OCI: as
// oci.tar, and as the directories layout and, compressed so, zstd.
func toOCI(t *testing.T, archive, dir string) {
	t.Helper()
	from, at := "docker-archive:"+archive, func(name string) string { return filepath.Join(dir, name) + ":1" }
	skopeoCopy(t, from, "oci:"+at("layout"))
	skopeoCopy(t, from, "oci-archive:"+at("oci.tar"))
	skopeoCopy(t, "--dest-compress", "--dest-compress-format", "zstd", from, "oci:"+at("zstd"))
}

// One image in every form that the tools write loads as the same layers.
func TestForms(t *testing.T) {
	harness.Need(t, "root", "/dev/fuse", "skopeo", "umoci", "podman", "runc", "gzip", "bzip2", "xz", "zstd")
	d := harness.StartDocker(t, filepath.Join(t.TempDir(), "docker"))
	d.Build(t, false, "odd:1", oddContext(t))
	dir := t.TempDir()
	plain := filepath.Join(dir, "plain.tar")
	d.Run(t, "save", "-o", plain, "odd:1")
	want := image(t, harness.ReadRoot(t, d.Root), "odd:1")

	at := func(name string) string { return filepath.Join(dir, name) }
	toOCI(t, plain, dir)
	skopeoCopy(t, "docker-archive:"+plain, "docker-archive:"+at("skopeo.tar")+":odd:1")
	podman := newPodman(t)
	podman(t, "load", "-q", "-i", plain)
	podman(t, "save", "-q", "--format", "docker-archive", "-o", at("podman-docker.tar"), "odd:1")
	podman(t, "save", "-q", "--format", "oci-archive", "-o", at("podman-oci.tar"), "odd:1")
	harness.Run(t, "cp", "-a", at("layout"), at("umoci"))
	harness.Run(t, "umoci", "config", "--image", at("umoci")+":1", "--tag", "2", "--config.label", "a=b")
	for _, c := range []string{"gzip", "bzip2", "xz", "zstd"} {
		harness.Run(t, "sh", "-c", c+" -c <'"+plain+"' >'"+at("whole."+c)+"'")
	}

	for _, form := range []struct {
		name   string
		sameID bool // the config is the one that docker wrote
	}{
		{"plain.tar", true}, {"whole.gzip", true}, {"whole.bzip2", true}, {"whole.xz", true}, {"whole.zstd", true},
		{"skopeo.tar", true}, {"podman-docker.tar", true},
		{"layout", false}, {"zstd", false}, {"oci.tar", false}, {"podman-oci.tar", false}, {"umoci", false},
	} {
		t.Run(form.name, func(t *testing.T) {
			s := harness.NewStore(t)
			s.Run(t, "load", "-i", at(form.name))
			found := harness.ReadRoot(t, s.Store)
			if len(found) == 0 {
				t.Fatal("no image")
			}
			for _, img := range found {
				if !slices.Equal(img.DiffIDs, want.DiffIDs) {
					t.Errorf("layers %v, want %v", img.DiffIDs, want.DiffIDs)
				}
				if form.sameID && img.ID != want.ID {
					t.Errorf("ID %s, want %s", img.ID, want.ID)
				}
			}
			s.Run(t, "check")
			m := s.Mount(t)
			harness.CheckImage(t, m, found[0])
		})
	}
	t.Run("pipe", func(t *testing.T) {
		s := harness.NewStore(t)
		c := s.Cmd(t, "load")
		save := exec.Command("cat", at("whole.gzip"))
		var err error
		if c.Stdin, err = save.StdoutPipe(); err != nil {
			t.Fatal(err)
		}
		if err := save.Start(); err != nil {
			t.Fatal(err)
		}
		harness.RunCmd(t, c)
		if err := save.Wait(); err != nil {
			t.Error(err)
		}
		if got := strings.TrimSpace(s.Run(t, "images", "-q", "--no-trunc")); got != want.ID {
			t.Errorf("ID %s, want %s", got, want.ID)
		}
	})
	t.Run("rootfs", func(t *testing.T) {
		// An engine runs programs on a mounted rootfs, with its own layer on top.
		m := harness.Imagefs{Store: d.Root}.Mount(t)
		out := podman(t, "run", "--rm", "--network", "none", "--ulimit", "nofile=256:256", "--ulimit", "nproc=256:256",
			"--rootfs", m.Path("ids", want.ID[7:], "rootfs")+":O", "/bin/busybox", "sh", "-c", "cat /version && echo x >/written && cat /written")
		if out != "version 1\nx\n" {
			t.Errorf("podman run --rootfs: %q", out)
		}
	})
}
