package engines

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"imagefs/integration/harness"
	"imagefs/store/storetest"
)

// saveSum is the digest of what a save prints.
func saveSum(t *testing.T, c *exec.Cmd) string {
	t.Helper()
	h := sha256.New()
	var said bytes.Buffer
	c.Stdout, c.Stderr = h, &said
	if err := c.Run(); err != nil {
		t.Fatalf("%v: %v\n%s", c.Args, err, said.String())
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}

// What is saved out of a daemon's store is to the byte what the daemon saves.
// The daemon puts several images in an order that changes from one run to the
// next; here it is that of the arguments, so each order is tried.
func TestSaveIsDockers(t *testing.T) {
	harness.Need(t, "root", "/dev/fuse")
	var d *harness.Docker
	name, repo, several := "odd:1", "kit", []string{"odd:1", "kit:1"}
	if e := harness.SharedEngine(t); e != nil {
		d, name, repo, several = e.Docker, "tiny:1", "tiny", []string{"tiny:1", "many:1"}
		// What the daemon made of the large ones is kept.
		sameSave(t, harness.Imagefs{Store: d.Root}, fmt.Sprintf("%x", sum(t, e.Both)), []string{e.Old, e.New}, []string{e.New, e.Old})
	} else {
		d = harness.StartDocker(t, filepath.Join(t.TempDir(), "docker"))
		buildOdd(t, d)
	}
	s := harness.Imagefs{Store: d.Root}
	id := d.ID(t, name)
	for _, refs := range [][]string{{several[0]}, {several[1]}, several, {repo}, {id}, {id[7:19]}, {id, name}} {
		sameSave(t, s, saveSum(t, d.Cmd(append([]string{"save"}, refs...)...)), refs, backwards(refs))
	}
	m := s.Mount(t)
	r, tag, _ := strings.Cut(name, ":")
	if got, want := fmt.Sprintf("%x", sum(t, m.Path("images", r, tag, "image.tar"))), saveSum(t, d.Cmd("save", name)); got != want {
		t.Error("image.tar is not what docker saves")
	}
}

// sameSave checks that the images, in one of the orders, are saved as docker saved them.
func sameSave(t *testing.T, s harness.Imagefs, docker string, orders ...[]string) {
	t.Helper()
	for _, refs := range orders {
		if saveSum(t, s.Cmd(t, append([]string{"save"}, refs...)...)) == docker {
			return
		}
	}
	t.Errorf("save %v is not what docker saves", orders[0])
}

func backwards(list []string) []string {
	out := slices.Clone(list)
	slices.Reverse(out)
	return out
}

// An image that has one layer twice: docker leaves the link to the layer's tar,
// and the directory that it is in, with the time of the saving.
func TestSaveOfALayerTwice(t *testing.T) {
	harness.Need(t, "root")
	base := storetest.Files("a=1")
	file := filepath.Join(t.TempDir(), "twice.tar")
	if err := os.WriteFile(file, storetest.Docker(storetest.Image{Names: []string{"twice:1"}, Layers: [][]byte{base, storetest.Files("b=2"), base}}).Tar(), 0o600); err != nil {
		t.Fatal(err)
	}
	d := harness.StartDocker(t, filepath.Join(t.TempDir(), "docker"))
	d.Run(t, "load", "-i", file)
	first := []byte(d.Run(t, "save", "twice:1"))
	time.Sleep(1100 * time.Millisecond)
	if bytes.Equal(first, []byte(d.Run(t, "save", "twice:1"))) {
		t.Error("docker's own archive is the same a second later: the times below need no exception")
	}
	ours := []byte(harness.Imagefs{Store: d.Root}.Run(t, "save", "twice:1"))
	want, got := timeless(t, first), timeless(t, ours)
	if !slices.Equal(want, got) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// timeless lists an archive without the times of directories whose layer.tar is a link.
func timeless(t *testing.T, b []byte) []string {
	t.Helper()
	type entry struct {
		h   *tar.Header
		sum [32]byte
	}
	var all []entry
	linked := map[string]bool{}
	for r := tar.NewReader(bytes.NewReader(b)); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, entry{h, sha256.Sum256(body)})
		if h.Typeflag == tar.TypeSymlink {
			linked[filepath.Dir(h.Name)] = true
		}
	}
	if len(linked) != 1 {
		t.Errorf("%d layers are links, want 1", len(linked))
	}
	out := []string{fmt.Sprint(len(b))}
	for _, e := range all {
		if dir, _, _ := strings.Cut(e.h.Name, "/"); linked[dir] {
			e.h.ModTime = time.Time{}
		}
		out = append(out, fmt.Sprintf("%+v %x", *e.h, e.sum))
	}
	return out
}

// What is saved loads in every engine, in the forms that it reads, as the same image with its name.
func TestSavedLoads(t *testing.T) {
	harness.Need(t, "root", "/dev/fuse", "skopeo", "podman", "runc")
	d := harness.StartDocker(t, filepath.Join(t.TempDir(), "docker"))
	d.Build(t, false, "odd:1", oddContext(t))
	id := d.ID(t, "odd:1")
	s := harness.NewStore(t)
	plain := filepath.Join(t.TempDir(), "plain.tar")
	d.Run(t, "save", "-o", plain, "odd:1")
	s.Run(t, "load", "-i", plain)

	dir := t.TempDir()
	forms := map[string][]string{
		"docker": {}, "docker.gz": {"--compress", "gzip"}, "docker.zst": {"--compress", "zstd"},
		"oci": {"--format", "oci"}, "oci.gz": {"--format", "oci", "--compress", "gzip"}, "oci.zst": {"--format", "oci", "--compress", "zstd"},
		"dir": {"--format", "oci-dir"}, "dir.gz": {"--format", "oci-dir", "--compress", "gzip"}, "dir.zst": {"--format", "oci-dir", "--compress", "zstd"},
	}
	for form, flags := range forms {
		s.Run(t, append(append([]string{"save", "-o", filepath.Join(dir, form)}, flags...), "odd:1")...)
	}
	if !bytes.Equal(sum(t, filepath.Join(dir, "docker")), sum(t, plain)) {
		t.Error("out of a store of our own it is not what docker saved")
	}
	m := s.Mount(t)

	t.Run("docker", func(t *testing.T) {
		// The daemon of 20.10 knows no zstd.
		for _, file := range []string{filepath.Join(dir, "docker"), filepath.Join(dir, "docker.gz"), filepath.Join(dir, "oci"), filepath.Join(dir, "oci.gz"), m.Path("images/odd/1/image.tar")} {
			d.Run(t, "rmi", "odd:1")
			d.Run(t, "load", "-i", file)
			if got := d.ID(t, "odd:1"); got != id {
				t.Errorf("%s: ID %s, want %s", file, got, id)
			}
		}
	})
	t.Run("podman", func(t *testing.T) {
		podman := newPodman(t)
		for _, file := range []string{filepath.Join(dir, "docker"), filepath.Join(dir, "oci"), filepath.Join(dir, "oci.gz"), filepath.Join(dir, "oci.zst"), m.Path("images/odd/1/image.tar")} {
			podman(t, "load", "-q", "-i", file)
			got := strings.Fields(podman(t, "images", "-q", "--no-trunc"))
			if !slices.Equal(got, []string{id}) {
				t.Errorf("%s: IDs %v, want %s", file, got, id)
			}
			names := podman(t, "images", "--format", "{{.Repository}}:{{.Tag}}")
			if !strings.HasSuffix(strings.TrimSpace(names), "/odd:1") {
				t.Errorf("%s: names %q", file, names)
			}
			podman(t, "rmi", "-f", id)
		}
	})
	t.Run("skopeo", func(t *testing.T) {
		for form := range forms {
			var source string
			switch kind, _, _ := strings.Cut(form, "."); kind {
			case "docker":
				if form != "docker" {
					continue // it reads no compressed ones
				}
				source = "docker-archive:" + filepath.Join(dir, form)
			case "oci":
				source = "oci-archive:" + filepath.Join(dir, form)
			default:
				source = "oci:" + filepath.Join(dir, form)
			}
			harness.Run(t, "skopeo", "--insecure-policy", "copy", "-q", source, "dir:"+filepath.Join(t.TempDir(), "copy"))
			config := harness.Run(t, "skopeo", "--insecure-policy", "inspect", "--config", "--raw", source)
			if got := fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(config))); got != id {
				t.Errorf("%s: ID %s, want %s", form, got, id)
			}
		}
	})
}
