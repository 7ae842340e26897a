package containers

import (
	"strings"
	"testing"

	"imagefs/store"
)

func TestDataName(t *testing.T) {
	for key, want := range map[string]string{
		"manifest": "manifest", "sha256:ab": "=c2hhMjU2OmFi", "manifest-sha256:ab": "=bWFuaWZlc3Qtc2hhMjU2OmFi",
		"": "", "..": "=Li4=", "a/b": "=YS9i", "???": "", strings.Repeat("a", 256): "", strings.Repeat("A", 255): "",
	} {
		if got := dataName(key); got != want {
			t.Errorf("%q is in the file %q, want %q", key, got, want)
		}
	}
}

func TestFamiliar(t *testing.T) {
	n := namer{repos: map[string]string{}}
	hex := strings.Repeat("0a", 32)
	for name, want := range map[string]string{
		"docker.io/library/nginx:1": "nginx:1", "docker.io/team/app:V.1": "team/app:V.1", "localhost/a:b": "localhost/a:b",
		"localhost:5000/a": "localhost:5000/a:latest", "localhost:5000/a:b": "localhost:5000/a:b", "nginx": "nginx:latest",
		"quay.io/a@sha256:" + hex: "quay.io/a@sha256:" + hex, "docker.io/library/a:1@sha256:" + hex: "a@sha256:" + hex,
		"": "", ":": "", "a:": "", "A:1": "", "a b:1": "", "../x:1": "", "a:../x": "", "a@b": "", hex: "", "a:" + strings.Repeat("b", 129): "",
	} {
		tag, ref := n.familiar(name)
		if tag+ref != want {
			t.Errorf("%q is %q, want %q", name, tag+ref, want)
		}
		if want == "" {
			continue
		}
		check := store.FamiliarTag
		if ref != "" {
			check = store.FamiliarDigest
		}
		if got, err := check(want); err != nil || got != want {
			t.Errorf("%q comes back as %q: %v", want, got, err)
		}
	}
}
