package save

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"imagefs/store"
	"imagefs/store/archive"
	"imagefs/store/storetest"
)

// foreign writes a layout of another program, and returns where.
func foreign(t *testing.T, compress storetest.Compress, images ...storetest.Image) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "layout")
	l := storetest.OCI(compress, images...)
	var index map[string]any
	if err := json.Unmarshal(l.Get("index.json"), &index); err != nil {
		t.Fatal(err)
	}
	index["annotations"] = map[string]string{"org.example": "stays"}
	l.SetJSON("index.json", index)
	if err := l.Write(dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

// files lists what is in a directory, with sizes.
func files(t *testing.T, dir string) string {
	t.Helper()
	var out []string
	err := filepath.Walk(dir, func(p string, fi os.FileInfo, err error) error {
		if err == nil && !fi.IsDir() {
			b, _ := os.ReadFile(p)
			out = append(out, strings.TrimPrefix(p, dir)+" "+string(b))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(out, "\n")
}

// tagsIn are the names in a layout, with their images.
func tagsIn(t *testing.T, dir string) store.Names {
	t.Helper()
	s, err := archive.Open(dir, archive.StoreOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	names, err := s.Names(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Check(ctx, true, func(p store.Problem) { t.Errorf("%s: %v", p.What, p.Err) }); err != nil {
		t.Error(err)
	}
	return names
}

// unreadable is an image of which some layers must not be touched.
type unreadable struct {
	store.Image
	t     *testing.T
	first int // layers that must not
}

type untouchable struct {
	store.Layer
	t *testing.T
}

func (l untouchable) TarSize(context.Context) (int64, error) {
	l.t.Error("the size of a layer was asked for")
	return 0, errFull
}

func (l untouchable) Tar(context.Context) (store.File, error) {
	l.t.Error("a layer was read")
	return nil, errFull
}

func (i unreadable) Layers() []store.Layer {
	out := slices.Clone(i.Image.Layers())
	for n := range i.first {
		out[n] = untouchable{out[n], i.t}
	}
	return out
}

// What a layout has stays, its layers are used as they are, and a name moves.
func TestAdd(t *testing.T) {
	s := openNew(t)
	load(t, s, storetest.Docker(images...).Tar())
	other := storetest.Image{Names: []string{"app:1", "keep:1"}, Layers: [][]byte{base}, Comment: "other"}
	for _, c := range []struct {
		name     string
		compress storetest.Compress
		with     Compression
	}{{"plain", storetest.Plain, None}, {"gzip", storetest.Gzip, Zstd}, {"zstd", storetest.Zstd, Gzip}} {
		t.Run(c.name, func(t *testing.T) {
			dir := foreign(t, c.compress, other)
			items := selected(t, s, "app:1")
			items[0].Image = unreadable{items[0].Image, t, 1} // the base is there
			if err := AddToOCIDir(ctx, dir, items, OCIOptions{Compress: c.with, Temp: temp}); err != nil {
				t.Fatal(err)
			}
			names := tagsIn(t, dir)
			if names.Tags["app:1"] != images[0].ID() || names.Tags["keep:1"] != other.ID() || len(names.Tags) != 2 {
				t.Errorf("names %v", names.Tags)
			}
			if all := files(t, dir); !strings.Contains(all, `"org.example":"stays"`) || strings.Contains(all, "/manifest.json") || strings.Contains(all, tempPrefix) {
				t.Errorf("an annotation is gone, or something came: %.2000s", all)
			}
			// Once more changes nothing.
			before := files(t, dir)
			if err := AddToOCIDir(ctx, dir, items, OCIOptions{Compress: c.with, Temp: temp}); err != nil {
				t.Fatal(err)
			}
			if files(t, dir) != before {
				t.Error("the same image again changes the layout")
			}
		})
	}
}

// An image that loses its only name stays, without one; manifest.json goes along.
func TestAddToOurOwn(t *testing.T) {
	s := openNew(t)
	load(t, s, storetest.Docker(images...).Tar())
	dir := filepath.Join(t.TempDir(), "layout")
	for _, ref := range []string{"app:1", "app:2", images[2].ID().String(), images[2].ID().String()} {
		if err := AddToOCIDir(ctx, dir, selected(t, s, ref), OCIOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	item := selected(t, s, "app:2")
	item[0].Names = []string{"app:1"}
	if err := AddToOCIDir(ctx, dir, item, OCIOptions{}); err != nil {
		t.Fatal(err)
	}
	names := tagsIn(t, dir)
	if names.Tags["app:1"] != images[1].ID() || names.Tags["app:2"] != images[1].ID() || len(names.Tags) != 2 {
		t.Errorf("names %v", names.Tags)
	}
	loaded, err := archive.NewLoader(openNew(t), archive.Options{}).LoadPath(ctx, dir) // by manifest.json
	want := []store.Loaded{{ID: images[0].ID()}, {ID: images[1].ID(), Names: []string{"app:1", "app:2"}}, {ID: images[2].ID()}}
	if err != nil || inWords(loaded) != inWords(want) {
		t.Errorf("loaded %s %v, want %s", inWords(loaded), err, inWords(want))
	}
}

// What is told of the progress grows, and ends with all that there is.
func TestProgressEnds(t *testing.T) {
	s := openNew(t)
	load(t, s, storetest.Docker(images...).Tar())
	for what, do := range map[string]func(dir string, o OCIOptions) error{
		"OCIDir":      func(dir string, o OCIOptions) error { return OCIDir(ctx, dir, selected(t, s, "app:2"), o) },
		"AddToOCIDir": func(dir string, o OCIOptions) error { return AddToOCIDir(ctx, dir, selected(t, s, "app:2"), o) },
	} {
		dir := filepath.Join(t.TempDir(), "layout")
		if what == "AddToOCIDir" {
			dir = foreign(t, storetest.Gzip, storetest.Image{Names: []string{"keep:1"}, Layers: [][]byte{top}, Comment: "other"})
		}
		var last Progress
		err := do(dir, OCIOptions{Progress: func(p Progress) {
			if p.Done < last.Done || p.Total < last.Total || p.Done > p.Total {
				t.Errorf("%s: %+v after %+v", what, p, last)
			}
			last = p
		}})
		if err != nil || last.Total == 0 || last.Done != last.Total {
			t.Errorf("%s: %+v, %v", what, last, err)
		}
	}
}

// After an error the layout is to the byte what it was, and no lock is left.
func TestAddFails(t *testing.T) {
	s := openNew(t)
	load(t, s, storetest.Docker(images...).Tar())
	dir := foreign(t, storetest.Gzip, storetest.Image{Names: []string{"keep:1"}, Layers: [][]byte{top}, Comment: "other"})
	before := files(t, dir)
	cancelled, cancel := context.WithCancel(ctx)
	err := AddToOCIDir(cancelled, dir, selected(t, s, "app:2"), OCIOptions{Progress: func(p Progress) {
		if p.Done > 0 {
			cancel()
		}
	}})
	if !errors.Is(err, context.Canceled) || files(t, dir) != before {
		t.Errorf("interrupted: %v", err)
	}
	// Another process is at it.
	d, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := unix.Flock(int(d.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if err := AddToOCIDir(cancelled, dir, selected(t, s, "app:2"), OCIOptions{}); !errors.Is(err, context.Canceled) || files(t, dir) != before {
		t.Errorf("locked: %v", err)
	}
	d.Close()
	// What is no layout is left alone.
	for name, spoil := range map[string]func(dir string) error{
		"not a layout": func(dir string) error { return os.Remove(dir + "/oci-layout") },
		"no JSON":      func(dir string) error { return os.WriteFile(dir+"/index.json", []byte("{"), 0o644) },
		"null":         func(dir string) error { return os.WriteFile(dir+"/index.json", []byte("null"), 0o644) },
		"blobs lead away": func(dir string) error {
			return errors.Join(os.Rename(dir+"/blobs", dir+"x"), os.Symlink(dir+"x", dir+"/blobs"))
		},
		"an index far away": func(dir string) error {
			return errors.Join(os.Rename(dir+"/index.json", dir+"i"), os.Symlink(dir+"i", dir+"/index.json"))
		},
	} {
		dir := foreign(t, storetest.Gzip, images[2])
		if err := spoil(dir); err != nil {
			t.Fatal(err)
		}
		before := files(t, filepath.Dir(dir))
		if err := AddToOCIDir(ctx, dir, selected(t, s, "app:1"), OCIOptions{}); err == nil || files(t, filepath.Dir(dir)) != before {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzOldLayout(f *testing.F) {
	f.Add([]byte(`{"manifests":[{"digest":"sha256:no","annotations":{"io.containerd.image.name":"docker.io/library/a:1"}},null,{}]}`), []byte(`[{"Config":"x","RepoTags":["a:1",7]},null]`))
	f.Fuzz(func(t *testing.T, index, docker []byte) {
		l := &oldLayout{docker: docker}
		var i struct{ Manifests []json.RawMessage }
		if json.Unmarshal(index, &l.index) != nil || l.index == nil || json.Unmarshal(index, &i) != nil {
			return
		}
		for _, m := range i.Manifests {
			e := oldEntry{raw: m}
			if json.Unmarshal(m, &e.descriptor) == nil {
				l.entries = append(l.entries, e)
			}
		}
		b, err := l.withIndex(named(descriptor{Digest: "sha256:x"}, []string{"a:1"}))
		if err != nil || !strings.Contains(string(b), "docker.io/library/a:1") {
			t.Errorf("%s %v", b, err)
		}
		if b, err = l.withDocker([]dockerImage{{Config: "x", RepoTags: []string{"a:1"}}}); err == nil && !strings.Contains(string(b), "a:1") {
			t.Errorf("%s", b)
		}
	})
}

// A blob that is damaged, which no image's layers tell of, is written again.
func TestAddOverDamage(t *testing.T) {
	s := openNew(t)
	load(t, s, storetest.Docker(images...).Tar())
	dir := filepath.Join(t.TempDir(), "layout")
	items := selected(t, s, "app:1")
	if err := AddToOCIDir(ctx, dir, items, OCIOptions{}); err != nil {
		t.Fatal(err)
	}
	blobs, err := filepath.Glob(filepath.Join(dir, "blobs/sha256/*"))
	if err != nil || len(blobs) < 3 {
		t.Fatal(blobs, err)
	}
	for _, b := range blobs {
		raw, _ := os.ReadFile(b)
		raw[0] ^= 1
		if err := os.WriteFile(b, raw, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := AddToOCIDir(ctx, dir, items, OCIOptions{}); err != nil {
		t.Fatal(err)
	}
	tagsIn(t, dir)
}

// Who finds that somebody else made the layout meanwhile adds to it.
func TestAddToNewAtOnce(t *testing.T) {
	s := openNew(t)
	load(t, s, storetest.Docker(images...).Tar())
	dir := filepath.Join(t.TempDir(), "layout")
	items := selected(t, s, "app:1")
	first := true
	o := OCIOptions{Progress: func(Progress) {
		if !first {
			return
		}
		first = false
		if err := AddToOCIDir(ctx, dir, selected(t, s, "app:2"), OCIOptions{}); err != nil {
			t.Error(err)
		}
	}}
	if err := AddToOCIDir(ctx, dir, items, o); err != nil {
		t.Fatal(err)
	}
	if names := tagsIn(t, dir); first || len(names.Tags) != 2 {
		t.Errorf("names %v", names.Tags)
	}
	if all, _ := os.ReadDir(filepath.Dir(dir)); len(all) != 1 {
		t.Errorf("left behind: %v", all)
	}
}
