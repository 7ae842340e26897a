package names

import (
	"slices"
	"strings"
	"testing"

	digest "github.com/opencontainers/go-digest"
)

func id(s string) digest.Digest { return digest.FromString(s) }

func tree() *Tree {
	return New(map[string]digest.Digest{
		"nginx:1.25":                id("a"),
		"nginx:latest":              id("b"),
		"foo:bar":                   id("c"),
		"foo/bar:v1":                id("d"),
		"localhost:5000/x/y:v1":     id("e"),
		"localhost:tag":             id("f"),
		"bad":                       id("g"),
		"registry.example/app:5000": id("h"),
	}, map[string]digest.Digest{"nginx@" + string(id("m")): id("a")})
}

func list(t *testing.T, path string) string {
	t.Helper()
	d := tree().Dir(path)
	if d == nil {
		t.Fatalf("no directory %q", path)
	}
	var out []string
	for _, e := range d.List() {
		n := e.Name
		if e.Dir != "" {
			n += "/"
		}
		out = append(out, n)
	}
	return strings.Join(out, " ")
}

func TestList(t *testing.T) {
	for path, want := range map[string]string{
		"":                 "foo/ localhost/ localhost:5000/ nginx/ registry.example/",
		"nginx":            "1.25 latest",
		"foo":              ":bar bar/",
		"foo/bar":          "v1",
		"localhost:5000":   "x/",
		"localhost:5000/x": "y/",
	} {
		if got := list(t, path); got != want {
			t.Errorf("%q lists %q, want %q", path, got, want)
		}
	}
}

func TestLookup(t *testing.T) {
	hex := id("m").Encoded()
	for _, c := range []struct {
		dir, name string
		want      digest.Digest // "" for nothing, "/" for a directory
	}{
		{"nginx", "1.25", id("a")},
		{"nginx", ":1.25", id("a")},
		{"", "nginx:1.25", id("a")},
		{"nginx", "@sha256:" + hex, id("a")},
		{"nginx", "@sha256-" + hex, id("a")},
		{"nginx", "@sha256", ""},
		{"nginx", "@", ""},
		{"nginx", ":", ""},
		{"nginx", "1.26", ""},
		{"foo", "bar", "/"},
		{"foo", ":bar", id("c")},
		{"", "foo:bar", id("c")},
		{"foo", "bar:v1", id("d")},
		{"", "localhost:5000", "/"},
		{"", "localhost:tag", id("f")},
		{"localhost:5000/x", "y:v1", id("e")},
		{"registry.example", "app:5000", id("h")},
		{"", "bad", ""},
		{"", ":", ""},
		{"", "a:", ""},
	} {
		e, ok := tree().Dir(c.dir).Lookup(c.name)
		got := e.ID
		if e.Dir != "" {
			got = "/"
		}
		if !ok {
			got = ""
		}
		if got != c.want {
			t.Errorf("%q in %q is %q, want %q", c.name, c.dir, got, c.want)
		}
	}
}

func TestDiff(t *testing.T) {
	old := New(map[string]digest.Digest{"a:1": id("x"), "a:2": id("x"), "gone:1": id("x"), "b:c": id("x")}, nil)
	now := New(map[string]digest.Digest{"a:1": id("x"), "a:2": id("y"), "b:c": id("x"), "b/c:1": id("x")}, nil)
	var got []string
	now.Diff(old, func(s Stale) { got = append(got, s.Dir+"|"+s.Name) })
	slices.Sort(got)
	want := "a|2 a|:2 b|:c b|c b|c |a:2 |b:c |gone |gone:1 gone|1 gone|:1"
	w := strings.Fields(want)
	slices.Sort(w)
	if strings.Join(got, " ") != strings.Join(w, " ") {
		t.Errorf("stale: %q, want %q", got, w)
	}
}

func TestRelisted(t *testing.T) {
	old := New(map[string]digest.Digest{"a:1": id("x"), "b:1": id("x"), "c/d:1": id("x"), "e:1": id("x")}, nil)
	now := New(map[string]digest.Digest{"a:1": id("y"), "b:2": id("x"), "c/d:1": id("x"), "c/e:1": id("x"), "e:1": id("x")}, nil)
	var got []string
	now.Relisted(old, func(p string) { got = append(got, p) })
	slices.Sort(got)
	if want := []string{"b", "c", "c/e"}; !slices.Equal(got, want) {
		t.Errorf("relisted %q, want %q", got, want)
	}
}

func FuzzLookup(f *testing.F) {
	for _, s := range []string{"nginx", ":x", "@sha256:", "a:b:c", "..", "/", "\x00"} {
		f.Add(s)
	}
	tr := tree()
	f.Fuzz(func(t *testing.T, name string) {
		for _, d := range tr.dirs {
			if e, ok := d.Lookup(name); ok && (e.Dir == "") == (e.ID == "") {
				t.Errorf("%q is neither a directory nor an image: %+v", name, e)
			}
		}
	})
}
