package archive

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"imagefs/store"
	"imagefs/store/storetest"
)

func TestNamesOfOCIImages(t *testing.T) {
	for name, c := range map[string]struct {
		containerd, ref, want string
	}{
		"none":                     {},
		"a tag":                    {ref: "latest"},
		"a tag with dots":          {ref: "v1.2-rc.3"},
		"repository and tag":       {ref: "busybox:1", want: "busybox:1"},
		"full":                     {ref: "docker.io/library/busybox:1", want: "busybox:1"},
		"repository":               {ref: "me/app", want: "me/app:latest"},
		"of a registry":            {ref: "localhost:5000/a/b:c", want: "localhost:5000/a/b:c"},
		"no reference":             {ref: "UPPER:case"},
		"a path":                   {ref: "../../etc/passwd"},
		"a digest":                 {ref: "sha256:" + strings.Repeat("a", 64)},
		"repository and digest":    {ref: "a@sha256:" + strings.Repeat("a", 64)},
		"containerd":               {containerd: "docker.io/library/busybox:1", ref: "1", want: "busybox:1"},
		"containerd goes first":    {containerd: "docker.io/library/busybox:1", ref: "other:2", want: "busybox:1"},
		"containerd's is a digest": {containerd: "docker.io/x/y@sha256:" + strings.Repeat("a", 64), ref: "x/y:2", want: "x/y:2"},
		"containerd's is not one":  {containerd: "<none>", ref: "tag"},
	} {
		l := storetest.NewLayout()
		d := l.Manifest(app1, storetest.Plain)
		if c.containerd != "" {
			d = d.With("io.containerd.image.name", c.containerd)
		}
		if c.ref != "" {
			d = d.With("org.opencontainers.image.ref.name", c.ref)
		}
		l.Index(d)
		out, err := loadAll(t, &l.Archive, Options{})
		if err != nil || strings.Join(out[0].Names, " ") != c.want {
			t.Errorf("%s: %v %v", name, out, err)
		}
	}
}

// images for some platforms, and their manifests in a layout.
func platforms(l *storetest.Layout, names ...string) (map[string]storetest.Image, []storetest.Descriptor) {
	images := map[string]storetest.Image{}
	var ds []storetest.Descriptor
	for _, p := range names {
		images[p] = storetest.Image{Platform: p, Layers: app1.Layers}
		ds = append(ds, l.Manifest(images[p], storetest.Gzip).For(p))
	}
	return images, ds
}

func TestPlatforms(t *testing.T) {
	all := []string{"linux/arm/v5", "linux/amd64", "linux/arm64/v8", "linux/arm/v7", "linux/386", "windows/amd64", "linux/arm/v6"}
	for name, c := range map[string]struct {
		have       []string
		want, gets string
	}{
		"this one":              {all, "linux/amd64", "linux/amd64"},
		"another":               {all, "linux/386", "linux/386"},
		"another name of it":    {all, "linux/aarch64", "linux/arm64/v8"},
		"upper case":            {all, "Linux/X86_64", "linux/amd64"},
		"a variant":             {all, "linux/arm/v6", "linux/arm/v6"},
		"an older variant":      {all[:3], "linux/arm/v7", "linux/arm/v5"},
		"no variant is v7":      {all, "linux/arm", "linux/arm/v7"},
		"the newest that runs":  {[]string{"linux/arm/v5", "linux/arm/v6", "linux/arm/v8"}, "linux/arm/v7", "linux/arm/v6"},
		"a newer variant only":  {[]string{"linux/arm/v7"}, "linux/arm/v6", ""},
		"none":                  {all, "linux/s390x", ""},
		"of another system":     {all, "windows/arm64", ""},
		"only one, but asked":   {[]string{"linux/s390x"}, "linux/ppc64le", ""},
		"only one":              {[]string{"plan9/mips"}, "", "plan9/mips"},
		"several, none of them": {[]string{"plan9/mips", "linux/s390x"}, "", ""},
	} {
		for _, nested := range []bool{true, false} {
			l := storetest.NewLayout()
			images, ds := platforms(l, c.have...)
			if nested {
				l.Index(l.SubIndex(l.SubIndex(ds...)))
			} else {
				l.Index(ds...)
			}
			out, err := loadAll(t, &l.Archive, Options{Platform: c.want})
			if c.gets == "" {
				if !errors.Is(err, store.ErrNotFound) || !strings.Contains(err.Error(), strings.TrimSuffix(c.have[0], "/v7")) {
					t.Errorf("%s: %v %v", name, out, err)
				}
			} else if err != nil || len(out) != 1 || out[0].ID != images[c.gets].ID() {
				t.Errorf("%s: %v %v", name, out, err)
			}
		}
	}
}

// TestPlatformsByConfig is of descriptors that do not say for what they are.
func TestPlatformsByConfig(t *testing.T) {
	l := storetest.NewLayout()
	images, ds := platforms(l, "linux/amd64", "linux/arm64")
	for i := range ds {
		ds[i].Platform = nil
	}
	l.Index(ds...)
	if out, err := loadAll(t, &l.Archive, Options{Platform: "linux/arm64"}); err != nil || len(out) != 1 || out[0].ID != images["linux/arm64"].ID() {
		t.Error(out, err)
	}
}

func TestSeveralImagesInAnIndex(t *testing.T) {
	l := storetest.NewLayout()
	images, ds := platforms(l, "linux/amd64", "linux/arm64")
	name := "org.opencontainers.image.ref.name"
	single := l.Manifest(app2, storetest.Gzip)
	arm := storetest.Image{Platform: "linux/arm64", Layers: app2.Layers}
	l.Index(
		l.SubIndex(ds...).With(name, "multi:1"),
		single.With(name, "single:1").For("linux/amd64"),
		single.With(name, "single:2").For("linux/amd64"),
		ds[0].With(name, "flat:1"), ds[1].With(name, "flat:1"),
		l.Manifest(arm, storetest.Gzip).With(name, "arm:1").For("linux/arm64"),
		l.SubIndex(ds[1]).With(name, "one:1"),
	)
	got := func(arch string) map[string]string {
		out, err := loadAll(t, &l.Archive, Options{Platform: arch})
		if err != nil {
			t.Fatal(err)
		}
		m := map[string]string{}
		for _, o := range out {
			for _, n := range o.Names {
				m[n] = o.ID.Encoded()[:8]
			}
		}
		return m
	}
	amd, arm64 := images["linux/amd64"].ID().Encoded()[:8], images["linux/arm64"].ID().Encoded()[:8]
	two, armTwo := app2.ID().Encoded()[:8], arm.ID().Encoded()[:8]
	if m := got("linux/amd64"); !reflect.DeepEqual(m, map[string]string{"multi:1": amd, "flat:1": amd, "single:1": two, "single:2": two}) {
		t.Error(m)
	}
	if m := got("linux/arm64"); !reflect.DeepEqual(m, map[string]string{"multi:1": arm64, "flat:1": arm64, "one:1": arm64, "arm:1": armTwo}) {
		t.Error(m)
	}
	if m := got(""); m["one:1"] != arm64 || m["arm:1"] != armTwo || m["single:1"] != two {
		t.Error(m)
	}
}

// TestSameContentTwice has one image with differently compressed layers.
func TestSameContentTwice(t *testing.T) {
	a := storetest.NewLayout()
	name := "org.opencontainers.image.ref.name"
	a.Index(a.Manifest(app1, storetest.Gzip).With(name, "a:gzip"), a.Manifest(app1, storetest.Zstd).With(name, "a:zstd"))
	if out, err := loadAll(t, &a.Archive, Options{}); err != nil || len(out) != 1 || !slices.Equal(out[0].Names, []string{"a:gzip", "a:zstd"}) {
		t.Error(out, err)
	}
}

func TestAttestationsAndArtifacts(t *testing.T) {
	artifact := func(l *storetest.Layout, config, layer, artifactType string) storetest.Descriptor {
		return l.JSON(storetest.TypeManifest, storetest.Manifest{SchemaVersion: 2, ArtifactType: artifactType,
			Config: l.Blob(config, []byte("{}")), Layers: []storetest.Descriptor{l.Blob(layer, []byte(`{"x":1}`+artifactType+layer))}})
	}
	all := map[string]func(*storetest.Layout) storetest.Descriptor{
		"BuildKit's attestation": func(l *storetest.Layout) storetest.Descriptor {
			return artifact(l, storetest.TypeConfig, "application/vnd.in-toto+json", "").For("unknown/unknown").With("vnd.docker.reference.type", "attestation-manifest")
		},
		"without its blob": func(l *storetest.Layout) storetest.Descriptor {
			return storetest.NewLayout().Blob(storetest.TypeManifest, []byte("x")).For("unknown/unknown")
		},
		"its config": func(l *storetest.Layout) storetest.Descriptor {
			return l.Manifest(storetest.Image{Platform: "unknown/unknown", Layers: app1.Layers}, storetest.Plain)
		},
		"a signature": func(l *storetest.Layout) storetest.Descriptor {
			return artifact(l, storetest.TypeConfig, "application/vnd.dev.cosign.simplesigning.v1+json", "")
		},
		"a chart": func(l *storetest.Layout) storetest.Descriptor {
			return artifact(l, "application/vnd.cncf.helm.config.v1+json", "application/vnd.cncf.helm.chart.content.v1.tar+gzip", "")
		},
		"by type": func(l *storetest.Layout) storetest.Descriptor {
			return artifact(l, "application/vnd.oci.empty.v1+json", "text/plain", "text/sbom")
		},
		"of files": func(l *storetest.Layout) storetest.Descriptor {
			return artifact(l, storetest.TypeConfig, storetest.TypeLayer, "")
		},
		"schema 1": func(l *storetest.Layout) storetest.Descriptor {
			return l.Blob("application/vnd.docker.distribution.manifest.v1+json", []byte(`{"schemaVersion":1,"fsLayers":[{"blobSum":"x"}],"history":[]}`))
		},
		"something": func(l *storetest.Layout) storetest.Descriptor {
			return l.Blob("application/json", []byte(`{"hello":"world"}`))
		},
		"empty index": func(l *storetest.Layout) storetest.Descriptor {
			return l.SubIndex([]storetest.Descriptor{}...).With("x", "y")
		},
	}
	everything := storetest.NewLayout()
	ds := []storetest.Descriptor{everything.Manifest(app1, storetest.Gzip)}
	for name, make := range all {
		l := storetest.NewLayout()
		d := make(l)
		l.Index(l.SubIndex(d), d)
		out, err := loadAll(t, &l.Archive, Options{})
		if !errors.Is(err, store.ErrNotFound) {
			t.Errorf("%s: %v %v", name, out, err)
		}
		ds = append(ds, make(everything))
	}
	for _, order := range []func(){func() {}, func() { slices.Reverse(ds) }} {
		order()
		everything.Index(everything.SubIndex(ds...))
		if out, err := loadAll(t, &everything.Archive, Options{}); err != nil || len(out) != 1 || out[0].ID != app1.ID() {
			t.Error(out, err)
		}
	}
}

// TestSparseLayouts have not everything that their index lists.
func TestSparseLayouts(t *testing.T) {
	l := storetest.NewLayout()
	images, ds := platforms(l, "linux/amd64", "linux/arm64", "linux/s390x")
	l.Index(l.SubIndex(ds...))
	l.Remove("blobs/sha256/" + ds[0].Digest.Encoded())
	l.Remove("blobs/sha256/" + images["linux/s390x"].ID().Encoded())
	for platform, ok := range map[string]bool{"": true, "linux/arm64": true, "linux/amd64": false, "linux/s390x": false} {
		out, err := loadAll(t, &l.Archive, Options{Platform: platform})
		if ok != (err == nil) || ok && out[0].ID != images["linux/arm64"].ID() || !ok && !errors.Is(err, store.ErrCorrupt) {
			t.Errorf("%q: %v %v", platform, out, err)
		}
	}
}

func TestLayoutsThatAreNone(t *testing.T) {
	one := func(change func(*storetest.Layout, *storetest.Manifest)) *storetest.Layout {
		l := storetest.NewLayout()
		m := storetest.Manifest{Config: l.Blob(storetest.TypeConfig, app1.Config())}
		for _, tar := range app1.Layers {
			m.Layers = append(m.Layers, l.Blob(storetest.TypeLayer, tar))
		}
		change(l, &m)
		l.Index(l.JSON(storetest.TypeManifest, m))
		return l
	}
	index := func(s string) func(*storetest.Archive) {
		return func(a *storetest.Archive) { a.Set("index.json", []byte(s)) }
	}
	for name, c := range map[string]struct {
		change func(*storetest.Archive)
		is     error
	}{
		"empty":              {index("{}"), store.ErrCorrupt},
		"null":               {index("null"), store.ErrCorrupt},
		"a list":             {index("[]"), store.ErrCorrupt},
		"nothing":            {index(""), store.ErrCorrupt},
		"no manifests":       {index(`{"manifests":[]}`), store.ErrCorrupt},
		"no digest":          {index(`{"manifests":[{"digest":"x"}]}`), store.ErrCorrupt},
		"a path":             {index(`{"manifests":[{"digest":"sha256:../../../../etc/passwd"}]}`), store.ErrCorrupt},
		"another algorithm":  {index(`{"manifests":[{"digest":"md5:d41d8cd98f00b204e9800998ecf8427e"}]}`), store.ErrCorrupt},
		"not there":          {index(fmt.Sprintf(`{"manifests":[{"digest":"sha256:%064d"}]}`, 1)), store.ErrCorrupt},
		"a manifest":         {index(`{"schemaVersion":2,"config":{},"layers":[]}`), store.ErrCorrupt},
		"version 2":          {func(a *storetest.Archive) { a.Set("oci-layout", []byte(`{"imageLayoutVersion":"2.0.0"}`)) }, store.ErrUnsupported},
		"no version":         {func(a *storetest.Archive) { a.Set("oci-layout", []byte(`x`)) }, store.ErrCorrupt},
		"without oci-layout": {func(a *storetest.Archive) { a.Remove("oci-layout") }, nil},
	} {
		a := &one(func(*storetest.Layout, *storetest.Manifest) {}).Archive
		c.change(a)
		if _, err := loadAll(t, a, Options{}); !errors.Is(err, c.is) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, c := range map[string]struct {
		change func(*storetest.Layout, *storetest.Manifest)
		is     error
	}{
		"encrypted":       {func(_ *storetest.Layout, m *storetest.Manifest) { m.Layers[1].MediaType += "+gzip+encrypted" }, store.ErrUnsupported},
		"a layer less":    {func(_ *storetest.Layout, m *storetest.Manifest) { m.Layers = m.Layers[:1] }, store.ErrCorrupt},
		"no layer digest": {func(_ *storetest.Layout, m *storetest.Manifest) { m.Layers[0].Digest = "x" }, store.ErrCorrupt},
		"config of 9 MiB": {func(l *storetest.Layout, m *storetest.Manifest) {
			m.Config = l.Blob(storetest.TypeConfig, append(app1.Config(), make([]byte, 9<<20)...))
		}, store.ErrCorrupt},
		"bad diff ID": {func(l *storetest.Layout, m *storetest.Manifest) {
			m.Config = l.Blob(storetest.TypeConfig, []byte(`{"rootfs":{"diff_ids":["sha256:x","y"]}}`))
		}, store.ErrCorrupt},
		"layers exchanged": {func(_ *storetest.Layout, m *storetest.Manifest) { slices.Reverse(m.Layers) }, store.ErrCorrupt},
		"Docker's types": {func(_ *storetest.Layout, m *storetest.Manifest) {
			m.Config.MediaType = "application/vnd.docker.container.image.v1+json"
			m.Layers[0].MediaType = "application/vnd.docker.image.rootfs.diff.tar.gzip"
		}, nil},
		"no types": {func(_ *storetest.Layout, m *storetest.Manifest) { m.Config.MediaType, m.Layers[0].MediaType = "", "" }, nil},
	} {
		if _, err := loadAll(t, &one(c.change).Archive, Options{}); !errors.Is(err, c.is) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzIndex(f *testing.F) {
	a := storetest.OCI(storetest.Gzip, app1, app2)
	f.Add(a.Get("index.json"), []byte(`{"config":{"digest":"sha256:"}}`))
	f.Add([]byte("null"), []byte("null"))
	f.Fuzz(func(t *testing.T, index, manifest []byte) {
		l := storetest.NewLayout()
		l.Index(l.Manifest(app1, storetest.Plain), l.Blob("", manifest))
		_, err := loadBy(t, "pipe", l.Tar(), Options{})
		known(t, err)
		l.Set("index.json", index)
		_, err = loadBy(t, "path", l.Tar(), Options{})
		known(t, err)
	})
}
