package containerd

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	digest "github.com/opencontainers/go-digest"
	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"imagefs/store"
	"imagefs/store/storetest"
)

// Records that no engine writes hide nothing else.
func TestHostileRecords(t *testing.T) {
	r := newRoot(t)
	good := app("good:1", "", "good")
	r.image("default", good, storetest.Plain)
	bad := func(name string, d digest.Digest) {
		r.name("default", name, storetest.Descriptor{MediaType: storetest.TypeManifest, Digest: d, Size: -1})
	}
	bad("docker.io/library/up:1", "sha256:../../../../etc/passwd")
	bad("docker.io/library/short:1", "sha256:abc")
	bad("docker.io/library/nothing:1", "")
	bad("docker.io/library/"+strings.Repeat("x", 2000)+":1", digest.FromString("x"))
	loop := r.layout.SubIndex(storetest.Descriptor{Digest: digest.FromString("nothing")})
	r.name("default", "docker.io/library/loop:1", r.layout.SubIndex(loop, loop, loop))
	var deep storetest.Descriptor = r.layout.Manifest(app("", "", "deep"), storetest.Plain)
	for range 20 {
		deep = r.layout.SubIndex(deep)
	}
	r.name("default", "docker.io/library/deep:1", deep)
	evil := r.layout.JSON(storetest.TypeManifest, map[string]any{"config": map[string]any{"digest": "sha256:../../x"}, "layers": []any{}})
	r.name("default", "docker.io/library/evil:1", evil)
	many := r.layout.Blob(storetest.TypeIndex, []byte(`{"manifests":[`+strings.Repeat(`{},`, maxValues)+`{}]}`))
	r.name("default", "docker.io/library/many:1", many)
	r.changes = append(r.changes, func(meta, _ *bbolt.Tx) error {
		at(meta, version, "default", "images", "docker.io/library/bucket:1") // with nothing in it
		at(meta, version, "default", "images", "docker.io/library/odd:1", "target", "digest")
		return put(at(meta, version, "default", "images"), "docker.io/library/value:1", []byte("no bucket"))
	})
	s := open(t, r.write(), Options{})
	n := names(t, s)
	contains(t, get(t, s, n.Tags["good:1"]), "app", "good")
	ids, err := s.IDs(background)
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		img := get(t, s, id)
		if id != good.ID() && !errors.Is(img.Err(), store.ErrCorrupt) && !errors.Is(img.Err(), store.ErrTooLarge) {
			t.Errorf("%s: %v", id, img.Err())
		}
	}
	for _, ref := range []string{"up:1", "short:1", "loop:1", "deep:1", "evil:1", "many:1"} {
		if n.Tags[ref] == "" {
			t.Errorf("%s, which is broken, is not shown", ref)
		}
	}
	var problems []string
	if err := s.Check(background, true, func(p store.Problem) { problems = append(problems, p.What) }); err != nil || len(problems) != len(ids)-1 {
		t.Errorf("check finds %d problems of %d, %v", len(problems), len(ids)-1, err)
	}
}

// A blob that is something else is read as nothing else.
func TestHostileBlobs(t *testing.T) {
	for name, put := range map[string]func(p string) error{
		"link":     func(p string) error { return os.Symlink("/etc/passwd", p) },
		"fifo":     func(p string) error { return unix.Mkfifo(p, 0o644) },
		"dir":      func(p string) error { return os.Mkdir(p, 0o755) },
		"too long": func(p string) error { return os.WriteFile(p, make([]byte, maxDocument+1), 0o644) },
	} {
		r := newRoot(t)
		img := app("app:1", "", "x")
		d := r.image("default", img, storetest.Plain)
		dir := r.write()
		for _, blob := range []digest.Digest{img.DiffIDs()[1], img.ID(), d.Digest} {
			p := filepath.Join(dir, blobPath(blob))
			if err := errors.Join(os.Remove(p), put(p)); err != nil {
				t.Fatal(err)
			}
			s := open(t, dir, Options{})
			id := names(t, s).Tags["app:1"]
			if _, err := read(get(t, s, id), "app"); err == nil || !strings.Contains(err.Error(), string(blob)) {
				t.Errorf("%s in the place of a blob: %v, want the name of %s", name, err, blob)
			}
		}
	}
}

// FuzzStore damages the databases and the manifest of a store with one image,
// and asks for everything there is.
func FuzzStore(f *testing.F) {
	r := newRoot(f)
	img := app("app:1", "", "x")
	d := r.image("default", img, storetest.Plain)
	r.unpack("default", img)
	dir := r.write()
	files := []string{metaFile, snapFile, blobPath(d.Digest), blobPath(img.ID())}
	var whole [][]byte
	for _, name := range files {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			f.Fatal(err)
		}
		whole = append(whole, b)
	}
	f.Add(uint8(0), uint32(0), uint64(0))
	f.Add(uint8(1), uint32(3*4096), uint64(1))
	f.Add(uint8(2), uint32(20), uint64(1<<40))
	f.Fuzz(func(t *testing.T, which uint8, at uint32, with uint64) {
		n := int(which) % len(files)
		b := bytes.Clone(whole[n])
		off := int(at) % (len(b) - 8)
		binary.LittleEndian.PutUint64(b[off:], binary.LittleEndian.Uint64(b[off:])^with)
		for i, name := range files {
			w := whole[i]
			if i == n {
				w = b
			}
			if err := os.WriteFile(filepath.Join(dir, name), w, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		s, err := Open(dir, Options{})
		if err != nil {
			return
		}
		defer s.Close()
		if n, err := s.Names(background); err == nil {
			check(t, n)
		}
		ids, _ := s.IDs(background)
		for _, id := range ids {
			img, err := s.Image(background, id)
			if err != nil {
				t.Errorf("%s is listed: %v", id, err)
				continue
			}
			_, _ = read(img, "app")
		}
		_ = s.Check(background, true, func(store.Problem) {})
	})
}
