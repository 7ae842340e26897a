package engines

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"imagefs/integration/harness"
)

// What is copied out of the stores of docker and podman is what it was: for the
// kernel, for a daemon that is started on the copy, and for those who read layouts.
func TestCopied(t *testing.T) {
	harness.Need(t, "root", "/dev/fuse", "skopeo", "podman", "buildah", "runc")
	d := harness.StartDocker(t, filepath.Join(t.TempDir(), "docker"))
	refs := buildOdd(t, d)
	ids := map[string]string{}
	saved := filepath.Join(t.TempDir(), "saved.tar")
	for _, ref := range refs {
		ids[ref] = d.ID(t, ref)
	}
	d.Run(t, append([]string{"save", "-o", saved}, refs...)...)
	p := harness.NewPodman(t, "overlay", 0)
	p.Run(t, "load", "-q", "-i", saved)

	from := harness.Imagefs{Store: d.Root}
	layout := filepath.Join(t.TempDir(), "layout")
	for _, c := range []struct {
		name   string
		from   harness.Imagefs
		prefix string
	}{{"docker", from, ""}, {"podman", harness.Imagefs{Store: p.Root}, "localhost/"}} {
		t.Run(c.name, func(t *testing.T) {
			to := harness.NewStore(t)
			for _, ref := range refs {
				c.from.Run(t, "copy", c.prefix+ref, "--to", to.Store, "--as", ref)
				c.from.Run(t, "copy", c.prefix+ref, "--to", "oci:"+layout, "--as", c.name+"/"+ref, "--compress", "gzip")
			}
			m := to.Mount(t)
			all := harness.ReadRoot(t, to.Store)
			for _, ref := range refs {
				img := image(t, all, ref)
				if img.ID != ids[ref] {
					t.Errorf("%s is %s, want %s", ref, img.ID, ids[ref])
				}
				harness.CheckImage(t, m, img)
			}
			root := filepath.Join(t.TempDir(), "docker")
			harness.Run(t, "cp", "-a", to.Store, root)
			other := harness.StartDocker(t, root)
			for _, ref := range refs {
				if got := other.ID(t, ref); got != ids[ref] {
					t.Errorf("dockerd has %s as %s, want %s", ref, got, ids[ref])
				}
			}
			other.Run(t, "run", "--rm", "--network", "none", "--entrypoint", "/bin/busybox", "odd:1", "true")
			other.Stop(t)
		})
	}

	// A layout to which images were added one after the other; and one that skopeo made.
	skopeo := func(args ...string) string {
		t.Helper()
		return harness.Run(t, "skopeo", append([]string{"--insecure-policy"}, args...)...)
	}
	theirs, err := os.MkdirTemp("", "l") // podman takes no capital letters
	if err != nil {
		t.Fatal(err)
	}
	skopeo("copy", "-q", "docker-archive:"+saved+":odd:1", "oci:"+theirs+":mine")
	sum := func(name string) string {
		t.Helper()
		return fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(skopeo("inspect", "--config", "--raw", "oci:"+theirs+":"+name))))
	}
	mine := sum("mine") // not Docker's: it wrote a config of its own
	from.Run(t, "copy", "odd:2", "--to", theirs, "--as", "team/odd:two")
	for name, want := range map[string]string{"mine": mine, "two": ids["odd:2"]} {
		if got := sum(name); got != want {
			t.Errorf("skopeo has %s as %s, want %s", name, got, want)
		}
		skopeo("copy", "-q", "oci:"+theirs+":"+name, "dir:"+filepath.Join(t.TempDir(), "copy"))
	}
	p.Run(t, "rmi", "-a", "-f")
	p.Run(t, "pull", "-q", "oci:"+theirs+":two")
	if got := strings.Fields(p.Run(t, "images", "-q", "--no-trunc")); !slices.Equal(got, []string{ids["odd:2"]}) {
		t.Errorf("podman has %v, want %s", got, ids["odd:2"])
	}
	s := harness.NewStore(t)
	s.Run(t, "load", "-q", "-i", layout)
	got := harness.Lines(s.Run(t, "images", "-q", "--no-trunc"))
	slices.Sort(got)
	if got = slices.Compact(got); len(got) != len(refs) {
		t.Errorf("the layout has %v, want %v", got, ids)
	}
}
