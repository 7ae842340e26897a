package archive

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"imagefs/store"
	"imagefs/store/docker"
	"imagefs/store/platform"
	"imagefs/store/storetest"
)

// fixture is what a real archive must give: its images, "ID name name", or an error.
// The IDs of docker-archives are those that docker load 28.2 gave them.
type fixture struct {
	images []string
	err    error
	says   string
}

func gives(images ...string) fixture       { return fixture{images: images} }
func fails(err error, says string) fixture { return fixture{err: err, says: says} }

func init() { host = platform.Of("linux", "amd64", "") } // fixtures have images for several

var fixtures = map[string]fixture{
	"da-docker113-3images-symlinks.tar":   gives("4d955704d3bf me/test_image_tar:1.0", "c1edec6e1f0a she/image_from_scratch:1.0", "12372b2d7bc1 you/secondimage:1.2"),
	"da-docker1712-busybox-whiteout.tar":  gives("f6cc76b32764 whiteout:latest"),
	"da-docker1809-alpine310.tar.gz":      gives("af341ccd2df8 alpine:3.10"),
	"da-docker1809-busybox-14layers.tar":  gives("75ae28b8ebf8 dive-test:latest"),
	"da-docker1809-opaque-scratch.tar":    gives("6d190579c3d7 she/image_from_scratch:1.0"),
	"da-docker182-pause.tar":              gives("2b58359142b0 gcr.io/google-containers/pause:2.0"),
	"da-docker25-busybox-armv7.tar":       gives("74c89ecc3230 busybox:latest"),
	"da-docker25-hello.tar":               gives("d2c94e258dcb hello-world:latest"),
	"da-kaniko-busybox-14layers.tar":      gives("ae16a51058a7 dive-test:kaniko-latest"),
	"da-symlink-notag-busybox.tar":        gives("6d5fcfe5ff17"),
	"da-tampered-nginx.tar":               fails(store.ErrCorrupt, "1 layers, its config 3"),
	"da-v1legacy-busybox.tgz":             gives("d1927139172d busybox:latest"),
	"oa-buildkit-attestation-busybox.tar": gives("0f7981b59ce1 foo/bar:v3"),
	"oa-skopeo-node-removed.tar":          gives("8f7fef2d670a"),
	"oa-tampered-nginx.tar":               fails(store.ErrCorrupt, "expected sha256:e26d615025f594002683ea9b0104aeb886e0c383fcf96f9e372491beb17678e6, found sha256:01799edb"),
	"ol-busybox-symlinked-blobs.tar":      gives("c6348fa86ba0 busybox:1.38.0-glibc"),
	"ol-regclient-testrepo.tar":           gives("92e1351053a2", "79f0b6d4f769", "bb4828702bed", "03d7b3c657a4", "265cf623914b", "2097cbe98aab"),
	"nasty-tars.tar.gz":                   fails(store.ErrCorrupt, "no image archive"),
}

var packed = map[string]map[string]fixture{
	"da-small-cases.tar.gz": {
		"cinsp-layer-relative-whiteouts.tar": fails(store.ErrCorrupt, "no image archive"),
		"cinsp-windows-mini.tar.gz":          fails(store.ErrCorrupt, "expected sha256:e4e02f4caaa37d28ad4b66babf9d64098e81f08c0be24ea427614eafcbbdc3de, found sha256:9265ebea6c7c"),
		"containers-image-almostempty.tar":   gives("9d7f147c0d0c emptyimage:latest"),
		"ggcr-all_empty_history.tar":         gives("ebd3777b8bf2 bazel/pkg/v1/mutate:source_image"),
		"ggcr-foreign.tar":                   gives("53029f61be64 gcr.io/foo/bar:latest"),
		"ggcr-no_manifest.tar":               gives("a2673db3c3d8 bazel/v1/tarball:test_image"),
		"ggcr-null_manifest.tar":             fails(store.ErrCorrupt, "manifest.json lists no images"),
		"ggcr-overwritten_file.tar":          gives("68f6eb746cdb bazel/pkg/v1/mutate:overwritten_file"),
		"ggcr-sparse_foreign.tar":            fails(store.ErrNotFound, "example.com"),
		"ggcr-test_bundle_2images.tar":       gives("930705ce23e3 test_image_2:latest", "6e0b05049ed9 test_image_1:latest"),
		"ggcr-test_link_2images.tar":         gives("6e0b05049ed9 bazel/v1/tarball:test_image_1", "d4c9adacde69 bazel/v1/tarball:test_image_3"),
		"ggcr-whiteout_dir.tar":              gives("92f1e3d53acd localhost:5000/whiteout:latest"),
		"ggcr-whiteout_image.tar":            gives("decb630649c3 bazel/pkg/v1/mutate:whiteout_image"),
		"rules_docker-docker1709-hello.tar":  gives("b5b67a44bbda hello:latest"),
		"rules_docker-symlinked.tar":         gives("b109fdc4272b bazel:small_base_2"),
		"scalibr-escape.tar":                 fails(store.ErrCorrupt, "no image archive"),
		"scalibr-overwrite-file.tar":         gives("86ee30779ba1 overwrite-file:latest"),
		"scalibr-permissions.tar":            gives("7be4ef56c97b permissions:latest"),
		"scalibr-symlink-attack.tar":         gives("486f648acb41 symlink-attack:latest"),
		"scalibr-symlink-basic.tar":          gives("2a92a3c5e77b symlink-basic:latest"),
		"scalibr-symlink-cycle.tar":          gives("373315c77960 symlink-cycle:latest"),
		"scalibr-symlink-dangling.tar":       gives("67d1cadc6211 dangling-symlinks:latest"),
		"scalibr-symlink-depth-exceeded.tar": gives("2ef1f326cc51 symlink-depth-exceeded:latest"),
		"scalibr-symlink.tar":                gives("4abe2e6d2023 symlink:latest"),
		"scalibr-symlinks.tar":               gives("3d88044e75a2 symlinks:latest"),
		"snyk-kaniko.tar":                    gives("c5003bd0bae2 kaniko-busybox:latest"),
		"snyk-nerdctl-oci-labels.tar":        gives("8c2b6f509838 oci-labels-test:latest"),
		"snyk-opaque-multi.tar":              gives("c23a57443688"),
	},
	"oa-small-cases.tar.gz": {
		"bd-two-tags-bad-digests.tar":        fails(store.ErrCorrupt, "expected sha256:35807b77a593c1147d13dc926a91dcc3015616ff7307cc30442c5a8e07546283, found sha256:fabda04ca84b"),
		"cdi-kubevirt-vm.tar":                fails(store.ErrNotFound, "application/vnd.kubevirt.virtualmachine.v1"),
		"cdi-no-oci-layout.tar":              gives("ff98a744d8bd"),
		"containers-image-two-same-refs.tar": fails(store.ErrCorrupt, "layer tar"),
		"dive-oci-estargz.tar":               gives("5c153971f5fe"),
		"dive-oci-gzip.tar":                  gives("3eaccc100f86"),
		"dive-oci-uncompressed.tar":          gives("3eaccc100f86"),
		"dive-oci-zstd.tar":                  gives("3eaccc100f86"),
		"imgutil-busybox-sparse.tar":         fails(store.ErrCorrupt, `405fecb6a2fa4f29683f977e7e3b852bf6f8975a2aba647d234d2371894943da": not in the archive`),
		"imgutil-busybox.tar":                gives("9d5226e6ce3f"),
		"imgutil-multi-platform.tar":         fails(store.ErrCorrupt, "not in the archive"),
		"oras-artifacts.tar":                 fails(store.ErrNotFound, "application/vnd.unknown.artifact.v1"),
		"trivy-index-json-is-dir.tar":        fails(store.ErrCorrupt, "no image archive"),
		"trivy-no-manifests.tar":             fails(store.ErrCorrupt, "index.json lists no images"),
	},
	"ol-sylabs-semantics.tar.gz": {
		"sylabs-aufs-docker-v2-manifest.tar":             fails(store.ErrCorrupt, "has 536 bytes, its descriptor says 525"),
		"sylabs-hard-link-1.tar":                         gives("d12073d7e5e4"),
		"sylabs-hard-link-2.tar":                         gives("d8f55e15431f"),
		"sylabs-hard-link-delete-1.tar":                  gives("796c873b3fa9"),
		"sylabs-hard-link-delete-2.tar":                  gives("9e8e59dfc16d"),
		"sylabs-hard-link-delete-3.tar":                  gives("f69844588946"),
		"sylabs-hard-link-delete-4.tar":                  gives("a1a1f5fad4d8"),
		"sylabs-hard-link-delete-xattr.tar":              gives("82048164fbf9"),
		"sylabs-hello-world-cosign-manifest-list.tar":    gives("feb5d9fea6a5"),
		"sylabs-hello-world-cosign-manifest.tar":         gives("46331d942d63"),
		"sylabs-hello-world-docker-v2-manifest-list.tar": gives("feb5d9fea6a5"),
		"sylabs-hello-world-docker-v2-manifest.tar":      gives("46331d942d63"),
		"sylabs-many-layers.tar":                         gives("0241a7bd8295"),
		"sylabs-overlayfs-docker-v2-manifest.tar":        fails(store.ErrNotFound, "application/vnd.sylabs.image.layer.v1.squashfs"),
		"sylabs-root-dir-entry.tar":                      gives("2812f030a787"),
		"sylabs-whiteout-explicit-dir.tar":               gives("5b86f4eea75c"),
		"sylabs-whiteout-explicit-file.tar":              gives("6a603f4f6435"),
		"sylabs-whiteout-opaque-end.tar":                 gives("093c045ef1f4"),
		"sylabs-whiteout-opaque.tar":                     gives("fabdda141e77"),
	},
}

// check loads an archive in each way into a store of its own and compares.
func (f fixture) check(t *testing.T, path string) {
	ways := map[string]func(*Loader) ([]store.Loaded, error){
		"path": func(l *Loader) ([]store.Loaded, error) { return l.LoadPath(ctx, path) },
		"pipe": func(l *Loader) ([]store.Loaded, error) {
			file, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer file.Close()
			return l.Load(ctx, struct{ io.Reader }{file})
		},
	}
	name := filepath.Base(path)
	if strings.HasSuffix(name, ".tar") {
		ways["directory"] = func(l *Loader) ([]store.Loaded, error) { return l.LoadPath(ctx, storetest.Extract(t, path)) }
	}
	if name == "oa-tampered-nginx.tar" || name == "scalibr-escape.tar" || strings.HasPrefix(name, "cinsp-layer") {
		delete(ways, "directory") // gzip all the same; names that lead out of the directory
	}
	for way, load := range ways {
		var sink storetest.Sink
		dst := store.Ingester(&sink)
		var s *docker.Store
		if way == "path" || filepath.Dir(path) == storetest.Fixtures(t) {
			var err error
			if s, err = docker.Open(filepath.Join(t.TempDir(), "store"), docker.Options{Create: true}); err != nil {
				t.Fatal(err)
			}
			dst = s
		}
		out, err := load(NewLoader(dst, Options{}))
		var images []string
		for _, o := range out {
			images = append(images, strings.Join(append([]string{o.ID.Encoded()[:12]}, o.Names...), " "))
		}
		if !errors.Is(err, f.err) || err != nil && !strings.Contains(err.Error(), f.says) || fmt.Sprint(images) != fmt.Sprint(f.images) {
			t.Errorf("%s by %s: %q %v\nwant %q %v %s", name, way, images, err, f.images, f.err, f.says)
		}
		if s != nil {
			f.inStore(t, name+" by "+way, s)
			s.Close()
		} else if len(sink.Images()) != len(f.images) || sink.Open() != 0 {
			t.Errorf("%s by %s: %d images in the store, %d open", name, way, len(sink.Images()), sink.Open())
		}
	}
}

// inStore checks that a store holds the images, whole, and nothing else.
func (f fixture) inStore(t *testing.T, what string, s *docker.Store) {
	if ids, err := s.IDs(ctx); err != nil || len(ids) != len(f.images) {
		t.Errorf("%s: %d images in the store, %v", what, len(ids), err)
	}
	if err := s.Check(ctx, true, func(p store.Problem) { t.Errorf("%s: check: %s: %v", what, p.What, p.Err) }); err != nil {
		t.Error(err)
	}
	if left, _ := filepath.Glob(filepath.Join(s.Root(), "imagefs/stage/*")); len(left) > 0 {
		t.Errorf("%s: left behind: %v", what, left)
	}
}

func TestFixtures(t *testing.T) {
	dir := storetest.Fixtures(t)
	there, err := filepath.Glob(filepath.Join(dir, "[do]?-*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range there {
		name := filepath.Base(path)
		if cases, ok := packed[name]; ok {
			files := storetest.Packed(t, name)
			if len(files) != len(cases) {
				t.Errorf("%s has %d archives, not %d", name, len(files), len(cases))
			}
			for _, f := range files {
				cases[filepath.Base(f)].check(t, f)
			}
		} else if f, ok := fixtures[name]; ok {
			f.check(t, path)
		} else {
			t.Errorf("nobody says what %s must give", name)
		}
	}
	fixtures["nasty-tars.tar.gz"].check(t, filepath.Join(dir, "nasty-tars.tar.gz"))
}
