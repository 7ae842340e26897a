package engines

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"imagefs/integration/harness"
)

// The stores that dockerd, podman and containerd made of the same archives, and
// an archive, mounted together: each image is one, whoever has it, and each
// store alone shows the same of it, which is what the kernel shows.
func TestStoresTogether(t *testing.T) {
	harness.Need(t, "root", "/dev/fuse", "podman", "containerd", "ctr")
	builder, archives := oddArchives(t)
	builder.Stop(t)
	root := filepath.Join(t.TempDir(), "docker")
	d := harness.StartDocker(t, root)
	p := harness.NewPodman(t, "overlay", 0)
	ctrd := harness.StartContainerd(t, filepath.Join(t.TempDir(), "containerd"))
	for _, a := range archives {
		d.Run(t, "load", "-q", "-i", a)
		p.Run(t, "load", "-q", "-i", a)
		ctrd.Run(t, "default", "images", "import", a)
	}
	d.Stop(t)
	ctrd.Stop(t)

	s := harness.Imagefs{Store: "docker:" + root}
	podman, containerd, saved := "podman=podman:"+p.Root, "ctrd=containerd:"+ctrd.Root, "saved="+archives["odd:1"]
	m := s.Mount(t, "--store", podman, "--store", containerd, "--store", saved)
	if got := strings.Fields(harness.Run(t, "ls", m.Path("stores"))); len(got) != 4 {
		t.Fatalf("stores: %q", got)
	}
	alone := map[string]*harness.Mount{}
	for name, spec := range map[string]string{"docker": s.Store, "podman": podman, "ctrd": containerd, "saved": saved} {
		alone[name] = harness.Imagefs{Store: spec}.Mount(t, "--read-only")
		if _, err := os.Lstat(alone[name].Path("stores")); !os.IsNotExist(err) {
			t.Errorf("%s alone has stores/: %v", name, err)
		}
	}
	for _, img := range harness.ReadRoot(t, root) {
		harness.CheckImage(t, m, img)
	}
	for ref := range archives {
		want := idOf(t, m, "images", ref)
		for name, prefix := range map[string]string{"docker": "", "podman": "localhost", "ctrd": "", "saved": ""} {
			if name == "saved" && ref != "odd:1" {
				continue
			}
			if got := idOf(t, m, "stores/"+name+"/images/"+prefix, ref); got != want {
				t.Errorf("%s of %s is %s, want %s", ref, name, got, want)
			}
			// A layer's tar says nothing of the directory at the top.
			harness.Same(t, ref+" of "+name, below(harness.ReadManifest(t, alone["docker"].Path("ids", want, "rootfs"))),
				below(harness.ReadManifest(t, alone[name].Path("ids", want, "rootfs"))))
		}
	}

	// Docker's goes; the others still have it.
	id := idOf(t, m, "images", "odd:1")
	was := harness.ReadManifest(t, m.Path("ids", id, "rootfs"))
	for _, ref := range []string{"odd:1", "odd:2", "kit:1", "localhost:5000/team/odd:live"} {
		if strings.Contains(s.Run(t, "images", "--format", "{{.Repository}}:{{.Tag}}"), ref+"\n") {
			s.Run(t, "rmi", ref)
		}
	}
	if left := s.Run(t, "images", "-aq"); left != "" {
		t.Errorf("Docker's store still has %s", left)
	}
	shows(t, m, "stores/docker/images/odd", false)
	if took := harness.Until(func() bool {
		b, err := os.ReadFile(m.Path("ids", id, "rootfs/version"))
		return err == nil && len(b) > 0
	}); took < 0 {
		t.Error("the image cannot be read from the others")
	}
	if got := idOf(t, m, "images", "odd:1"); got != id {
		t.Errorf("odd:1 is %s now", got)
	}
	harness.Same(t, "odd:1 without Docker's", below(was), below(harness.ReadManifest(t, m.Path("ids", id, "rootfs"))))
}

// idOf returns the ID of the image of a name in a directory of names.
func idOf(t *testing.T, m *harness.Mount, dir, ref string) string {
	t.Helper()
	repo, tag, _ := strings.Cut(ref, ":")
	to, err := filepath.EvalSymlinks(m.Path(dir, repo, tag))
	if err != nil {
		t.Errorf("%s in %s: %v", ref, dir, err)
	}
	return filepath.Base(to)
}
