package engines

import (
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"imagefs/integration/harness"
)

// ordinary is a user who has a store of their own.
const ordinary = 1000

// podmanImages are archives to be loaded, and a mount of the embedded store with the same images.
type podmanImages struct {
	archives []string // readable to everybody
	refs     []string // as the embedded store has them
	ours     *harness.Mount
}

func newPodmanImages(t *testing.T) podmanImages {
	t.Helper()
	d := harness.StartDocker(t, filepath.Join(t.TempDir(), "docker"))
	p := podmanImages{refs: buildOdd(t, d)}
	s := harness.NewStore(t)
	add := func(archive string) {
		p.archives = append(p.archives, harness.Readable(t, archive))
		s.Run(t, "load", "-q", "-i", archive)
	}
	for _, ref := range p.refs {
		saved := filepath.Join(t.TempDir(), "saved.tar")
		d.Run(t, "save", "-o", saved, ref)
		add(saved)
	}
	d.Stop(t)
	if e := harness.SharedEngine(t); e != nil && !testing.Short() {
		add(e.Archives["tiny:1"])
		add(e.Both)
		p.refs = append(p.refs, "tiny:1", e.Old, e.New)
	}
	p.ours = s.Mount(t)
	return p
}

// path is where a mount has an image of podman's, whose names have a registry.
func path(m *harness.Mount, ref string) string {
	return m.Path("images/localhost", strings.Replace(ref, ":", "/", 1))
}

// Stores of podman, of root and of an ordinary user, with either driver, show
// what the same archives show in the embedded store.
func TestPodmansStore(t *testing.T) {
	harness.Need(t, "root", "/dev/fuse", "podman", "buildah", "fuse-overlayfs")
	images := newPodmanImages(t)
	for _, c := range []struct {
		name    string
		driver  string
		owner   uint32
		options []string
	}{
		{"overlay", "overlay", 0, nil},
		{"overlay of an ordinary user", "overlay", ordinary, nil},
		{"fuse-overlayfs", "overlay", 0, []string{"overlay.mount_program=/usr/bin/fuse-overlayfs"}},
		{"vfs", "vfs", 0, nil},
		{"vfs of an ordinary user", "vfs", ordinary, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := harness.NewPodman(t, c.driver, c.owner, c.options...)
			refs := images.refs
			for n, a := range images.archives {
				if c.driver == "vfs" && n > 2 {
					refs = refs[:3] // a copy of the whole tree for each layer takes its time
					break
				}
				p.Run(t, "load", "-q", "-i", a)
			}
			m := harness.Imagefs{Store: p.Root}.Mount(t)
			for _, ref := range refs {
				img := p.Image(t, "localhost/"+ref)
				checkPodmans(t, m, images.ours, ref, img)
				if c.name == "overlay" {
					harness.CheckImage(t, m, img)
				}
			}
			if c.name == "overlay" {
				changes(t, p, m, refs[0])
			}
		})
	}
}

// checkPodmans compares an image of podman's with the same image in the
// embedded store: its tree, but for the root directory, which podman makes
// anew, and its layers' tars with their diff IDs.
func checkPodmans(t *testing.T, m, ours *harness.Mount, ref string, img harness.DiskImage) {
	t.Helper()
	dir := path(m, ref)
	if to, err := filepath.EvalSymlinks(dir); err != nil || "sha256:"+filepath.Base(to) != img.ID {
		t.Errorf("%s is %s, want %s: %v", ref, to, img.ID, err)
	}
	repo, tag, _ := strings.Cut(ref, ":")
	want := harness.ReadManifest(t, ours.Path("images", repo, tag, "rootfs"))
	got := harness.ReadManifest(t, filepath.Join(dir, "rootfs"))
	harness.Same(t, ref, below(want), below(got))
	checkTars(t, dir, img)
}

// below leaves out the root directory of a tree.
func below(m harness.Manifest) harness.Manifest {
	return slices.DeleteFunc(slices.Clone(m), func(line string) bool { return strings.HasPrefix(line, `"/" `) })
}

func checkTars(t *testing.T, dir string, img harness.DiskImage) {
	t.Helper()
	layers, err := os.ReadDir(filepath.Join(dir, "layers"))
	if err != nil || len(layers) != len(img.DiffIDs) {
		t.Fatalf("%d layers, want %d: %v", len(layers), len(img.DiffIDs), err)
	}
	for n, l := range layers {
		f, err := os.Open(filepath.Join(dir, "layers", l.Name(), "layer.tar"))
		if err != nil {
			t.Fatal(err)
		}
		h := sha256.New()
		_, err = io.Copy(h, f)
		f.Close()
		if got := fmt.Sprintf("sha256:%x", h.Sum(nil)); err != nil || got != img.DiffIDs[n] {
			t.Errorf("layer %d: its tar is %s, want %s: %v", n, got, img.DiffIDs[n], err)
		}
	}
}

// changes makes podman change its store below a mount of it.
func changes(t *testing.T, p *harness.Podman, m *harness.Mount, ref string) {
	p.Run(t, "tag", "localhost/"+ref, "quay.example/team/app:live", "docker.io/library/mine:1")
	shows(t, m, "images/quay.example/team/app/live/rootfs", true)
	shows(t, m, "images/mine/1/rootfs", true)
	p.Run(t, "untag", "localhost/"+ref, "docker.io/library/mine:1")
	shows(t, m, "images/mine", false)

	// buildah commits a working container; what its files are comes from podman's own mount.
	from := strings.TrimSpace(p.Buildah(t, "from", "--pull-never", "localhost/"+ref))
	p.Buildah(t, "copy", "-q", from, filepath.Join(harness.Repo(), "go.mod"), "/made/here")
	p.Buildah(t, "config", "--label", "a=b", from)
	p.Buildah(t, "commit", "-q", from, "built:1")
	p.Buildah(t, "rm", from)
	shows(t, m, "images/localhost/built/1/rootfs/made/here", true)
	harness.CheckImage(t, m, p.Image(t, "localhost/built:1"))
	mounted := strings.TrimSpace(p.Run(t, "image", "mount", "localhost/built:1"))
	harness.Same(t, "built:1 and podman image mount", below(harness.ReadManifest(t, mounted)), below(harness.ReadManifest(t, path(m, "built:1")+"/rootfs")))
	p.Run(t, "image", "unmount", "localhost/built:1")

	f, err := os.Open(path(m, "built:1") + "/rootfs/made/here")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	p.Run(t, "rmi", "localhost/built:1")
	shows(t, m, "images/localhost/built", false)
	if err := unix.Access(path(m, ref)+"/rootfs", unix.R_OK); err != nil {
		t.Errorf("an image that stays: %v", err)
	}
}

// A store with force_mask has one mode for all files and what they have in an xattr.
func TestPodmansMaskedStore(t *testing.T) {
	harness.Need(t, "root", "/dev/fuse", "podman", "fuse-overlayfs", "/bin/busybox")
	dir := t.TempDir()
	for _, cmd := range []string{
		"mkdir -p root/bin root/private && cp /bin/busybox root/bin && chmod 4711 root/bin/busybox && chown 7:70000 root/bin/busybox",
		"echo secret >root/private/file && chmod 600 root/private/file && chmod 700 root/private && ln -s private root/link && ln root/private/file root/hard",
		"tar -C root -cf layer.tar . && printf 'FROM scratch\\nADD layer.tar /\\nCMD [\"/bin/busybox\"]\\n' >Dockerfile",
	} {
		harness.Run(t, "sh", "-ec", "cd '"+dir+"' && "+cmd)
	}
	plain := harness.NewPodman(t, "overlay", 0)
	plain.Run(t, "build", "-q", "-t", "masked:1", dir)
	archive := filepath.Join(dir, "archive.tar")
	plain.Run(t, "save", "-q", "-o", archive, "masked:1")
	s := harness.NewStore(t)
	s.Run(t, "load", "-q", "-i", archive)
	masked := harness.NewPodman(t, "overlay", 0, "overlay.mount_program=/usr/bin/fuse-overlayfs", "overlay.force_mask=shared")
	masked.Run(t, "load", "-q", "-i", archive)
	img := masked.Image(t, "localhost/masked:1")
	if st, err := os.Stat(filepath.Join(img.Dirs[0], "private")); err != nil || st.Mode().Perm() != 0o755 {
		t.Fatalf("the store is not masked: %v %v", st.Mode(), err)
	}
	m := harness.Imagefs{Store: masked.Root}.Mount(t)
	want := harness.ReadManifest(t, s.Mount(t).Path("images/localhost/masked/1/rootfs"))
	harness.Same(t, "masked:1", below(want), below(harness.ReadManifest(t, path(m, "masked:1")+"/rootfs")))
	checkTars(t, path(m, "masked:1"), img)
}
