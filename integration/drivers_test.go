package integration

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	digest "github.com/opencontainers/go-digest"

	"imagefs/integration/harness"
	"imagefs/store"
	"imagefs/store/docker"
	"imagefs/store/storetest"
)

// convert makes a data root of another storage driver from one of overlay2: the
// same records, and each layer's tar applied as that driver does it. With
// splits false the records lack the tar-split, as those of the first versions do.
func convert(t *testing.T, s *docker.Store, driver string, splits bool) string {
	t.Helper()
	root := filepath.Join(t.TempDir(), "docker")
	image := filepath.Join(root, "image", driver)
	if err := os.MkdirAll(filepath.Dir(image), 0o700); err != nil {
		t.Fatal(err)
	}
	harness.Run(t, "cp", "-a", filepath.Join(s.Root(), "image/overlay2"), image)
	ids, err := s.IDs(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	done := map[digest.Digest]bool{}
	for _, id := range ids {
		var parents []string // nearest first
		for _, l := range layersOf(t, s, id) {
			db := filepath.Join(image, "layerdb/sha256", l.ChainID().Encoded())
			cache, err := os.ReadFile(filepath.Join(db, "cache-id"))
			if err != nil {
				t.Fatal(err)
			}
			if !done[l.ChainID()] {
				done[l.ChainID()] = true
				file := filepath.Join(t.TempDir(), "layer.tar")
				raw := tarOf(t, l)
				if err := os.WriteFile(file, raw, 0o600); err != nil {
					t.Fatal(err)
				}
				apply[driver](t, root, string(cache), parents, file, raw)
				if !splits {
					if err := os.Remove(filepath.Join(db, "tar-split.json.gz")); err != nil {
						t.Fatal(err)
					}
				}
			}
			parents = append([]string{string(cache)}, parents...)
		}
	}
	return root
}

// apply puts a layer where a driver has it.
var apply = map[string]func(t *testing.T, root, cache string, parents []string, file string, raw []byte){
	// aufs has the layer's archive as it is, whiteouts and all, and a list of parents.
	"aufs": func(t *testing.T, root, cache string, parents []string, file string, _ []byte) {
		diff := filepath.Join(root, "aufs/diff", cache)
		untar(t, file, diff)
		list := ""
		for _, p := range parents {
			list += p + "\n"
		}
		mustDo(t, os.MkdirAll(filepath.Join(root, "aufs/mnt", cache), 0o755))
		mustDo(t, os.MkdirAll(filepath.Join(root, "aufs/layers"), 0o755))
		mustDo(t, os.WriteFile(filepath.Join(root, "aufs/layers", cache), []byte(list), 0o644))
		// What aufs keeps for itself in a branch that was written to.
		mustDo(t, os.MkdirAll(filepath.Join(diff, ".wh..wh.plnk"), 0o700))
		mustDo(t, os.WriteFile(filepath.Join(diff, ".wh..wh.plnk/1.2"), []byte("pseudo"), 0o600))
		mustDo(t, os.MkdirAll(filepath.Join(diff, ".wh..wh.orph"), 0o700))
		mustDo(t, os.WriteFile(filepath.Join(diff, ".wh..wh.aufs"), nil, 0o400))
	},
	// fuse-overlayfs has the archive as it is, too, and the files of overlay2.
	"fuse-overlayfs": func(t *testing.T, root, cache string, parents []string, file string, _ []byte) {
		own := filepath.Join(root, "fuse-overlayfs", cache)
		untar(t, file, filepath.Join(own, "diff"))
		name := func(cache string) string { return strings.ToUpper(cache[:26]) }
		lower := ""
		for _, p := range parents {
			lower += ":l/" + name(p)
		}
		if lower != "" {
			mustDo(t, os.WriteFile(filepath.Join(own, "lower"), []byte(lower[1:]), 0o644))
		}
		mustDo(t, os.WriteFile(filepath.Join(own, "link"), []byte(name(cache)), 0o644))
		mustDo(t, os.MkdirAll(filepath.Join(root, "fuse-overlayfs/l"), 0o700))
		mustDo(t, os.Symlink("../"+cache+"/diff", filepath.Join(root, "fuse-overlayfs/l", name(cache))))
	},
	// overlay has whole trees, hard links to the parent's.
	"overlay": func(t *testing.T, root, cache string, parents []string, file string, raw []byte) {
		at := func(cache string) string { return filepath.Join(root, "overlay", cache, "root") }
		applyWhole(t, at, "-al", cache, parents, file, raw)
	},
	// vfs has whole trees, copies.
	"vfs": func(t *testing.T, root, cache string, parents []string, file string, raw []byte) {
		at := func(cache string) string { return filepath.Join(root, "vfs/dir", cache) }
		applyWhole(t, at, "-a", cache, parents, file, raw)
	},
}

func applyWhole(t *testing.T, at func(string) string, how, cache string, parents []string, file string, raw []byte) {
	t.Helper()
	dir := at(cache)
	mustDo(t, os.MkdirAll(filepath.Dir(dir), 0o755))
	if len(parents) == 0 {
		mustDo(t, os.MkdirAll(dir, 0o755))
	} else {
		harness.Run(t, "cp", how, at(parents[0]), dir)
	}
	for r := tar.NewReader(bytes.NewReader(raw)); ; {
		h, err := r.Next()
		if err != nil {
			break
		}
		up, base := path.Split(path.Clean(h.Name))
		switch name, ok := strings.CutPrefix(base, ".wh."); {
		case base == ".wh..wh..opq":
			old, err := os.ReadDir(filepath.Join(dir, up))
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Fatal(err)
			}
			for _, e := range old {
				mustDo(t, os.RemoveAll(filepath.Join(dir, up, e.Name())))
			}
		case ok:
			mustDo(t, os.RemoveAll(filepath.Join(dir, up, name)))
		default:
			at := filepath.Join(dir, h.Name)
			if st, err := os.Lstat(at); err == nil && (!st.IsDir() || h.Typeflag != tar.TypeDir) {
				mustDo(t, os.RemoveAll(at))
			}
		}
	}
	untar(t, file, dir, "--exclude=.wh.*")
}

func untar(t *testing.T, file, dir string, more ...string) {
	t.Helper()
	mustDo(t, os.MkdirAll(dir, 0o755))
	harness.Run(t, "tar", append([]string{"--xattrs", "--xattrs-include=*", "--numeric-owner", "-xpf", file, "-C", dir}, more...)...)
}

func mustDo(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// driverStack has what the drivers have each their own way for.
func driverStack() [][]byte {
	e := func(name string) storetest.Entry { return storetest.Entry{Name: name} }
	file := func(name, body string) storetest.Entry { return storetest.Entry{Name: name, Body: body} }
	return [][]byte{
		storetest.Tar(e("etc/"), file("etc/passwd", "root"), file("etc/gone", "x"), e("old/"), file("old/a", "a"), file("old/b", "b"),
			e("turns/"), file("turns/file", "f"), e("turns/dir/"), file("turns/dir/in", "i"),
			storetest.Entry{Name: "bin/"}, storetest.Entry{Name: "bin/su", Body: "suid", Mode: 0o4755, UID: 0, GID: 7},
			storetest.Entry{Name: "bin/su2", Type: tar.TypeLink, Link: "bin/su"}, storetest.Entry{Name: "bin/sh", Link: "su"},
			storetest.Entry{Name: "bin/ping", Body: "ping", Mode: 0o755, Xattrs: map[string]string{"security.capability": "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"}},
			storetest.Entry{Name: "dev/"}, storetest.Entry{Name: "fifo", Type: tar.TypeFifo, Mode: 0o600},
			storetest.Entry{Name: "var/", UID: 33, GID: 33, Mode: 0o1777}),
		storetest.Tar(e("etc/"), e("etc/.wh.gone"), file("etc/new", "n"),
			e("old/"), e("old/.wh..wh..opq"), file("old/c", "c"),
			e("turns/"), e("turns/file/"), file("turns/file/now", "d"), file("turns/dir", "was a directory")),
		storetest.Tar(e("etc/"), storetest.Entry{Name: "etc/passwd", Body: "root", Mode: 0o600, UID: 5}, e(".wh.var"), e("old/"), file("old/a", "again"),
			storetest.Entry{Name: "bin/"}, e("bin/.wh.su2")),
	}
}

// TestDrivers reads data roots of Docker's older storage drivers: each shows
// what the store shows that they were made from.
func TestDrivers(t *testing.T) {
	harness.Need(t, "root", "tar")
	ctx := context.Background()
	own := harness.NewStore(t)
	for _, name := range []string{"da-docker1809-busybox-14layers.tar", "da-docker1809-opaque-scratch.tar", "da-docker1712-busybox-whiteout.tar"} {
		own.Run(t, "load", "-i", filepath.Join(harness.NeedFixtures(t), name))
	}
	from, err := docker.Open(own.Store, docker.Options{})
	mustDo(t, err)
	defer from.Close()
	ingest(t, from, driverStack()...)
	ids, err := from.IDs(ctx)
	if err != nil || len(ids) != 4 {
		t.Fatal(ids, err)
	}
	wants := contentSums{}
	for driver := range apply {
		for _, splits := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/splits=%v", driver, splits), func(t *testing.T) {
				root := convert(t, from, driver, splits)
				cache := filepath.Join(t.TempDir(), "cache")
				for _, o := range []docker.Options{{Cache: cache}, {Cache: cache}, {ReadOnly: true, Lazy: true}} {
					s, err := docker.Open(root, o)
					mustDo(t, err)
					defer s.Close()
					gots := contentSums{}
					for _, id := range ids {
						want, got := layersOf(t, from, id), layersOf(t, s, id)
						for n := range want {
							what := fmt.Sprintf("%s, layers 0…%d", id, n)
							// The time of the root is when the driver unpacked it.
							harness.Same(t, what, wants.tree(t, want[:n+1])[1:], gots.tree(t, got[:n+1])[1:])
							if splits {
								tarOf(t, got[n])
							} else if _, err := got[n].Tar(ctx); !errors.Is(err, store.ErrUnsupported) {
								t.Errorf("a tar without a tar-split: %v", err)
							}
						}
					}
					if err := s.Check(ctx, true, func(p store.Problem) { t.Errorf("check: %s: %v", p.What, p.Err) }); err != nil {
						t.Error(err)
					}
					for what, err := range writes(ctx, s, ids[0]) {
						if !errors.Is(err, store.ErrUnsupported) || !strings.Contains(fmt.Sprint(err), driver) {
							t.Errorf("%s: %v", what, err)
						}
					}
				}
				if _, err := os.Lstat(filepath.Join(root, "imagefs")); err == nil {
					t.Error("a store that is only read was written to")
				}
			})
		}
	}
}

// writes tries what changes a store.
func writes(ctx context.Context, s *docker.Store, id digest.Digest) map[string]error {
	_, load := s.Ingest(ctx)
	_, remove := s.Remove(ctx, string(id), true)
	return map[string]error{"load": load, "remove": remove, "tag": s.Tag(ctx, "a:b", id), "untag": s.Untag(ctx, "a:b")}
}
