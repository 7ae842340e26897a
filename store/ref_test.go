package store

import (
	"errors"
	"strings"
	"testing"

	"github.com/distribution/reference"
)

func TestCanonical(t *testing.T) {
	hex := strings.Repeat("a", 64)
	for in, want := range map[string]string{
		"nginx:1.25":                    "docker.io/library/nginx:1.25",
		"team/app:v1":                   "docker.io/team/app:v1",
		"a/b/c:1":                       "docker.io/a/b/c:1",
		"localhost:5000/x/y:v1":         "localhost:5000/x/y:v1",
		"localhost/x:v1":                "localhost/x:v1",
		"example.com/x:v1":              "example.com/x:v1",
		"nginx@sha256:" + hex:           "docker.io/library/nginx@sha256:" + hex,
		"library/nginx:1":               "",
		"docker.io/library/x:1":         "",
		"nginx":                         "",
		"nginx:":                        "",
		":1":                            "",
		"Nginx:1":                       "",
		"a//b:1":                        "",
		"a/:1":                          "",
		"a:.1":                          "",
		hex + ":1":                      "docker.io/library/" + hex + ":1",
		"a:" + strings.Repeat("x", 129): "",
	} {
		got, ok := Canonical(in)
		if got != want || ok != (want != "") {
			t.Errorf("%q: %q, %v, want %q", in, got, ok, want)
		}
	}
}

func TestNewTag(t *testing.T) {
	hex := strings.Repeat("a", 64)
	for in, want := range map[string]string{
		"docker.io/library/nginx": "nginx:latest", "me/sha256:1": "me/sha256:1", "sha256.io/x:1": "sha256.io/x:1", "localhost/sha256:1": "localhost/sha256:1",
		"sha256:" + hex: "", "sha256": "", "docker.io/library/sha256:1": "", "a@sha256:" + hex: "", "A:1": "",
	} {
		got, err := NewTag(in)
		if got != want || (want == "") != errors.Is(err, ErrInvalid) {
			t.Errorf("%q: %q, %v; want %q", in, got, err, want)
		}
		if err := CheckTag(in); (err == nil) != (in == want) {
			t.Errorf("%q: %v", in, err)
		}
	}
}

// The short way says what the library says.
func FuzzCanonical(f *testing.F) {
	for _, s := range []string{"nginx:1", "a/b:c", "a.b/c:1", "library/x:1", "a__b:1", "a-b_c.d:1", "localhost/x:1", "x:1@sha256:" + strings.Repeat("0", 64)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, ok := Canonical(s)
		n, err := reference.ParseNormalizedNamed(s)
		want := err == nil && !reference.IsNameOnly(n) && reference.FamiliarString(n) == s
		if ok != want || ok && got != n.String() {
			t.Errorf("%q: %q, %v; the library: %v, %v", s, got, ok, n, err)
		}
	})
}
