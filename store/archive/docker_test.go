package archive

import (
	"encoding/json"
	"errors"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	digest "github.com/opencontainers/go-digest"

	"imagefs/store"
	"imagefs/store/storetest"
)

type manifest = []map[string]any

// edited is a Docker archive of app1 and app2 with another manifest.json.
func edited(change func(m manifest)) *storetest.Archive {
	a := storetest.Docker(app1, app2)
	storetest.Edit(a, "manifest.json", func(m *manifest) { change(*m) })
	return a
}

func TestRepoTags(t *testing.T) {
	for name, c := range map[string]struct {
		tags any
		want []string
		err  error
	}{
		"none":           {[]string{}, nil, nil},
		"null":           {nil, nil, nil},
		"several":        {[]string{"b:2", "a:1", "a:1"}, []string{"a:1", "b:2"}, nil},
		"full":           {[]string{"docker.io/library/nginx:1.25", "docker.io/me/x:1"}, []string{"me/x:1", "nginx:1.25"}, nil},
		"without a tag":  {[]string{"nginx"}, []string{"nginx:latest"}, nil},
		"a port":         {[]string{"localhost:5000/x/y:z"}, []string{"localhost:5000/x/y:z"}, nil},
		"empty":          {[]string{""}, nil, store.ErrInvalid},
		"upper case":     {[]string{"NGINX:1"}, nil, store.ErrInvalid},
		"<none>":         {[]string{"<none>:<none>"}, nil, store.ErrInvalid},
		"dots":           {[]string{"../../etc:1"}, nil, store.ErrInvalid},
		"a digest":       {[]string{"x@sha256:" + strings.Repeat("a", 64)}, nil, store.ErrInvalid},
		"an ID":          {[]string{strings.Repeat("a", 64)}, nil, store.ErrInvalid},
		"no list":        {"nginx:1", nil, store.ErrCorrupt},
		"a list of ints": {[]int{1}, nil, store.ErrCorrupt},
	} {
		out, err := loadAll(t, edited(func(m manifest) { m[0]["RepoTags"] = c.tags }), Options{})
		if !errors.Is(err, c.err) || err == nil && !slices.Equal(out[0].Names, c.want) {
			t.Errorf("%s: %v %v", name, out, err)
		}
	}
}

func TestOneNameForTwoImagesMeansTheLater(t *testing.T) {
	out, err := loadAll(t, edited(func(m manifest) { m[1]["RepoTags"] = []string{"app:1", "other:1"} }), Options{})
	if err != nil || !slices.Equal(out[0].Names, []string{"app:latest"}) || !slices.Equal(out[1].Names, []string{"app:1", "other:1"}) {
		t.Error(out, err)
	}
}

func TestOneImageTwice(t *testing.T) {
	a := storetest.Docker(app1)
	storetest.Edit(a, "manifest.json", func(m *manifest) {
		*m = append(*m, map[string]any{"Config": (*m)[0]["Config"], "Layers": (*m)[0]["Layers"], "RepoTags": []string{"z:1"}})
	})
	if out, err := loadAll(t, a, Options{}); err != nil || len(out) != 1 || !slices.Equal(out[0].Names, []string{"app:1", "app:latest", "z:1"}) {
		t.Error(out, err)
	}
}

func TestManifestsThatAreNone(t *testing.T) {
	for name, body := range map[string]string{
		"null": "null", "empty": "[]", "nothing": "", "object": "{}", "text": "hello", "half": `[{"Config":`,
		"no config": `[{"Layers":[]}]`, "no such config": `[{"Config":"x.json"}]`, "a directory": `[{"Config":".."}]`,
		"config is a layer": `[{"Config":"` + digest.FromBytes(base).Encoded() + `"}]`,
	} {
		a := storetest.Docker(app1)
		a.Set(digest.FromBytes(base).Encoded(), base)
		a.Set("manifest.json", []byte(body))
		for _, way := range []string{"pipe", "path"} {
			if _, err := loadBy(t, way, a.Tar(), Options{}); !errors.Is(err, store.ErrCorrupt) {
				t.Errorf("%s by %s: %v", name, way, err)
			}
		}
	}
	fewer := edited(func(m manifest) { m[1]["Layers"] = m[0]["Layers"] })
	if _, err := loadAll(t, fewer, Options{}); !errors.Is(err, store.ErrCorrupt) {
		t.Error(err)
	}
	// The order of layers is checked, too.
	swapped := edited(func(m manifest) { slices.Reverse(m[0]["Layers"].([]any)) })
	if _, err := loadAll(t, swapped, Options{}); !errors.Is(err, store.ErrCorrupt) {
		t.Error(err)
	}
}

func TestNamesThatAreDigests(t *testing.T) {
	for name, ok := range map[string]bool{
		"config.json":                             true,
		strings.Repeat("a", 64) + ".json":         true, // some write anything there
		"sha256:" + app1.ID().Encoded():           true,
		"sha256:" + strings.Repeat("a", 64):       false,
		"blobs/sha256/" + strings.Repeat("a", 64): false,
	} {
		a := storetest.Docker(app1)
		a.Set(name, app1.Config())
		storetest.Edit(a, "manifest.json", func(m *manifest) { (*m)[0]["Config"] = name })
		if out, err := loadAll(t, a, Options{}); ok != (err == nil) || err == nil && out[0].ID != app1.ID() || err != nil && !errors.Is(err, store.ErrCorrupt) {
			t.Errorf("%s: %v %v", name, out, err)
		}
	}
}

func TestParent(t *testing.T) {
	child := storetest.Image{Names: []string{"child:1"}, Layers: append(slices.Clone(app1.Layers), storetest.Files("c=3"))}
	for name, c := range map[string]struct {
		parent digest.Digest
		kept   bool
	}{
		"below":       {app1.ID(), true},
		"itself":      {child.ID(), false},
		"elsewhere":   {digest.FromString("x"), false},
		"not below":   {app2.ID(), false},
		"no digest":   {"../../x", false},
		"not written": {"", false},
	} {
		a := storetest.Docker(app1, child, app2)
		storetest.Edit(a, "manifest.json", func(m *manifest) { (*m)[1]["Parent"] = c.parent })
		var sink storetest.Sink
		if _, err := NewLoader(&sink, Options{}).Load(ctx, pipe(a.Tar())); err != nil {
			t.Errorf("%s: %v", name, err)
		} else if got := sink.Images()[1].Parent; c.kept != (got == c.parent) && c.parent != "" || !c.kept && got != "" {
			t.Errorf("%s: parent %s", name, got)
		}
	}
	// Two images with the same layers as each other's parents.
	twin := app1
	twin.Comment, twin.Names = "twin", nil
	a := storetest.Docker(app1, twin)
	storetest.Edit(a, "manifest.json", func(m *manifest) { (*m)[0]["Parent"], (*m)[1]["Parent"] = twin.ID(), app1.ID() })
	var sink storetest.Sink
	if _, err := NewLoader(&sink, Options{}).Load(ctx, pipe(a.Tar())); err != nil {
		t.Fatal(err)
	}
	if i := sink.Images(); i[0].Parent != "" && i[1].Parent != "" {
		t.Error("parents go round in a circle")
	}
}

// TestLegacyConfig compares with what docker load of Docker 28.2 made of an
// archive with one image, whose <id>/json is v1, and the base as its layer.
func TestLegacyConfig(t *testing.T) {
	b, err := os.ReadFile("testdata/legacy.json")
	if err != nil {
		t.Fatal(err)
	}
	var cases []struct{ V1, Config string }
	if err := json.Unmarshal(b, &cases); err != nil {
		t.Fatal(err)
	}
	for _, c := range cases {
		a := storetest.Legacy(storetest.Image{Names: []string{"x:1"}, Layers: [][]byte{base}})
		for i, m := range a.Members {
			if strings.HasSuffix(m.Name, "/json") {
				a.Members[i].Body = []byte(c.V1)
			}
		}
		out, err := loadAll(t, a, Options{})
		if err != nil || out[0].ID != digest.FromString(c.Config) {
			t.Errorf("%s\n%v %v", c.V1, out, err)
		}
	}
}

func TestLegacy(t *testing.T) {
	// Three images: the first is the parent of the second and has a name of its own.
	one := storetest.Image{Names: []string{"one:1", "one:latest"}, Layers: [][]byte{base}}
	two := storetest.Image{Names: []string{"x/two:2"}, Layers: [][]byte{base, storetest.Files("two=2")}}
	three := storetest.Image{Layers: [][]byte{storetest.Files("three=3")}}
	a := storetest.Legacy(one, two, three)
	out, err := loadAll(t, a, Options{})
	if err != nil || len(out) != 3 {
		t.Fatal(out, err)
	}
	names := map[string]bool{}
	for _, o := range out {
		names[strings.Join(o.Names, " ")] = true
	}
	if !reflect.DeepEqual(names, map[string]bool{"one:1 one:latest": true, "x/two:2": true, "": true}) {
		t.Error(names)
	}
	dir := t.TempDir()
	if err := a.Write(dir); err != nil {
		t.Fatal(err)
	}
	var sink storetest.Sink
	if again, err := NewLoader(&sink, Options{}).LoadPath(ctx, dir); err != nil || !reflect.DeepEqual(again, out) {
		t.Error(again, err)
	}

	json := func(a *storetest.Archive) string {
		for _, m := range a.Members {
			if strings.HasSuffix(m.Name, "/json") {
				return m.Name
			}
		}
		return ""
	}
	for name, change := range map[string]func(*storetest.Archive){
		"a parent that is not there": func(a *storetest.Archive) { a.Remove(json(a)) },
		"a layer that is not there":  func(a *storetest.Archive) { a.Remove(strings.TrimSuffix(json(a), "json") + "layer.tar") },
		"parents in a circle": func(a *storetest.Archive) {
			storetest.Edit(a, json(a), func(v *map[string]any) { (*v)["parent"] = json(a)[:64] })
		},
		"JSON that is none":      func(a *storetest.Archive) { a.Set(json(a), []byte("{")) },
		"repositories not there": func(a *storetest.Archive) { a.Set("repositories", []byte(`{"a":{"b":"c"}}`)) },
		"repositories not JSON":  func(a *storetest.Archive) { a.Set("repositories", []byte(`[]`)) },
		"a layer that is no tar": func(a *storetest.Archive) { a.Set(strings.TrimSuffix(json(a), "json")+"layer.tar", []byte("x")) },
		"a name that is none":    func(a *storetest.Archive) { a.Set("repositories", []byte(`{"A":{"b":"`+json(a)[:64]+`"}}`)) },
	} {
		a := storetest.Legacy(two)
		change(a)
		if _, err := loadAll(t, a, Options{}); !errors.Is(err, store.ErrCorrupt) && !errors.Is(err, store.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestPlatformOfDockerArchives(t *testing.T) {
	arm := storetest.Image{Names: []string{"arm:1"}, Layers: app1.Layers, Platform: "linux/arm64"}
	for name, a := range map[string]*storetest.Archive{"docker": storetest.Docker(app1, arm), "hybrid": storetest.Hybrid(app1, arm)} {
		if out, err := loadAll(t, a, Options{}); err != nil || !reflect.DeepEqual(out, want(app1, arm)) {
			t.Errorf("%s: %v %v", name, out, err)
		}
		if out, err := loadAll(t, a, Options{Platform: "linux/arm64/v8"}); err != nil || !reflect.DeepEqual(out, want(arm)) {
			t.Errorf("%s: %v %v", name, out, err)
		}
		_, err := loadAll(t, a, Options{Platform: "linux/s390x"})
		if !errors.Is(err, store.ErrNotFound) || !strings.Contains(err.Error(), "linux/amd64, linux/arm64") {
			t.Errorf("%s: %v", name, err)
		}
	}
	// manifest.json knows one image, the index more.
	l := storetest.NewLayout()
	l.Index(l.SubIndex(l.Manifest(app1, storetest.Plain).For("linux/amd64"), l.Manifest(arm, storetest.Plain).For("linux/arm64")))
	l.Set("manifest.json", storetest.Hybrid(app1).Get("manifest.json"))
	if out, err := loadAll(t, &l.Archive, Options{Platform: "linux/arm64"}); err != nil || out[0].ID != arm.ID() {
		t.Error(out, err)
	}
	if out, err := loadAll(t, &l.Archive, Options{}); err != nil || !reflect.DeepEqual(out, want(app1)) {
		t.Error(out, err)
	}
	// A manifest.json without images beside an index.
	l.Set("manifest.json", []byte("[]"))
	if out, err := loadAll(t, &l.Archive, Options{Platform: "linux/amd64"}); err != nil || out[0].ID != app1.ID() {
		t.Error(out, err)
	}
	for _, p := range []string{"amd64", "linux/", "/amd64", "a/b/c/d"} {
		if _, err := loadAll(t, storetest.Docker(app1), Options{Platform: p}); !errors.Is(err, store.ErrInvalid) {
			t.Errorf("%q: %v", p, err)
		}
	}
}

func FuzzRepoTag(f *testing.F) {
	for _, s := range []string{"nginx", "a/b:c", "localhost:5000/x", "../x", "A", "x@sha256:" + strings.Repeat("a", 64)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		out, err := loadBy(t, "pipe", edited(func(m manifest) { m[0]["RepoTags"] = []string{s} }).Tar(), Options{})
		if err != nil {
			if !errors.Is(err, store.ErrInvalid) {
				t.Fatal(err)
			}
			return
		}
		for _, n := range out[0].Names {
			if ref, err := store.FamiliarTag(n); err != nil || ref != n {
				t.Fatalf("%q → %q: %v", s, n, err)
			}
		}
	})
}

func FuzzDockerManifest(f *testing.F) {
	a := storetest.Docker(app1, app2)
	f.Add(a.Get("manifest.json"))
	f.Add([]byte("null"))
	f.Add([]byte(`[{"Config":"../x","RepoTags":null,"Layers":["/","..",""],"LayerSources":{"x":{"urls":[""]}}}]`))
	f.Fuzz(func(t *testing.T, b []byte) {
		a := storetest.Docker(app1, app2)
		a.Set("manifest.json", b)
		_, err := loadBy(t, "path", a.Tar(), Options{})
		known(t, err)
	})
}

// known fails the test if an error of a load is of no known kind.
func known(t *testing.T, err error) {
	t.Helper()
	for _, is := range []error{nil, store.ErrCorrupt, store.ErrTooLarge, store.ErrInvalid, store.ErrNotFound, store.ErrUnsupported} {
		if errors.Is(err, is) {
			return
		}
	}
	t.Fatalf("an error of no kind: %v", err)
}
