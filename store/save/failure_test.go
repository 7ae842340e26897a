package save

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	digest "github.com/opencontainers/go-digest"

	"imagefs/store"
	"imagefs/store/storetest"
)

// Content that was damaged on disk is an error, not an archive.
func TestDamage(t *testing.T) {
	s := openNew(t)
	load(t, s, storetest.Docker(images[0]).Tar())
	files, err := filepath.Glob(filepath.Join(s.Root(), "overlay2/*/diff/etc/passwd"))
	files = slices.DeleteFunc(files, func(f string) bool {
		st, err := os.Lstat(f)
		return err != nil || !st.Mode().IsRegular() // a whiteout
	})
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	if err := os.WriteFile(files[0], []byte("ro0t"), 0o644); err != nil {
		t.Fatal(err)
	}
	a, err := Docker(ctx, selected(t, s, "app:1"))
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Write(ctx, io.Discard, nil); !errors.Is(err, store.ErrCorrupt) || !strings.Contains(err.Error(), `"etc/passwd" has another content`) {
		t.Errorf("Docker: %v", err)
	}
	_, err = OCI(ctx, selected(t, s, "app:1"), OCIOptions{Compress: Gzip, Temp: temp})
	if !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("OCI: %v", err)
	}
	dir := filepath.Join(t.TempDir(), "layout")
	if err := OCIDir(ctx, dir, selected(t, s, "app:1"), OCIOptions{}); !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("OCIDir: %v", err)
	}
	if left, _ := os.ReadDir(filepath.Dir(dir)); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if err := os.Remove(files[0]); err != nil {
		t.Fatal(err)
	}
	if err := a.Write(ctx, io.Discard, nil); !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("of a file that is lost: %v", err)
	}
}

// failing fails after some bytes.
type failing struct{ left int }

var errFull = errors.New("full")

func (f *failing) Write(p []byte) (int, error) {
	if f.left -= len(p); f.left < 0 {
		return 0, errFull
	}
	return len(p), nil
}

// A writer that fails, and a caller that has had enough, end the work.
func TestWriteEnds(t *testing.T) {
	s := openNew(t)
	load(t, s, storetest.Docker(images...).Tar())
	a, err := Docker(ctx, selected(t, s, "app"))
	if err != nil {
		t.Fatal(err)
	}
	for left := 0; left < 4<<20; left += 300_000 {
		if err := a.Write(ctx, &failing{left}, nil); err != nil && !errors.Is(err, errFull) {
			t.Errorf("after %d bytes: %v", left, err)
		}
	}
	cancelled, cancel := context.WithCancel(ctx)
	err = a.Write(cancelled, io.Discard, func(p Progress) {
		if p.Done > p.Total || p.Total != a.Size() {
			t.Errorf("progress: %+v", p)
		}
		cancel()
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// fakeImage is an image in memory.
type fakeImage struct {
	store.Image
	raw    string
	parent digest.Digest
	layers []store.Layer
}

func (i *fakeImage) ID() digest.Digest     { return digest.FromString(i.raw) }
func (i *fakeImage) RawConfig() []byte     { return []byte(i.raw) }
func (i *fakeImage) Parent() digest.Digest { return i.parent }
func (i *fakeImage) Layers() []store.Layer { return i.layers }
func (i *fakeImage) Err() error            { return nil }
func (i *fakeImage) Config() store.Config {
	c, _ := store.ParseConfig([]byte(i.raw))
	return c
}

// noTar is a layer that cannot give its tar.
type noTar struct{ store.Layer }

func (noTar) DiffID() digest.Digest                  { return digest.FromString("x") }
func (noTar) TarSize(context.Context) (int64, error) { return 0, store.ErrUnsupported }

// What configs of strangers say changes nothing but what they say.
func TestOddImages(t *testing.T) {
	one := string(digest.FromString("x"))
	if _, err := Docker(ctx, []Item{{Image: &fakeImage{raw: `{"rootfs":{"diff_ids":["` + one + `"]}}`, layers: []store.Layer{noTar{}}}}}); !errors.Is(err, store.ErrUnsupported) {
		t.Errorf("a layer without a tar: %v", err)
	}
	if _, err := Docker(ctx, []Item{{Image: &fakeImage{raw: `{"rootfs":{"diff_ids":["` + one + `"]}}`}}}); !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("a layer that is missing: %v", err)
	}
	parent := &fakeImage{raw: `{"config":{"Env":7}}`}
	for _, raw := range []string{
		`{}`, `{"created":"0001-01-01T00:00:00Z"}`, `{"created":"9999-12-31T23:59:59Z","config":{"Healthcheck":{"StartInterval":5}}}`, `{"created":"1969-12-31T23:59:59Z","config":7}`,
	} {
		items := []Item{{Image: parent}, {Image: &fakeImage{raw: raw, parent: parent.ID()}, Names: []string{"no reference", "a:1"}}}
		a, err := Docker(ctx, items)
		if err != nil {
			t.Errorf("%s: %v", raw, err)
			continue
		}
		b := written(t, a)
		if !bytes.Contains(b, []byte(`"Parent":"`+string(parent.ID()))) || !bytes.Contains(b, []byte(raw)) {
			t.Errorf("%s: %q", raw, b)
		}
		if _, err := OCI(ctx, items, OCIOptions{}); err != nil {
			t.Errorf("%s: %v", raw, err)
		}
	}
}

func FuzzV1(f *testing.F) {
	f.Add([]byte(`{"created":"2024-01-01T10:00:00Z","config":{"Env":["A=b"],"Healthcheck":{"StartInterval":1}},"rootfs":{}}`))
	f.Add([]byte(`{"config":{"Cmd":"x"},"container_config":null,"created":7}`))
	ids := []digest.Digest{digest.FromString("a"), digest.FromString("b")}
	f.Fuzz(func(t *testing.T, raw []byte) {
		l, err := v1Layers(raw, ids)
		if err != nil {
			return // a year that JSON cannot write
		}
		if len(l) != 2 || len(l[0].id) != 64 || len(l[1].id) != 64 || l[0].id == l[1].id {
			t.Errorf("%+v", l)
		}
	})
}
