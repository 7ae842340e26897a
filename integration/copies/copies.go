// Package copies checks that images can be copied out of a store to wherever
// images can be written.
package copies

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"imagefs/store"
	"imagefs/store/archive"
	"imagefs/store/copy"
	"imagefs/store/docker"
	"imagefs/store/rootfs"
	"imagefs/store/save"
)

// Items are all images of a store, with all of their names.
func Items(t testing.TB, src store.Store) []save.Item {
	t.Helper()
	ctx := context.Background()
	names, err := src.Names(ctx)
	if err != nil {
		t.Fatal(err)
	}
	ids, err := src.IDs(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var items []save.Item
	for _, id := range ids {
		img, err := src.Image(ctx, id)
		if err != nil {
			t.Fatal(err)
		}
		it := save.Item{Image: img}
		for n, of := range names.Tags {
			if of == id {
				it.Names = append(it.Names, n)
			}
		}
		items = append(items, it)
	}
	return items
}

// targets writes items to a path, and returns the store that is there then.
var targets = map[string]func(ctx context.Context, path string, items []save.Item) (store.Store, error){
	"store": func(ctx context.Context, path string, items []save.Item) (store.Store, error) {
		s, err := docker.Open(path, docker.Options{Create: true})
		if err == nil {
			_, err = copy.Into(ctx, s, items, copy.Options{})
		}
		return s, err
	},
	"docker-archive": func(ctx context.Context, path string, items []save.Item) (store.Store, error) {
		a, err := save.Docker(ctx, items)
		return written(ctx, path, a, err)
	},
	"oci-archive": func(ctx context.Context, path string, items []save.Item) (store.Store, error) {
		a, err := save.OCI(ctx, items, save.OCIOptions{})
		return written(ctx, path, a, err)
	},
	"oci": func(ctx context.Context, path string, items []save.Item) (store.Store, error) {
		for i := range items { // one after the other, so that all but the first are added
			if err := save.AddToOCIDir(ctx, path, items[i:i+1], save.OCIOptions{Compress: save.Gzip, Temp: temp}); err != nil {
				return nil, err
			}
		}
		return archive.Open(path, archive.StoreOptions{})
	},
}

func written(ctx context.Context, path string, a *save.Archive, err error) (store.Store, error) {
	if err != nil {
		return nil, err
	}
	defer a.Close()
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(a.Write(ctx, f, nil), f.Close()); err != nil {
		return nil, err
	}
	return archive.Open(path, archive.StoreOptions{})
}

func temp() (*os.File, error) {
	f, err := os.CreateTemp("", "copies-")
	if err == nil {
		err = os.Remove(f.Name())
	}
	return f, err
}

// Everywhere copies all images of a store to a target of each kind, and checks
// that what is there is the same: names, configs, trees, and tars.
func Everywhere(t *testing.T, src store.Store) {
	items := Items(t, src)
	if len(items) == 0 {
		t.Fatal("there are no images to copy")
	}
	for kind, put := range targets {
		t.Run("to "+kind, func(t *testing.T) {
			ctx := context.Background()
			dst, err := put(ctx, filepath.Join(t.TempDir(), "target"), items)
			if err != nil {
				t.Fatal(err)
			}
			defer dst.Close()
			names, err := dst.Names(ctx)
			if err != nil {
				t.Fatal(err)
			}
			for _, it := range items {
				img, err := dst.Image(ctx, it.Image.ID())
				if err != nil {
					t.Error(err)
					continue
				}
				same(t, img, it.Image)
				for _, n := range it.Names {
					if names.Tags[n] != img.ID() {
						t.Errorf("%s names %s, want %s", n, names.Tags[n], img.ID())
					}
				}
			}
			if c, ok := dst.(store.Checker); ok {
				if err := c.Check(ctx, true, func(p store.Problem) { t.Errorf("%s: %v", p.What, p.Err) }); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// same compares configs and tars, byte for byte, and for the superuser, whose
// stores keep all attributes, the root file systems.
func same(t *testing.T, got, want store.Image) {
	t.Helper()
	if os.Geteuid() == 0 {
		if g, w := exported(t, got), exported(t, want); g != w {
			t.Errorf("%s: the root file system is another", want.ID())
		}
	}
	if !bytes.Equal(got.RawConfig(), want.RawConfig()) || len(got.Layers()) != len(want.Layers()) {
		t.Errorf("%s: %d layers, want %d", want.ID(), len(got.Layers()), len(want.Layers()))
		return
	}
	for n, l := range got.Layers() {
		a, err := save.LayerTar(context.Background(), l)
		if err == nil {
			err = a.Write(context.Background(), io.Discard, nil) // which hashes it
		}
		if err != nil || l.DiffID() != want.Layers()[n].DiffID() {
			t.Errorf("%s: layer %d is %s, want %s: %v", want.ID(), n, l.DiffID(), want.Layers()[n].DiffID(), err)
		}
	}
}

// exported is the digest of an image's root file system as a tar.
func exported(t *testing.T, img store.Image) string {
	t.Helper()
	root, err := rootfs.Open(context.Background(), img)
	if err != nil {
		t.Error(err)
		return ""
	}
	h := sha256.New()
	if _, err := root.Export(h, nil); err != nil {
		t.Error(err)
	}
	return string(h.Sum(nil))
}
