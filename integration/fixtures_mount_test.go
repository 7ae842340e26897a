package integration

import (
	"archive/tar"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"imagefs/integration/harness"
	"imagefs/integration/images"
)

// refused are the fixtures that no load may accept, with a word of the reason.
var refused = map[string]string{
	"da-tampered-nginx.tar":                      "lists 1 layers, its config 3",
	"oa-tampered-nginx.tar":                      "corrupt",
	"da/cinsp-layer-relative-whiteouts.tar":      "no image archive",
	"da/cinsp-windows-mini.tar.gz":               "diff ID",
	"da/ggcr-null_manifest.tar":                  "lists no images",
	"da/ggcr-sparse_foreign.tar":                 "not in the archive",
	"da/scalibr-escape.tar":                      "no image archive",
	"oa/bd-two-tags-bad-digests.tar":             "corrupt",
	"oa/cdi-kubevirt-vm.tar":                     "no container image",
	"oa/containers-image-two-same-refs.tar":      "corrupt",
	"oa/imgutil-busybox-sparse.tar":              "not in the archive",
	"oa/imgutil-multi-platform.tar":              "not in the archive",
	"oa/oras-artifacts.tar":                      "no container image",
	"oa/trivy-index-json-is-dir.tar":             "no image archive",
	"oa/trivy-no-manifests.tar":                  "lists no images",
	"ol/sylabs-aufs-docker-v2-manifest.tar":      "corrupt",
	"ol/sylabs-overlayfs-docker-v2-manifest.tar": "no container image",
}

// TestFixtures loads every foreign archive there is, mounts what came of it
// and compares it with the kernel's view of the same layers.
func TestFixtures(t *testing.T) {
	harness.Need(t, "root", "/dev/fuse")
	archives := fixtureArchives(t)
	for name, path := range archives {
		t.Run(name, func(t *testing.T) {
			s := harness.NewStore(t)
			if why, ok := refused[name]; ok {
				code, said := s.Fail(t, "load", "-i", path)
				if code != 1 || !strings.Contains(said, why) || strings.Count(said, "\n") != 1 {
					t.Errorf("exit %d, %q; want 1 and one line with %q", code, said, why)
				}
				if left := s.Run(t, "images", "-aq"); left != "" {
					t.Errorf("left behind: %s", left)
				}
				return
			}
			s.Run(t, "load", "-i", path)
			checkStore(t, s)
		})
	}
}

// checkStore verifies a store, mounts it and compares every image with the kernel's view.
func checkStore(t *testing.T, s harness.Imagefs) {
	t.Helper()
	s.Run(t, "check")
	found := harness.ReadRoot(t, s.Store)
	if len(found) == 0 {
		t.Fatal("no images")
	}
	m := s.Mount(t)
	for _, img := range found {
		t.Run(img.ID[7:19], func(t *testing.T) { harness.CheckImage(t, m, img) })
		for _, ref := range img.Names {
			repo, tag, ok := cutTag(ref)
			if !ok {
				continue
			}
			to, err := filepath.EvalSymlinks(m.Path("images", repo+":"+tag))
			if want := m.Path("ids", img.ID[7:]); err != nil || to != want {
				t.Errorf("images/%s: %s %v, want %s", ref, to, err, want)
			}
		}
	}
}

// cutTag splits a reference with a tag; not ok for one with a digest.
func cutTag(ref string) (repo, tag string, ok bool) {
	n := strings.LastIndexByte(ref, ':')
	if n < 0 || strings.Contains(ref, "@") {
		return "", "", false
	}
	return ref[:n], ref[n+1:], true
}

// TestStoreFixtures reads the data roots of other machines where they lie.
func TestStoreFixtures(t *testing.T) {
	harness.Need(t, "root", "/dev/fuse")
	dir := harness.NeedFixtures(t)
	packed, err := filepath.Glob(filepath.Join(dir, "store-overlay2-*.tgz"))
	if err != nil || len(packed) == 0 {
		t.Fatal("no stores", err)
	}
	for _, p := range packed {
		t.Run(filepath.Base(p), func(t *testing.T) {
			root := t.TempDir()
			harness.Run(t, "tar", "-xzpf", p, "-C", root)
			at, err := filepath.Glob(filepath.Join(root, "*/overlay2"))
			if err != nil || len(at) != 1 {
				t.Fatal("where is the store?", at, err)
			}
			m := harness.Imagefs{Store: root}.Mount(t, "--read-only")
			// The owners were lost on the way here: the judge is what the layers' tars extract to.
			again := harness.NewStore(t)
			want := harness.ReadRoot(t, filepath.Dir(at[0]))
			for _, img := range want {
				again.Run(t, "load", "-i", repack(t, m, img))
			}
			extracted := harness.ReadRoot(t, again.Store)
			if len(extracted) != len(want) {
				t.Fatalf("%d images, want %d", len(extracted), len(want))
			}
			for _, img := range extracted {
				harness.CheckImage(t, m, img)
			}
		})
	}
}

// repack makes an archive of the files that a mount shows of an image.
func repack(t *testing.T, m *harness.Mount, img harness.DiskImage) string {
	t.Helper()
	dir := m.Path("ids", img.ID[7:])
	manifest := struct {
		Config string
		Layers []string
	}{Config: "config.json"}
	to := t.TempDir()
	layers, err := os.ReadDir(filepath.Join(dir, "layers"))
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range layers {
		harness.Run(t, "cp", filepath.Join(dir, "layers", l.Name(), "layer.tar"), filepath.Join(to, l.Name()+".tar"))
		manifest.Layers = append(manifest.Layers, l.Name()+".tar")
	}
	harness.Run(t, "cp", filepath.Join(dir, "config.json"), to)
	b, err := json.Marshal([]any{manifest})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(to, "manifest.json"), b, 0o644); err != nil {
		t.Fatal(err)
	}
	archive := filepath.Join(t.TempDir(), "again.tar")
	harness.Run(t, "tar", "-C", to, "-cf", archive, ".")
	return archive
}

// fixtureArchives returns the path of every archive of the fixtures by name;
// those that are packed together are unpacked.
func fixtureArchives(t *testing.T) map[string]string {
	t.Helper()
	dir := harness.NeedFixtures(t)
	out := map[string]string{}
	all, err := filepath.Glob(filepath.Join(dir, "[do][al]-*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range all {
		name := filepath.Base(p)
		if !strings.Contains(name, "-small-cases.") && !strings.Contains(name, "-semantics.") {
			out[name] = p
			continue
		}
		prefix, _, _ := strings.Cut(name, "-")
		to := t.TempDir()
		harness.Run(t, "tar", "-xzf", p, "-C", to)
		cases, err := os.ReadDir(to)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range cases {
			out[prefix+"/"+c.Name()] = filepath.Join(to, c.Name())
		}
	}
	return out
}

// assembled writes an archive with most of what a layer can hold.
func assembled(t *testing.T) string {
	t.Helper()
	at := time.Unix(1700000000, 0)
	layer := func(b *images.Tar) images.Layer {
		b.Time = at
		l, err := b.Layer()
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	bottom := layer((&images.Tar{Time: at}).
		Dir("bin", 0o755).File("bin/su", 0o4755, []byte("su")).Link("bin/su2", "bin/su").Symlink("sbin", "bin").
		Dir("d", 0o700).File("d/a", 0o600, []byte("a")).File("d/b", 0, []byte("b")).
		Dir("gone", 0o755).File("gone/x", 0o644, nil).
		Add(tar.Header{Typeflag: tar.TypeDir, Name: "tmp/", Mode: 0o1777, Uid: 7, Gid: 1 << 30}, nil).
		Add(tar.Header{Typeflag: tar.TypeChar, Name: "null", Mode: 0o666, Devmajor: 1, Devminor: 3}, nil).
		Add(tar.Header{Typeflag: tar.TypeBlock, Name: "disk", Mode: 0o660, Devmajor: 8, Devminor: 300}, nil).
		Add(tar.Header{Typeflag: tar.TypeFifo, Name: "fifo", Mode: 0o640}, nil).
		Add(tar.Header{Typeflag: tar.TypeReg, Name: "odd \n\xff name", Mode: 0o644, ModTime: time.Unix(1, 0)}, []byte("odd")).
		Add(tar.Header{Typeflag: tar.TypeReg, Name: "x", Mode: 0o644, Format: tar.FormatPAX,
			PAXRecords: map[string]string{"SCHILY.xattr.user.k": "v\x00w"}}, []byte("x")).
		File("large", 0o644, []byte(strings.Repeat("0123456789abcdef", 1<<16))))
	middle := layer((&images.Tar{Time: at}).File(".wh.gone", 0, nil).
		Dir("d", 0o755).File("d/.wh..wh..opq", 0, nil).File("d/new", 0o644, []byte("n")).
		File("sbin", 0o644, []byte("a file over a link")))
	top := layer((&images.Tar{Time: at}).Dir("gone", 0o711).File("gone/y", 0o644, []byte("y")).
		File("bin/.wh.su2", 0, nil).File("d/.wh.new", 0, nil))
	name := filepath.Join(t.TempDir(), "assembled.tar")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	err = images.Write(f, images.Image{Tags: []string{"app:v1", "team/app:latest"}, Created: at,
		Steps: []images.Step{{By: "bottom", Layer: bottom}, {By: "ENV A=b"}, {By: "middle", Layer: middle}, {By: "top", Layer: top}}},
		images.Image{Tags: []string{"app:v0"}, Created: at, Steps: []images.Step{{By: "bottom", Layer: bottom}}})
	if err != nil {
		t.Fatal(err)
	}
	return name
}

// TestAssembled does with an image of our own what TestFixtures does with foreign ones.
func TestAssembled(t *testing.T) { overBoth(t, testAssembled) }

func testAssembled(t *testing.T, transport string) {
	harness.Need(t, "root", "/dev/fuse")
	s := harness.NewStore(t)
	s.Transport = transport
	s.Run(t, "load", "-i", assembled(t))
	checkStore(t, s)
}
