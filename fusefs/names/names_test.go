package names

import (
	"errors"
	"slices"
	"strings"
	"testing"

	digest "github.com/opencontainers/go-digest"

	"imagefs/store"
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
		{"", "nginx@sha256:" + hex, id("a")},
		{"", "nginx@sha256-" + hex, id("a")},
		{"", "foo@sha256:" + hex, ""},
		{"", "nothing@sha256:" + hex, ""},
		{"", "nginx@sha256", ""},
		{"", "@sha256:" + hex, ""},
		{"nginx", "nginx@sha256:" + hex, ""},
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
	want := "a|2 b|c b|c |gone gone|1"
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

func TestTagRef(t *testing.T) {
	for _, c := range []struct{ dir, name, want string }{
		{"nginx", "1.25", "nginx:1.25"},
		{"nginx", ":1.25", "nginx:1.25"},
		{"", "nginx:1.25", "nginx:1.25"},
		{"team", "app:v1", "team/app:v1"},
		{"team/app", "CuAb12Zz", "team/app:CuAb12Zz"},
		{"localhost:5000/x", "1", "localhost:5000/x:1"},
		{"registry.example", "app:5000", "registry.example/app:5000"},
		{"", "localhost:5000", "localhost:5000"},
		{"", "1.25", ""},
		{"", ":1.25", ""},
		{"", "", ""},
		{"nginx", "", ""},
		{"nginx", ":", ""},
		{"nginx", ".hidden", ""},
		{"nginx", "a b", ""},
		{"nginx", "@sha256-" + strings.Repeat("ab", 32), ""},
		{"nginx", "@sha256:" + strings.Repeat("ab", 32), ""},
		{"nginx", strings.Repeat("t", 129), ""},
		{"nginx", "a:b:c", ""},
		{"localhost:5000", "1", ""},
		{"library/nginx", "1", ""},
		{"docker.io/library/nginx", "1", ""},
		{"UPPER", "1", ""},
		{"nginx", "1\n2", ""},
	} {
		got, err := TagRef(c.dir, c.name)
		if got != c.want || (c.want == "") != errors.Is(err, store.ErrInvalid) {
			t.Errorf("%q in %q is %q, %v; want %q", c.name, c.dir, got, err, c.want)
		}
		if c.want == "" {
			continue
		}
		// What it names is found under that name.
		if e, ok := New(map[string]digest.Digest{got: id("x")}, nil, c.dir).Dir(c.dir).Lookup(c.name); !ok || e.Ref != got {
			t.Errorf("%q in %q does not resolve: %+v", c.name, c.dir, e)
		}
	}
}

func TestCheckDir(t *testing.T) {
	for path, good := range map[string]bool{
		"nginx": true, "team/app": true, "localhost:5000": true, "localhost:5000/x/y": true, "registry.example": true,
		"a__b": true, "library": true,
		"": false, "-x": false, "a/": false, "a//b": false, "x/UPPER": false, "foo:bar": false, "a/b:c": false, "a b": false,
		"..": false, "a@b": false, "docker.io/nginx": false, "a/" + strings.Repeat("x", 254): false, "x\x00": false,
	} {
		if err := CheckDir(path); (err == nil) != good || err != nil && !errors.Is(err, store.ErrInvalid) {
			t.Errorf("%.40q: %v", path, err)
		}
	}
}

// Directories are there without names, and what leads to them.
func TestEmptyDirectories(t *testing.T) {
	tr := New(map[string]digest.Digest{"a:1": id("x")}, nil, "a", "b/c")
	for path, empty := range map[string]bool{"": false, "a": false, "b": false, "b/c": true} {
		if d := tr.Dir(path); d == nil || d.Empty() != empty {
			t.Errorf("%q: %+v", path, d)
		}
	}
}

func FuzzTagRef(f *testing.F) {
	for _, s := range []string{"nginx|1", "|nginx:1", "a/b|:1", "localhost:5000/x|1", "x|@sha256:", "a:b|c", "|", "library|n:1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		dir, name, _ := strings.Cut(s, "|")
		ref, err := TagRef(dir, name)
		if err != nil || strings.Contains(name, "/") || dir != "" && CheckDir(dir) != nil {
			return
		}
		e, ok := New(map[string]digest.Digest{ref: id("x")}, nil, dir).Dir(dir).Lookup(name)
		if !ok || e.Ref != ref {
			t.Errorf("%q in %q is %q, and resolves to %+v", name, dir, ref, e)
		}
	})
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
