package containerd

import (
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	digest "github.com/opencontainers/go-digest"
	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"imagefs/overlay"
	"imagefs/store"
	"imagefs/store/platform"
	"imagefs/store/storetest"
)

var background = context.Background()

// app is an image of two layers.
func app(name, platform, content string) storetest.Image {
	img := storetest.Image{Platform: platform, Layers: [][]byte{storetest.Files("etc/", "etc/os=linux"), storetest.Files("app=" + content)}}
	if name != "" {
		img.Names = []string{name}
	}
	return img
}

func names(t testing.TB, s *Store) store.Names {
	t.Helper()
	n, err := s.Names(background)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func get(t testing.TB, s *Store, id digest.Digest) store.Image {
	t.Helper()
	img, err := s.Image(background, id)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// read returns the content of a file of an image.
func read(img store.Image, path string) (string, error) {
	if err := img.Err(); err != nil {
		return "", err
	}
	var layers []overlay.Layer
	for _, l := range img.Layers() {
		ix, err := l.Index(background)
		if err != nil {
			return "", err
		}
		layers = append(layers, ix)
	}
	tree, err := overlay.Merge(layers...)
	if err != nil {
		return "", err
	}
	n, ok, err := tree.Walk(path)
	if err != nil || !ok {
		return "", errors.Join(err, os.ErrNotExist)
	}
	f, err := img.Layers()[n.Layer()].Open(background, n.Ino())
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.NewSectionReader(f, 0, f.Size()))
	return string(b), err
}

func contains(t testing.TB, img store.Image, path, want string) {
	t.Helper()
	if got, err := read(img, path); err != nil || got != want {
		t.Errorf("%s is %q, %v, want %q", path, got, err, want)
	}
}

func TestPlatforms(t *testing.T) {
	defer func(h platform.Platform) { host = h }(host)
	host = platform.Of("linux", "arm", "v7")
	r := newRoot(t)
	amd, v6, v8, v5 := app("", "linux/amd64", "amd64"), app("", "linux/arm/v6", "v6"), app("", "linux/arm/v8", "v8"), app("", "linux/arm/v5", "v5")
	add := func(img storetest.Image) storetest.Descriptor {
		return r.layout.Manifest(img, storetest.Plain).For(img.Platform)
	}
	gone := add(app("", "linux/arm/v7", "v7"))
	r.drop(gone.Digest)
	attested := add(app("", "unknown/unknown", "not an image")).With("vnd.docker.reference.type", "attestation-manifest")
	all := r.layout.SubIndex(gone, add(amd), attested, add(v8), add(v5), add(v6))
	r.name("default", "docker.io/library/app:1", all)
	r.name("default", "docker.io/library/nested:1", r.layout.SubIndex(all))
	foreign := r.layout.SubIndex(gone, add(amd))
	r.name("default", "docker.io/library/foreign:1", foreign)
	none := r.layout.SubIndex(gone)
	r.name("default", "docker.io/library/none:1", none)
	half := add(storetest.Image{Platform: "linux/arm/v7", Layers: [][]byte{storetest.Files("half=v7")}})
	r.drop(digest.FromBytes(storetest.Files("half=v7")))
	r.name("default", "docker.io/library/half:1", r.layout.SubIndex(half, add(amd)))
	chart := r.layout.JSON(storetest.TypeManifest, storetest.Manifest{SchemaVersion: 2, Config: r.layout.Blob("application/vnd.cncf.helm.config.v1+json", []byte("{}"))})
	r.name("default", "docker.io/library/chart:1", chart)
	s := open(t, r.write(), Options{})
	n := names(t, s)
	for ref, want := range map[string]digest.Digest{"app:1": v6.ID(), "nested:1": v6.ID(), "foreign:1": amd.ID(), "none:1": none.Digest, "half:1": amd.ID(), "chart:1": ""} {
		if n.Tags[ref] != want {
			t.Errorf("%s names %q, want %q", ref, n.Tags[ref], want)
		}
	}
	for d, want := range map[digest.Digest]digest.Digest{all.Digest: v6.ID(), add(amd).Digest: amd.ID(), add(v5).Digest: v5.ID(), gone.Digest: "", attested.Digest: ""} {
		if got := n.Digests["app@"+string(d)]; got != want {
			t.Errorf("app@%s names %q, want %q", d, got, want)
		}
	}
	contains(t, get(t, s, v8.ID()), "app", "v8")
	if err := get(t, s, none.Digest).Err(); !errors.Is(err, store.ErrCorrupt) || !strings.Contains(err.Error(), string(gone.Digest)) || !strings.Contains(err.Error(), "linux/arm/v7") {
		t.Errorf("an index of which nothing is here: %v", err)
	}
	m, ok := get(t, s, amd.ID()).(store.Manifester)
	if !ok || digest.FromBytes(m.RawManifest()) != add(amd).Digest {
		t.Error("the manifest is another one")
	}
}

// One config may belong to several manifests; the one whose layers are here counts.
func TestTwoManifestsOfAnImage(t *testing.T) {
	r := newRoot(t)
	img := app("app:gz", "", "x")
	r.image("default", img, storetest.Gzip)
	for _, l := range img.Layers {
		r.drop(digest.FromBytes(storetest.Gzip(l)))
	}
	d := r.layout.Manifest(img, storetest.Plain)
	r.name("default", "docker.io/library/app:plain", d)
	s := open(t, r.write(), Options{})
	contains(t, get(t, s, img.ID()), "app", "x")
	if n := names(t, s); n.Tags["app:gz"] != img.ID() || n.Tags["app:plain"] != img.ID() || len(n.Digests) != 2 {
		t.Errorf("names %v", n)
	}
}

// A snapshot of which the databases say different things is not used.
func TestSnapshotsThatContradict(t *testing.T) {
	for name, change := range map[string]func(r *fakeRoot){
		"active":            func(r *fakeRoot) { r.snaps[1].kind = 2 },
		"another id":        func(r *fakeRoot) { r.snaps[1].id = 1 << 40 },
		"another parent":    func(r *fakeRoot) { r.snaps[1].parent = "" },
		"not in the first":  func(r *fakeRoot) { r.snaps = r.snaps[1:] },
		"not in the second": func(r *fakeRoot) { r.changes = append(r.changes, forget) },
		"no directory": func(r *fakeRoot) {
			r.changes = append(r.changes, func(_, _ *bbolt.Tx) error { return os.RemoveAll(filepath.Join(r.dir, snapshotDir, "2")) })
		},
		"a link in its place": func(r *fakeRoot) {
			r.changes = append(r.changes, func(_, _ *bbolt.Tx) error {
				d := filepath.Join(r.dir, snapshotDir, "2")
				return errors.Join(os.RemoveAll(d), os.Symlink("1", d))
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRoot(t)
			img := app("app:1", "", "x")
			r.image("default", img, storetest.Plain)
			r.unpack("default", img)
			change(r)
			s := open(t, r.write(), Options{})
			got := get(t, s, img.ID())
			contains(t, got, "app", "x")
			if key := got.Layers()[1].Key(); !strings.Contains(key, "-b") {
				t.Errorf("the layer is read from its snapshot: %s", key)
			}
			// Docker commits layers on files of a container's: what it counted is what it shows.
			if size := got.Layers()[1].Size(); (size == 4096) != (name == "another parent") {
				t.Errorf("size %d", size)
			}
			// Without the blob there is nothing left of it.
			if err := os.Remove(filepath.Join(r.dir, blobPath(img.DiffIDs()[1]))); err != nil {
				t.Fatal(err)
			}
			if err := get(t, s, img.ID()).Err(); !errors.Is(err, store.ErrCorrupt) || !strings.Contains(err.Error(), string(img.DiffIDs()[1])) {
				t.Errorf("without the blob: %v", err)
			}
		})
	}
}

// A snapshot that somebody else made or copied cannot tell owners: the blob does.
func TestSnapshotOfAnotherOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Log("as an ordinary user every snapshot of the other tests is one")
		return
	}
	r := newRoot(t)
	img := storetest.Image{Names: []string{"app:1"}, Layers: [][]byte{storetest.Tar(storetest.Entry{Name: "app", Body: "x", UID: 7})}}
	r.image("default", img, storetest.Gzip)
	r.unpack("default", img)
	dir := r.write()
	for _, p := range []string{"1", "1/fs", "1/fs/app"} {
		if err := os.Lchown(filepath.Join(dir, snapshotDir, p), 1000, 1000); err != nil {
			t.Fatal(err)
		}
	}
	owner := func() uint32 {
		t.Helper()
		got := get(t, open(t, dir, Options{}), img.ID())
		contains(t, got, "app", "x")
		ix, err := got.Layers()[0].Index(background)
		if err != nil {
			t.Fatal(err)
		}
		tree, err := overlay.Merge(ix)
		if err != nil {
			t.Fatal(err)
		}
		n, _, err := tree.Walk("app")
		if err != nil {
			t.Fatal(err)
		}
		return tree.Attr(n).UID
	}
	if uid := owner(); uid != 7 {
		t.Errorf("the owner is %d, want the tar's, 7", uid)
	}
	if err := os.Remove(filepath.Join(dir, blobPath(digest.FromBytes(storetest.Gzip(img.Layers[0]))))); err != nil {
		t.Fatal(err)
	}
	if uid := owner(); uid != 1000 {
		t.Errorf("the owner is %d, want the file's, 1000, where there is nothing else", uid)
	}
}

func forget(_, snapshots *bbolt.Tx) error {
	b := at(snapshots, version, "snapshots")
	k, _ := b.Cursor().Last()
	return b.DeleteBucket(slices.Clone(k))
}

// What is read goes on being read while it is there, wherever else it appears.
func TestUnpackedLater(t *testing.T) {
	r := newRoot(t)
	img := app("app:1", "", "x")
	r.image("default", img, storetest.Plain)
	dir := r.write()
	s := open(t, dir, Options{})
	before := get(t, s, img.ID())
	contains(t, before, "app", "x")
	r.unpack("default", img)
	r.write()
	if after := get(t, s, img.ID()); after.Layers()[1].Key() != before.Layers()[1].Key() {
		t.Error("a layer that is in use became another one")
	}
	for _, d := range img.DiffIDs() {
		if err := os.Remove(filepath.Join(dir, blobPath(d))); err != nil {
			t.Fatal(err)
		}
	}
	after := get(t, s, img.ID())
	contains(t, after, "app", "x")
	if l := after.Layers()[1]; l.Key() == before.Layers()[1].Key() || l.(store.TarHolder).HasTar() {
		t.Error("the layer is read from a blob that is not there")
	} else if _, err := l.Tar(background); !errors.Is(err, store.ErrUnsupported) {
		t.Errorf("tar: %v, want %v", err, store.ErrUnsupported)
	}
	if err := os.RemoveAll(filepath.Join(dir, snapshotDir)); err != nil {
		t.Fatal(err)
	}
	for _, l := range append(before.Layers(), after.Layers()...) {
		s.Forget(l)
	}
	if len(s.layers) != 0 {
		t.Errorf("%d layers are kept", len(s.layers))
	}
}

// Nothing stays mapped of a layer that the store no longer has.
func TestForgetUnmaps(t *testing.T) {
	r := newRoot(t)
	img := app("app:1", "", "x")
	r.image("default", img, storetest.Gzip)
	dir, cache := r.write(), t.TempDir()
	mapped := func() int {
		b, err := os.ReadFile("/proc/self/maps")
		if err != nil {
			t.Fatal(err)
		}
		return bytes.Count(b, []byte(cache))
	}
	first := open(t, dir, Options{Cache: cache})
	contains(t, get(t, first, img.ID()), "app", "x")
	s := open(t, dir, Options{Cache: cache})
	layers := get(t, s, img.ID()).Layers()
	for _, l := range layers {
		if _, err := l.Index(background); err != nil {
			t.Fatal(err)
		}
	}
	n := mapped()
	for _, l := range layers {
		s.Forget(l)
	}
	if n == 0 || mapped() != n {
		t.Errorf("%d files are mapped, of %d, of layers that are there", mapped(), n)
	}
	for _, raw := range img.Layers {
		if err := os.Remove(filepath.Join(dir, blobPath(digest.FromBytes(storetest.Gzip(raw))))); err != nil {
			t.Fatal(err)
		}
	}
	for _, l := range layers {
		s.Forget(l)
	}
	if mapped() != 0 {
		t.Errorf("%d files are mapped, of %d", mapped(), n)
	}
}

// A daemon that has the databases locked is neither waited for nor held up.
func TestLive(t *testing.T) {
	r := newRoot(t)
	first, second := app("app:1", "", "1"), app("app:2", "", "2")
	r.image("default", first, storetest.Plain)
	dir := r.write()
	meta := r.database(metaFile)
	defer meta.Close()
	var said bytes.Buffer
	s := open(t, dir, Options{Log: testLog(&said)})
	if !strings.Contains(said.String(), "containerd is running") {
		t.Errorf("the log does not say that a daemon is there: %q", said.String())
	}
	ctx, stop := context.WithCancel(background)
	defer stop()
	events, err := s.Watch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if n := names(t, s); n.Tags["app:1"] != first.ID() {
		t.Fatalf("names %v", n)
	}
	// Another image comes while the daemon is there.
	other := newRoot(t)
	other.dir = dir
	other.image("default", second, storetest.Plain)
	for _, m := range other.layout.Members {
		if err := os.WriteFile(filepath.Join(dir, blobDir, strings.TrimPrefix(m.Name, "blobs/")), m.Body, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := meta.Update(func(tx *bbolt.Tx) error { return other.fill(tx, nil) }); err != nil {
		t.Fatal(err)
	}
	select {
	case <-events:
	case <-time.After(30 * time.Second):
		t.Fatal("nobody tells of a change")
	}
	if n := names(t, s); n.Tags["app:2"] != second.ID() {
		t.Errorf("names %v", slices.Collect(maps.Keys(n.Tags)))
	}
	stop()
	for range events {
	}
}

func TestOpen(t *testing.T) {
	r := newRoot(t)
	r.image("moby", app("app:1", "", "1"), storetest.Plain)
	dir := r.write()
	data := t.TempDir()
	if err := os.MkdirAll(filepath.Join(data, "containerd"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(dir, filepath.Join(data, Own)); err != nil {
		t.Fatal(err)
	}
	if s := open(t, data, Options{}); s.Root() != filepath.Join(data, Own) || len(names(t, s).Tags) != 1 {
		t.Errorf("Docker's root: %s", s.Root())
	}
	if err := os.MkdirAll(filepath.Join(data, "image/overlay2/imagedb"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(data, Options{}); !errors.Is(err, store.ErrNotFound) || Is(data) {
		t.Errorf("the root of a Docker that has its images elsewhere: %v", err)
	}
	for _, p := range []string{Own, filepath.Dir(Own)} {
		if s := open(t, filepath.Join(data, p), Options{}); len(names(t, s).Tags) != 1 {
			t.Error("its containerd, by name, has no images")
		}
	}
	// A disk of another machine.
	disk := t.TempDir()
	if err := errors.Join(os.MkdirAll(filepath.Join(disk, "var/lib"), 0o755), os.Rename(filepath.Join(data, Own), filepath.Join(disk, "var/lib/containerd"))); err != nil {
		t.Fatal(err)
	}
	if s := open(t, disk, Options{}); s.Root() != filepath.Join(disk, "var/lib/containerd") || Is(disk) {
		t.Errorf("a store below: %s", s.Root())
	}
	// No link leads out of what was named.
	out := t.TempDir()
	if err := os.Symlink(filepath.Join(disk, "var/lib"), filepath.Join(out, "containerd")); err == nil {
		err = os.Rename(filepath.Join(disk, "var/lib/containerd"), filepath.Join(disk, "var/lib/daemon"))
		if _, oerr := Open(out, Options{}); err != nil || !errors.Is(oerr, store.ErrNotFound) || Is(out) {
			t.Errorf("a store behind a link: %v %v", err, oerr)
		}
	}
	for name, make := range map[string]func(p string) error{
		"empty":     func(p string) error { return os.WriteFile(p, nil, 0o644) },
		"zeros":     func(p string) error { return os.WriteFile(p, make([]byte, 1<<16), 0o644) },
		"directory": func(p string) error { return os.Mkdir(p, 0o755) },
		"fifo":      func(p string) error { return unix.Mkfifo(p, 0o644) },
		"link":      func(p string) error { return os.Symlink("/etc/passwd", p) },
	} {
		root := t.TempDir()
		p := filepath.Join(root, metaFile)
		if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), make(p)); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(root, Options{}); err == nil || errors.Is(err, store.ErrNotFound) {
			t.Errorf("a database that is %s: %v", name, err)
		}
	}
	if _, err := Open(filepath.Join(data, "none"), Options{}); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("no directory: %v", err)
	}
}

// What engines call an image by in place of its ID, which Docker and nerdctl
// print, is found: of an index, of each platform's manifest, and of an image
// without a name.
func TestAliases(t *testing.T) {
	r := newRoot(t)
	amd, arm := app("", "linux/amd64", "amd"), app("", "linux/arm64", "arm")
	a, b := r.layout.Manifest(amd, storetest.Plain).For("linux/amd64"), r.layout.Manifest(arm, storetest.Plain).For("linux/arm64")
	index := r.layout.SubIndex(a, b)
	r.name("moby", "docker.io/library/multi:1", index)
	nameless := app("", "", "nameless")
	n := r.image("moby", nameless, storetest.Plain)
	s := open(t, r.write(), Options{})
	chosen := names(t, s).Tags["multi:1"]
	for d, want := range map[digest.Digest]digest.Digest{index.Digest: chosen, a.Digest: amd.ID(), b.Digest: arm.ID(), n.Digest: nameless.ID()} {
		for _, ref := range []string{string(d), d.Encoded(), d.Encoded()[:12], "sha256:" + d.Encoded()[:12]} {
			if id, name, err := store.Resolve(background, s, ref); id != want || name != "" || err != nil {
				t.Errorf("%s is %s %q, %v, want %s", ref, id, name, err, want)
			}
		}
	}
	for _, ref := range []string{"sha256:" + strings.Repeat("0", 64), strings.Repeat("0", 12)} {
		if id, _, err := store.Resolve(background, s, ref); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("%s is %s, %v", ref, id, err)
		}
	}
}

// Docker's classic builder writes down what it built an image on.
func TestParents(t *testing.T) {
	r := newRoot(t)
	base, top := app("", "", "base"), app("top:1", "", "top")
	d := r.image("moby", base, storetest.Plain)
	r.image("moby", top, storetest.Plain)
	r.images[1].parent = d.Digest
	r.image("moby", app("lost:1", "", "lost"), storetest.Plain)
	r.images[2].parent = digest.FromString("what is not here")
	s := open(t, r.write(), Options{})
	for name, want := range map[string]digest.Digest{"top:1": base.ID(), "lost:1": ""} {
		if got := get(t, s, names(t, s).Tags[name]).Parent(); got != want {
			t.Errorf("the parent of %s is %q, want %q", name, got, want)
		}
	}
	if got := get(t, s, base.ID()).Parent(); got != "" {
		t.Errorf("the parent of the base is %q", got)
	}
}

// Who waits for another's reading of the databases can give up.
func TestWaitEnds(t *testing.T) {
	r := newRoot(t)
	r.image("default", app("app:1", "", "1"), storetest.Plain)
	s := open(t, r.write(), Options{})
	if err := s.build.Take(background); err != nil {
		t.Fatal(err)
	}
	short, stop := context.WithTimeout(background, 20*time.Millisecond)
	defer stop()
	if _, err := s.IDs(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("while another reads: %v", err)
	}
	s.build.Give()
	if ids, err := s.IDs(background); err != nil || len(ids) != 1 {
		t.Errorf("afterwards: %v, %v", ids, err)
	}
}

func TestAdvice(t *testing.T) {
	r := newRoot(t)
	r.image("moby", app("app:1", "", "x"), storetest.Plain)
	s := open(t, r.write(), Options{})
	err := store.Cannot(s, "name images")
	want := "cannot name images in " + s.Root() + ", which imagefs only reads: use docker, nerdctl or ctr, whichever keeps its images there: not supported by this kind of store"
	if !errors.Is(err, store.ErrUnsupported) || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
}

// A file that a snapshot has lost is damage; when containerd has taken the
// snapshot's record away, the snapshot is being removed.
func TestLostFile(t *testing.T) {
	r := newRoot(t)
	img := app("app:1", "", "x")
	r.image("default", img, storetest.Plain)
	r.unpack("default", img)
	dir := r.write()
	s := open(t, dir, Options{})
	l := get(t, s, img.ID()).Layers()[0]
	ix, err := l.Index(background)
	if err != nil {
		t.Fatal(err)
	}
	var file overlay.Ino
	for i := range overlay.Ino(ix.Inodes()) {
		if a := ix.Stat(i); a.Mode&0o170000 == 0o100000 && a.Size > 0 {
			file = i
		}
	}
	if err := os.Remove(filepath.Join(dir, snapshotDir, "1/fs", string(ix.Path(nil, file)))); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Open(background, file); !errors.Is(err, store.ErrCorrupt) || errors.Is(err, store.ErrGone) {
		t.Errorf("a file that is lost: %v", err)
	}
	r.changes = append(r.changes, func(meta, _ *bbolt.Tx) error {
		b := at(meta, version, "default", "snapshots", snapshotter)
		return b.DeleteBucket([]byte(l.ChainID()))
	})
	r.write()
	if _, err := l.Open(background, file); !errors.Is(err, store.ErrGone) || errors.Is(err, store.ErrCorrupt) {
		t.Errorf("of a snapshot that is being removed: %v", err)
	}
}
