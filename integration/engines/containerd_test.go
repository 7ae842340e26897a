package engines

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"imagefs/integration/harness"
	"imagefs/store/storetest"
)

// Images in two namespaces, unpacked and not, of Docker's and of OCI archives:
// what a mount of containerd's store shows of them is what the kernel shows of
// its snapshots, and what the same archive is in a store of ours.
func TestContainerdsStore(t *testing.T) {
	harness.Need(t, "root", "/dev/fuse", "containerd", "ctr", "skopeo")
	_, archives := oddArchives(t)
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	for _, c := range []struct{ format, file string }{{"gzip", at("gzip.tar")}, {"zstd", at("zstd.tar")}} {
		harness.Run(t, "skopeo", "--insecure-policy", "copy", "-q", "--dest-compress", "--dest-compress-format", c.format,
			"docker-archive:"+archives["odd:1"], "oci-archive:"+c.file+":docker.io/library/odd:"+c.format)
	}
	root := at("root")
	ctrd := harness.StartContainerd(t, root)
	for _, c := range []struct{ space, name, archive, unpack string }{
		{"moby", "odd:1", archives["odd:1"], ""},
		{"moby", "odd:2", archives["odd:2"], "--no-unpack"},
		{"moby", "kit:1", archives["kit:1"], ""},
		{"k8s.io", "odd:gzip", at("gzip.tar"), ""},
		{"k8s.io", "odd:zstd", at("zstd.tar"), "--no-unpack"},
	} {
		args := []string{"images", "import"}
		if c.unpack != "" {
			args = append(args, c.unpack)
		}
		ctrd.Run(t, c.space, append(args, c.archive)...)
	}
	type image struct{ space, name, archive string }
	images := []image{
		{"moby", "odd:1", archives["odd:1"]}, {"moby", "odd:2", archives["odd:2"]}, {"moby", "kit:1", archives["kit:1"]},
		{"k8s.io", "odd:gzip", at("gzip.tar")}, {"k8s.io", "odd:zstd", at("zstd.tar")},
	}
	found, targets := map[image]harness.DiskImage{}, map[image]string{}
	ours := harness.NewStore(t)
	for _, i := range images {
		targets[i] = ctrd.Target(t, i.space, "docker.io/library/"+i.name)
		found[i] = ctrd.Image(t, i.space, targets[i])
		ours.Run(t, "load", "-i", i.archive)
	}
	// The same layers lie in both namespaces: what is shown is the first's.
	for _, i := range images[:3] {
		if img := found[i]; slices.Equal(img.DiffIDs, found[images[3]].DiffIDs) {
			img.Dirs = found[images[3]].Dirs
			found[i] = img
		}
	}
	oursMounted := ours.Mount(t)
	// A layer's tar says nothing of "/".
	tree := func(t *testing.T, m *harness.Mount, path ...string) harness.Manifest {
		return slices.DeleteFunc(harness.ReadManifest(t, m.Path(path...)), func(l string) bool { return strings.HasPrefix(l, `"/" `) })
	}
	check := func(t *testing.T, m *harness.Mount, kernel bool) {
		for _, i := range images {
			t.Run(i.space+"/"+i.name, func(t *testing.T) {
				img := found[i]
				repo, tag, _ := strings.Cut(i.name, ":")
				to, err := filepath.EvalSymlinks(m.Path("images", i.space, repo, tag))
				if err != nil || filepath.Base(to) != img.ID[7:] {
					t.Errorf("the name leads to %s, %v, want %s", to, err, img.ID)
				}
				if to, err := filepath.EvalSymlinks(m.Path("digests/sha256", targets[i][7:])); err != nil || filepath.Base(to) != img.ID[7:] {
					t.Errorf("the digest %s leads to %s, %v, want %s", targets[i], to, err, img.ID)
				}
				// One image may have come with several manifests.
				got := fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(m.Read(t, "ids", img.ID[7:], "manifest.json"))))
				if !slices.ContainsFunc(images, func(o image) bool { return found[o].ID == img.ID && targets[o] == got }) {
					t.Errorf("manifest.json hashes to %s, want %s", got, targets[i])
				}
				if kernel && img.Dirs != nil {
					harness.CheckImage(t, m, img)
				}
				harness.Same(t, "rootfs and that of the archive in a store of ours",
					tree(t, oursMounted, "images", repo, tag, "rootfs"), tree(t, m, "ids", img.ID[7:], "rootfs"))
			})
		}
	}
	s := harness.Imagefs{Store: root}
	t.Run("alive", func(t *testing.T) {
		m := s.Mount(t)
		check(t, m, true)
		ctrd.Run(t, "k8s.io", "images", "tag", "docker.io/library/odd:gzip", "registry.example:5000/team/odd:new")
		shows(t, m, "images/k8s.io/registry.example_5000/team/odd/new/rootfs/version", true)
		ctrd.Run(t, "k8s.io", "images", "remove", "registry.example:5000/team/odd:new")
		shows(t, m, "images/k8s.io/registry.example_5000/team", false)
		// What is unpacked meanwhile goes on being what it was.
		ctrd.Run(t, "moby", "images", "import", archives["odd:2"])
		check(t, m, false)
		if err := os.WriteFile(m.Path("ctl/tag"), []byte("moby/odd:1 moby/odd:mine\n"), 0); !errors.Is(err, unix.EOPNOTSUPP) {
			t.Errorf("tag in a store that cannot be written: %v, want EOPNOTSUPP", err)
		}
		harness.Run(t, "cp", "-a", root, at("copy"))
	})
	t.Run("copied alive", func(t *testing.T) { check(t, harness.Imagefs{Store: at("copy")}.Mount(t), false) })
	ctrd.Stop(t)
	t.Run("dead", func(t *testing.T) {
		s.Run(t, "check")
		check(t, s.Mount(t, "--read-only"), false)
	})
}

// Real images in containerd's store.
func TestContainerdsRealImages(t *testing.T) {
	harness.Need(t, "root", "/dev/fuse", "containerd", "ctr")
	e := harness.SharedEngine(t)
	if e == nil {
		t.Log("no reference scripts: TestContainerdsStore does this with smaller images")
		return
	}
	root := filepath.Join(t.TempDir(), "root")
	ctrd := harness.StartContainerd(t, root)
	ctrd.Run(t, "moby", "images", "import", e.Both)
	ctrd.Run(t, "moby", "images", "import", "--no-unpack", e.Archives["tiny:1"])
	ctrd.Run(t, "moby", "images", "import", e.Archives["many:1"])
	m := harness.Imagefs{Store: root}.Mount(t)
	for _, ref := range []string{e.New, "many:1"} {
		t.Run(ref, func(t *testing.T) {
			img := ctrd.Image(t, "moby", ctrd.Target(t, "moby", "docker.io/library/"+ref))
			if id := e.Docker.ID(t, ref); id != img.ID {
				t.Errorf("the ID is %s, Docker's %s", img.ID, id)
			}
			harness.CheckImage(t, m, img)
		})
	}
	// One that is not unpacked has no kernel's view but Docker's.
	if got, want := m.Read(t, "images/tiny/1/id"), e.Docker.ID(t, "tiny:1")+"\n"; got != want {
		t.Errorf("the ID is %q, want %q", got, want)
	}
	tiny := image(t, harness.ReadRoot(t, e.Docker.Root), "tiny:1")
	content := func(dir string) []string {
		return harness.Lines(harness.Run(t, "sh", "-c", "cd '"+dir+"' && find . -printf '%p %y %m %U %G %l\\n' | LC_ALL=C sort && find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum"))
	}
	harness.Same(t, "tiny:1, not unpacked, and Docker's", content(harness.KernelMount(t, tiny.Dirs...)), content(m.Path("images/tiny/1/rootfs")))
}

// An index of three platforms, of which one is not here any more.
func TestContainerdsPlatforms(t *testing.T) {
	harness.Need(t, "root", "/dev/fuse", "containerd", "ctr")
	dir := t.TempDir()
	l := storetest.NewLayout()
	manifests := map[string]storetest.Descriptor{}
	var all []storetest.Descriptor
	images := map[string]storetest.Image{}
	for _, p := range []string{"linux/s390x", "linux/amd64", "linux/arm64"} {
		images[p] = storetest.Image{Platform: p, Layers: [][]byte{storetest.Files("etc/", "etc/platform="+p)}}
		manifests[p] = l.Manifest(images[p], storetest.Gzip).For(p)
		all = append(all, manifests[p])
	}
	index := l.SubIndex(all...)
	l.Index(index.With("io.containerd.image.name", "docker.io/team/multi:1"))
	archive := filepath.Join(dir, "multi.tar")
	if err := os.WriteFile(archive, l.Tar(), 0o644); err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(dir, "root")
	ctrd := harness.StartContainerd(t, root)
	ctrd.Run(t, "default", "images", "import", "--all-platforms", "--no-unpack", archive)
	collect := func(d string) {
		t.Helper()
		ctrd.Run(t, "default", "content", "remove", d)
		// The file goes when garbage is collected, which this asks for.
		ctrd.Run(t, "default", "leases", "create", "--id", "collect")
		ctrd.Run(t, "default", "leases", "delete", "--sync", "collect")
	}
	collect(string(manifests["linux/s390x"].Digest))
	m := harness.Imagefs{Store: root}.Mount(t)
	ids, err := os.ReadDir(m.Path("ids"))
	if err != nil || len(ids) != 2 {
		t.Errorf("%d images, %v, want 2", len(ids), err)
	}
	for _, p := range []string{"linux/amd64", "linux/arm64"} {
		for _, path := range []string{"ids/" + images[p].ID().Encoded(), "digests/sha256/" + manifests[p].Digest.Encoded()} {
			if got := m.Read(t, path, "rootfs/etc/platform"); got != p {
				t.Errorf("%s is of %q, want %s", path, got, p)
			}
		}
	}
	here := m.Read(t, "images/team/multi/1/rootfs/etc/platform")
	if !slices.Contains([]string{"linux/amd64", "linux/arm64"}, here) || here != m.Read(t, "digests/sha256", index.Digest.Encoded(), "rootfs/etc/platform") {
		t.Errorf("the name is of %q", here)
	}
	// The blob of a layer goes, the other image stays.
	collect(string(l.Blob("", storetest.Gzip(images["linux/arm64"].Layers[0])).Digest))
	ctrd.Stop(t)
	m = harness.Imagefs{Store: root}.Mount(t)
	lost := images["linux/arm64"].ID().Encoded()
	if said := m.Read(t, "ids", lost, "error"); !strings.Contains(said, "is missing") {
		t.Errorf("error: %q", said)
	}
	if got := m.Read(t, "images/team/multi/1/rootfs/etc/platform"); got != "linux/amd64" {
		t.Errorf("the name is of %q", got)
	}
}
