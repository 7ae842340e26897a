package containers

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"imagefs/store"
	"imagefs/store/storetest"
)

var (
	ctx = context.Background()
	// good is the image that stays whole whatever becomes of the other, bad.
	good = storetest.Image{Layers: [][]byte{storetest.Files("good=1")}}
	bad  = storetest.Image{Layers: [][]byte{storetest.Files("bad/a=1"), storetest.Files("bad/b=2"), storetest.Files("bad/c=3")}}
)

// pair writes a store of the two.
func pair(t testing.TB) *writer {
	w := newWriter(t, t.TempDir(), "overlay")
	if !w.add(good, "docker.io/library/good:1") || !w.add(bad, "localhost/bad:1") {
		t.Fatal("an image was not written")
	}
	return w
}

// layerOf is the record of a layer of bad.
func (w *writer) layerOf(n int) map[string]any { return w.layers[1+n] }

func (w *writer) at(n int, name string) string {
	return filepath.Join(w.dir, "overlay", w.layerOf(n)["id"].(string), name)
}

// What is wrong with one image is said of it, and hides nothing of another.
func TestHostile(t *testing.T) {
	secret := t.TempDir()
	if err := os.WriteFile(filepath.Join(secret, "a"), []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	id := bad.ID().Encoded()
	for _, c := range []struct {
		name, word string
		spoil      func(w *writer) error
	}{
		{"no layer", "no layer", func(w *writer) error { w.images[1]["layer"] = strings.Repeat("0", 64); return nil }},
		{"a layer with a path", "no layer", func(w *writer) error { w.images[1]["layer"] = "../../etc"; return nil }},
		{"a layer that is a path", "no layer", func(w *writer) error {
			w.layerOf(2)["id"], w.images[1]["layer"] = "../overlay", "../overlay"
			return nil
		}},
		{"a layer named l", "no layer", func(w *writer) error { w.layerOf(2)["id"], w.images[1]["layer"] = "l", "l"; return nil }},
		{"a layer with no name", "has 0 layers of 3", func(w *writer) error { w.layerOf(2)["id"], w.images[1]["layer"] = "", ""; return nil }},
		{"its own parent", "its own parent", func(w *writer) error { w.layerOf(2)["parent"] = w.layerOf(2)["id"]; return nil }},
		{"a circle of parents", "its own parent", func(w *writer) error { w.layerOf(1)["parent"] = w.layerOf(2)["id"]; return nil }},
		{"a layer below", "below the 3 of its config", func(w *writer) error { w.layerOf(0)["parent"] = w.layers[0]["id"]; return nil }},
		{"a layer missing", "2 layers of 3", func(w *writer) error { delete(w.layerOf(1), "parent"); return nil }},
		{"another diff ID", "has the diff ID", func(w *writer) error { w.layerOf(1)["diff-digest"] = "sha256:../x"; return nil }},
		{"an unfinished layer", "never finished", func(w *writer) error { w.layerOf(1)["flags"] = map[string]any{"incomplete": true}; return nil }},
		{"a record of other types", "the record of layer", func(w *writer) error { w.layerOf(1)["uidmap"] = map[string]any{"container_id": "x"}; return nil }},
		{"too many ranges", "over the size limit", func(w *writer) error { w.layerOf(1)["uidmap"] = make([]struct{}, maxItems+1); return nil }},
		{"too many names", "over the size limit", func(w *writer) error { w.images[1]["names"] = make([]string, maxItems+1); return nil }},
		{"composefs", "composefs", func(w *writer) error { return os.Mkdir(w.at(1, "composefs-data"), 0o700) }},
		{"several directories", "several directories", func(w *writer) error { return os.Mkdir(w.at(1, "diff1"), 0o700) }},
		{"a link for a diff directory", "no directory", func(w *writer) error {
			return errors.Join(os.RemoveAll(w.at(1, "diff")), os.Symlink(secret, w.at(1, "diff")))
		}},
		{"a link for a layer's directory", "no directory", func(w *writer) error {
			return errors.Join(os.RemoveAll(w.at(1, "")), os.Symlink(secret, w.at(1, "")))
		}},
		{"a link for a config", "its config", func(w *writer) error {
			p := filepath.Join(w.dir, "overlay-images", id, dataName(bad.ID().String()))
			return errors.Join(os.Rename(p, filepath.Join(secret, "config")), os.Symlink(filepath.Join(secret, "config"), p))
		}},
		{"a fifo for a config", "its config", func(w *writer) error {
			p := filepath.Join(w.dir, "overlay-images", id, dataName(bad.ID().String()))
			return errors.Join(os.Remove(p), unix.Mkfifo(p, 0o600))
		}},
		{"no config", "no config", func(w *writer) error { w.images[1]["big-data-names"] = []string{"manifest"}; return nil }},
		{"a list of manifests", "a list of the manifests", func(w *writer) error {
			w.images[1]["big-data-names"] = []string{"manifest"}
			return os.WriteFile(filepath.Join(w.dir, "overlay-images", id, "manifest"), []byte(`{"manifests":[{}]}`), 0o600)
		}},
		{"an image with a path", "data", func(w *writer) error { w.images[1]["id"] = "../overlay-images/" + id; return nil }},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := pair(t)
			if err := c.spoil(w); err != nil {
				t.Fatal(err)
			}
			w.done()
			s := openStore(t, w.dir, Options{})
			whole(t, s)
			img, err := s.Image(ctx, bad.ID())
			if err != nil {
				t.Fatal(err)
			}
			if err := img.Err(); err == nil || !strings.Contains(err.Error(), c.word) {
				t.Errorf("%v, want an error with %q", err, c.word)
			}
			var found []string
			if err := s.Check(ctx, true, func(p store.Problem) { found = append(found, p.What) }); err != nil || len(found) == 0 {
				t.Errorf("check found %q: %v", found, err)
			}
			for _, l := range img.Layers() {
				if ix, err := l.Index(ctx); err == nil {
					if _, err := l.Open(ctx, 1); err == nil && ix.Inodes() > 1 && strings.Contains(string(ix.Path(nil, 1)), "secret") {
						t.Error("something outside the store was read")
					}
				}
				if f, err := l.Tar(ctx); err == nil {
					f.Close()
				}
			}
		})
	}
}

// whole checks that the image good is.
func whole(t *testing.T, s *Store) {
	t.Helper()
	names, err := s.Names(ctx)
	if err != nil || names.Tags["good:1"] != good.ID() {
		t.Fatalf("names: %v %v", names.Tags, err)
	}
	img, err := s.Image(ctx, good.ID())
	if err != nil || img.Err() != nil {
		t.Fatal(err, img)
	}
	f, err := img.Layers()[0].Tar(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if b, err := io.ReadAll(io.NewSectionReader(f, 0, f.Size())); err != nil || string(b) != string(good.Layers[0]) {
		t.Errorf("its tar is another: %v", err)
	}
}

// A file of records that cannot be read is said to be so.
func TestBadFiles(t *testing.T) {
	many := "[" + strings.Repeat("{},", maxRecords) + "{}]"
	for _, c := range []struct {
		name, images, layers string
		want                 error
	}{
		{"truncated", `[{"id":"`, `[]`, store.ErrCorrupt},
		{"an object", `{"images":[]}`, `[]`, store.ErrCorrupt},
		{"deep", strings.Repeat("[", 20_000), `[]`, store.ErrCorrupt},
		{"many", many, `[]`, store.ErrTooLarge},
		{"nothing", ``, ``, nil},
		{"null", `null`, `null`, nil},
		{"nulls", `[null,null]`, `[null]`, nil},
		{"other things", `[1,"x",[],{"id":7},{"id":{}}]`, `[2,{"parent":[]}]`, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWriter(t, t.TempDir(), "overlay")
			w.file("overlay-images/images.json", []byte(c.images))
			w.file("overlay-layers/layers.json", []byte(c.layers))
			s := openStore(t, w.dir, Options{})
			ids, err := s.IDs(ctx)
			if !errors.Is(err, c.want) || err != nil && c.want == nil {
				t.Errorf("%v, want %v", err, c.want)
			}
			if len(ids) != 0 {
				t.Errorf("images %v", ids)
			}
		})
	}
	t.Run("layers", func(t *testing.T) {
		w := pair(t)
		w.done()
		w.file("overlay-layers/layers.json", []byte(`[{"id":`))
		s := openStore(t, w.dir, Options{})
		img, err := s.Image(ctx, good.ID())
		if err != nil || img.RawConfig() == nil || !errors.Is(img.Err(), store.ErrCorrupt) || !strings.Contains(img.Err().Error(), "layers.json") {
			t.Errorf("%v %v", img.Err(), err)
		}
	})
	t.Run("volatile", func(t *testing.T) {
		w := pair(t)
		w.done()
		b, err := json.Marshal(w.layers[:1])
		w.must(err)
		w.file("overlay-layers/volatile-layers.json", b)
		b, err = json.Marshal(w.layers[1:])
		w.must(err)
		w.file("overlay-layers/layers.json", b)
		whole(t, openStore(t, w.dir, Options{}))
	})
}
