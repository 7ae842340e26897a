package archive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"

	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"imagefs/store"
	"imagefs/store/storetest"
)

// TestTampered changes each file that has a digest: the error names it with both digests.
func TestTampered(t *testing.T) {
	for form, a := range forms() {
		for i, m := range a.Members {
			isLayer := strings.HasSuffix(m.Name, "/layer.tar")
			if m.Link != "" || !isLayer && digestOf(m.Name) == "" {
				continue
			}
			b := *a
			b.Members = append([]storetest.Member(nil), a.Members...)
			// Somewhere in the content, where neither tar nor JSON nor compression has a meaning that ends it.
			body := bytes.Clone(m.Body)
			at := bytes.Index(body, []byte("created"))
			if isLayer || at < 0 {
				at = len(body) / 3
			}
			body[at] ^= 1
			b.Members[i].Body = body
			if form == "hybrid" && bytes.Contains(m.Body, []byte("schemaVersion")) {
				continue // manifest.json says the same, and is believed
			}
			_, err := loadBy(t, "path", b.Tar(), Options{})
			if _, err := loadBy(t, "pipe", b.Tar(), Options{}); !errors.Is(err, store.ErrCorrupt) || !strings.Contains(err.Error(), m.Name) && !strings.Contains(err.Error(), string(digestOf(m.Name))) {
				t.Errorf("%s: %s: in a pipe: %v", form, m.Name, err)
			}
			if !errors.Is(err, store.ErrCorrupt) {
				t.Errorf("%s: %s: %v", form, m.Name, err)
				continue
			}
			if d := digestOf(m.Name); d != "" && (!strings.Contains(err.Error(), string(d)) || !strings.Contains(err.Error(), string(digest.FromBytes(body)))) {
				t.Errorf("%s: %s: %v\ndoes not name %s and %s", form, m.Name, err, d, digest.FromBytes(body))
			}
			if isLayer && !strings.Contains(err.Error(), m.Name) {
				t.Errorf("%s: %v\ndoes not name %s", form, err, m.Name)
			}
		}
	}
}

func TestSizesOfDescriptors(t *testing.T) {
	l := storetest.NewLayout()
	d := l.Manifest(app1, storetest.Gzip)
	d.Size++
	l.Index(d)
	if _, err := loadAll(t, &l.Archive, Options{}); !errors.Is(err, store.ErrCorrupt) {
		t.Error(err)
	}
	l = storetest.NewLayout()
	m := storetest.Manifest{Config: l.Blob(storetest.TypeConfig, app1.Config())}
	for _, tar := range app1.Layers {
		d := l.Blob(storetest.TypeLayer, tar)
		d.Size = 5
		m.Layers = append(m.Layers, d)
	}
	l.Index(l.JSON(storetest.TypeManifest, m))
	if _, err := loadAll(t, &l.Archive, Options{}); !errors.Is(err, store.ErrCorrupt) {
		t.Error(err)
	}
}

func TestSHA512(t *testing.T) {
	for _, broken := range []bool{false, true} {
		l := storetest.NewLayout()
		blob := func(typ string, body []byte) storetest.Descriptor {
			d := digest.SHA512.FromBytes(body)
			if broken && typ == storetest.TypeLayer {
				d = digest.SHA512.FromString("another")
			}
			l.Set("blobs/sha512/"+d.Encoded(), body)
			return storetest.Descriptor{MediaType: typ, Digest: d, Size: int64(len(body))}
		}
		m := storetest.Manifest{Config: blob(storetest.TypeConfig, app1.Config())}
		m.Layers = append(m.Layers, blob(storetest.TypeLayer, app1.Layers[0]), blob(storetest.TypeLayer, storetest.Gzip(app1.Layers[1])))
		l.Index(l.JSON(storetest.TypeManifest, m))
		if _, err := loadAll(t, &l.Archive, Options{}); broken != errors.Is(err, store.ErrCorrupt) || !broken && err != nil {
			t.Error(broken, err)
		}
	}
}

func TestTruncated(t *testing.T) {
	for form, a := range map[string]*storetest.Archive{"docker": storetest.Docker(app1), "oci": storetest.OCI(storetest.Gzip, app1)} {
		for outer, c := range map[string]storetest.Compress{"plain": storetest.Plain, "gzip": storetest.Gzip, "zstd": storetest.Zstd, "xz": storetest.XZ} {
			b := c(a.Tar())
			for n := 0; n < len(b); n += 1 + len(b)/97 {
				for _, way := range []string{"path", "pipe"} {
					// A cut behind all that is needed does no harm.
					out, err := loadBy(t, way, b[:n], Options{})
					if !errors.Is(err, store.ErrCorrupt) && !(outer == "plain" && reflect.DeepEqual(out, want(app1))) {
						t.Errorf("%s, %s cut at %d of %d, by %s: %v", form, outer, n, len(b), way, err)
					}
				}
			}
		}
	}
}

func TestErrorOfTheSourceComesBackAsItIs(t *testing.T) {
	defer goroutines(t)
	broken := errors.New("the cable is out")
	for form, a := range map[string]*storetest.Archive{"docker": storetest.Docker(app1), "oci": storetest.OCI(storetest.Gzip, app1)} {
		for outer, c := range map[string]storetest.Compress{"plain": storetest.Plain, "gzip": storetest.Gzip, "zstd": storetest.Zstd, "xz": storetest.XZ} {
			b := c(a.Tar())
			for n := 0; n <= len(b); n += 1 + len(b)/53 {
				for _, is := range []error{broken, io.ErrUnexpectedEOF, unix.EIO, context.DeadlineExceeded} {
					var sink storetest.Sink
					_, err := NewLoader(&sink, Options{}).Load(ctx, io.MultiReader(bytes.NewReader(b[:n]), iotest.ErrReader(is)))
					if err != is || sink.Open() != 0 || len(sink.Images()) > 0 {
						t.Fatalf("%s, %s after %d of %d: %v, not %v", form, outer, n, len(b), err, is)
					}
				}
			}
		}
	}
}

// TestErrorsOfTheStore: a full disk ends the load, also while a layer is read.
func TestErrorsOfTheStore(t *testing.T) {
	for form, a := range forms() {
		for way := range ways {
			defer goroutines(t)
			sink := storetest.Sink{OnUnpack: func(r io.Reader) error {
				// Like the store, leave a goroutine behind that still reads.
				go io.Copy(io.Discard, r)
				return fmt.Errorf("write x: %w", unix.ENOSPC)
			}}
			if _, err := ways[way](t, NewLoader(&sink, Options{}), a.Tar()); !errors.Is(err, unix.ENOSPC) || sink.Open() != 0 {
				t.Errorf("%s by %s: %v, %d open", form, way, err, sink.Open())
			}
		}
	}
}

// TestBadLayerThatNobodyNeeds is of an artifact beside an image.
func TestBadLayerThatNobodyNeeds(t *testing.T) {
	for name, junk := range map[string][]byte{
		"gzip of text":    storetest.Gzip([]byte("no tar")),
		"half a gzip":     storetest.Gzip(app1.Layers[0])[:60],
		"half a tar":      app1.Layers[0][:700],
		"text":            bytes.Repeat([]byte("text"), 5000),
		"nothing":         nil,
		"zeros":           make([]byte, 4096),
		"JSON of 20 MiB":  append([]byte("{"), bytes.Repeat([]byte(" "), 20<<20)...),
		"a tar that ends": append(bytes.Clone(app1.Layers[0]), "trailer"...),
	} {
		a := storetest.OCI(storetest.Gzip, app1)
		double(a, "blobs/sha256/junk", junk)
		if _, err := loadAll(t, a, Options{}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestEmptyLayers(t *testing.T) {
	for name, tar := range map[string][]byte{"no bytes": {}, "two blocks": make([]byte, 1024), "ten": make([]byte, 10240)} {
		img := storetest.Image{Names: []string{"empty:1"}, Layers: [][]byte{tar, base, tar}}
		for form, a := range map[string]*storetest.Archive{"docker": storetest.Docker(img), "oci": storetest.OCI(storetest.Gzip, img), "plain": storetest.OCI(storetest.Plain, img)} {
			if _, err := loadAll(t, a, Options{}); err != nil {
				t.Errorf("%s, %s: %v", form, name, err)
			}
		}
	}
	none := storetest.Image{Names: []string{"scratch:1"}}
	for _, a := range []*storetest.Archive{storetest.Docker(none), storetest.OCI(storetest.Gzip, none)} {
		if out, err := loadAll(t, a, Options{}); err != nil || len(out) != 1 {
			t.Error(out, err)
		}
	}
}

func TestLimits(t *testing.T) {
	var many []storetest.Image
	for i := range 20 {
		many = append(many, storetest.Image{Names: []string{fmt.Sprint("app:", i)}, Comment: fmt.Sprint(i), Layers: [][]byte{base}})
	}
	deep := storetest.NewLayout()
	d := deep.Manifest(app1, storetest.Plain)
	for range 9 {
		d = deep.SubIndex(d)
	}
	deep.Index(d)
	names := storetest.Docker(app1)
	for i := range 5000 {
		names.Symlink("x", fmt.Sprint(i, strings.Repeat("n", 4000)))
	}
	values := storetest.Docker(app1)
	values.Set("manifest.json", append(append([]byte("[{}"), bytes.Repeat([]byte(",{}"), 1<<18)...), ']'))
	history := storetest.Docker(app1)
	history.Set(app1.ID().Encoded()+".json", append(append([]byte(`{"history":[{}`), bytes.Repeat([]byte(",{}"), 1<<19)...), "]}"...))
	size := storetest.Docker(app1)
	size.Set(app1.ID().Encoded()+".json", append([]byte(`{`), bytes.Repeat([]byte(" "), store.MaxConfigSize)...))
	layers := storetest.Docker(app1)
	storetest.Edit(layers, "manifest.json", func(l *[]map[string]any) { (*l)[0]["Layers"] = make([]string, 501) })
	wide := storetest.NewLayout()
	wide.Index(make([]storetest.Descriptor, 0)...)
	one := wide.Manifest(app1, storetest.Plain)
	d = one
	for range 5 { // 100^5 ways through 5 indexes
		of := make([]storetest.Descriptor, 100)
		for i := range of {
			of[i] = d.With("n", fmt.Sprint(i))
		}
		d = wide.SubIndex(of...)
	}
	wide.Index(d)
	for name, c := range map[string]struct {
		a *storetest.Archive
		l Limits
	}{
		"members": {storetest.Docker(many...), Limits{Members: 30}},
		"images":  {storetest.Docker(many...), Limits{Images: 10}},
		"oci":     {storetest.OCI(storetest.Gzip, many...), Limits{Images: 10}},
		"held":    {storetest.OCI(storetest.Gzip, many...), Limits{Held: 5000}},
		"legacy":  {storetest.Legacy(many...), Limits{Images: 10}},
		"json":    {storetest.Docker(many...), Limits{JSON: 1000}},
		"depth":   {&deep.Archive, Limits{}},
		"names":   {names, Limits{}},
		"values":  {values, Limits{}},
		"history": {history, Limits{}},
		"size":    {size, Limits{}},
		"layers":  {layers, Limits{}},
	} {
		for _, way := range []string{"pipe", "path"} {
			if _, err := loadBy(t, way, c.a.Tar(), Options{Limits: c.l}); !errors.Is(err, store.ErrTooLarge) {
				t.Errorf("%s by %s: %v", name, way, err)
			}
		}
	}
	if _, err := loadAll(t, &wide.Archive, Options{}); err != nil {
		t.Errorf("wide: %v", err)
	}
	if _, err := loadAll(t, storetest.OCI(storetest.Gzip, many...), Options{}); err != nil {
		t.Error(err)
	}
}

// TestBombs are small archives that become large ones.
func TestBombs(t *testing.T) {
	zeros := storetest.Gzip(make([]byte, 64<<20))
	if _, err := loadBy(t, "pipe", zeros, Options{}); !errors.Is(err, store.ErrCorrupt) {
		t.Error(err)
	}
	deep := storetest.Docker(app1)
	deep.Set("manifest.json", bytes.Repeat([]byte("["), 1<<17))
	if _, err := loadAll(t, deep, Options{}); !errors.Is(err, store.ErrCorrupt) {
		t.Error(err)
	}
	endless := io.MultiReader(bytes.NewReader(storetest.Docker(app1).Tar()), zero{})
	var sink storetest.Sink
	if _, err := NewLoader(&sink, Options{}).Load(ctx, endless); !errors.Is(err, store.ErrTooLarge) {
		t.Error(err)
	}
	if _, err := NewLoader(&sink, Options{}).Load(ctx, zero{}); !errors.Is(err, store.ErrCorrupt) {
		t.Error(err)
	}
}

type zero struct{}

func (zero) Read(p []byte) (int, error) { clear(p); return len(p), nil }
