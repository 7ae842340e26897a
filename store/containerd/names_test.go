package containerd

import (
	"maps"
	"slices"
	"strings"
	"testing"

	digest "github.com/opencontainers/go-digest"

	"imagefs/store"
)

// named gives the records names; each leads to an image of its own, whose ID is
// the digest of "namespace name".
func named(records ...record) store.Names {
	c := &catalog{}
	var found []*target
	for _, r := range records {
		id := digest.FromString(r.space + " " + r.name)
		found = append(found, &target{chosen: id, digests: map[digest.Digest]digest.Digest{digest.FromString("manifest of " + r.name): id}})
	}
	c.records, c.found = records, found
	c.nameImages(func(string, record) {})
	return c.names
}

func TestNames(t *testing.T) {
	dg := string(digest.FromString("x"))
	for _, c := range []struct {
		name    string
		records []record
		tags    string // "reference" that leads to an image of that name, or "reference <- namespace name"
		repos   string // of the digest references
	}{
		{"familiar", []record{{space: "default", name: "docker.io/library/nginx:1.25"}, {space: "default", name: "docker.io/team/app:v1"}, {space: "default", name: "localhost:5000/x/y:v1"}},
			"localhost:5000/x/y:v1 nginx:1.25 team/app:v1", "localhost:5000/x/y nginx team/app"},
		{"what Kubernetes has", []record{{space: "k8s.io", name: "registry.k8s.io/pause:3.9"}, {space: "k8s.io", name: "registry.k8s.io/pause@" + dg}, {space: "k8s.io", name: dg}},
			"registry.k8s.io/pause:3.9", "registry.k8s.io/pause registry.k8s.io/pause"},
		{"what Docker has", []record{{space: "moby", name: "docker.io/library/web:1"}, {space: "moby", name: "moby-dangling@" + dg}, {space: "plugins.moby", name: ""}},
			"moby/web:1", "moby/web"},
		{"what ctr import has", []record{{space: "default", name: "import-2026-11-25@" + dg}, {space: "default", name: "tiny:1"}},
			"tiny:1", "import-2026-11-25 tiny"},
		{"the name itself goes first", []record{{space: "default", name: "app"}, {space: "default", name: "app:latest"}, {space: "default", name: "docker.io/library/app:latest"}},
			"app:latest<-default docker.io/library/app:latest", "app app app"},
		{"no references", []record{{space: "default", name: "UPPER"}, {space: "default", name: "../../etc"}, {space: "default", name: "a//b:c"}, {space: "default", name: "a:b:c"}, {space: "default", name: " "}, {space: "default", name: "x\x00y"}},
			"", ""},
		{"two namespaces", []record{{space: "k8s.io", name: "docker.io/library/nginx:1.25"}, {space: "moby", name: "docker.io/library/nginx:1.25"}, {space: "k8s.io", name: "registry.k8s.io/pause:3.9"}},
			"k8s.io/nginx:1.25 k8s.io/registry.k8s.io/pause:3.9 moby/nginx:1.25", "k8s.io/nginx k8s.io/registry.k8s.io/pause moby/nginx"},
		{"registries below namespaces", []record{{space: "moby", name: "localhost:5000/x:1"}, {space: "moby", name: "Registry.Example:5000/x:1"}, {space: "moby", name: "127.0.0.1:5000/a/b:2"}, {space: "default", name: "localhost/x:1"}, {space: "default", name: "[::1]:5000/x:1"}},
			"default/localhost/x:1 moby/127.0.0.1_5000/a/b:2 moby/localhost_5000/x:1 moby/registry.example_5000/x:1", "default/localhost/x moby/127.0.0.1_5000/a/b moby/localhost_5000/x moby/registry.example_5000/x"},
		{"odd namespaces", []record{{space: "library", name: "a:1"}, {space: "docker.io", name: "a:1"}, {space: "UP_per.x", name: "a:1"}, {space: "localhost", name: "a:1"}, {space: "..", name: "a:1"}, {space: "a/b", name: "a:1"}, {space: "", name: "a:1"}},
			"localhost/a:1 ns-a-b/a:1 ns-docker-io/a:1 ns-library/a:1 ns-up-per-x/a:1 ns-x-x/a:1 ns-x/a:1", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := named(c.records...)
			tags := slices.Sorted(maps.Keys(got.Tags))
			if ref, from, ok := strings.Cut(c.tags, "<-"); ok {
				if id := digest.FromString(from); len(tags) != 1 || got.Tags[ref] != id {
					t.Errorf("%q, want %s to lead to %s", tags, ref, from)
				}
			} else if strings.Join(tags, " ") != c.tags {
				t.Errorf("tags %q, want %q", tags, c.tags)
			}
			var repos []string
			for ref := range got.Digests {
				repo, _, _ := strings.Cut(ref, "@")
				repos = append(repos, repo)
			}
			slices.Sort(repos)
			if c.repos != "" && strings.Join(repos, " ") != c.repos {
				t.Errorf("digest references of %q, want %q", repos, c.repos)
			}
			check(t, got)
		})
	}
}

// check says what must be so of any names.
func check(t *testing.T, n store.Names) {
	t.Helper()
	for ref := range n.Tags {
		if f, err := store.FamiliarTag(ref); err != nil || f != ref {
			t.Errorf("%q is no familiar reference with a tag: %q, %v", ref, f, err)
		}
	}
	for ref := range n.Digests {
		if f, err := store.FamiliarDigest(ref); err != nil || f != ref {
			t.Errorf("%q is no familiar reference with a digest: %q, %v", ref, f, err)
		}
	}
}

// FuzzNames gives images any names in any namespaces.
func FuzzNames(f *testing.F) {
	f.Add("default", "docker.io/library/nginx:1", "moby", "localhost:5000/x@"+string(digest.FromString("x")))
	f.Add("..", "A/b", "UP.per_x", "[::1]:5000/x:1")
	f.Add("docker.io", "library/library", "library", "docker.io/library/library:library")
	f.Fuzz(func(t *testing.T, space1, name1, space2, name2 string) {
		check(t, named(record{space: space1, name: name1}, record{space: space2, name: name2}))
	})
}

// FuzzDocument parses any index or manifest.
func FuzzDocument(f *testing.F) {
	f.Add([]byte(`{"manifests":[{"digest":"sha256:` + digest.FromString("x").Encoded() + `","platform":{"os":"linux"}}]}`))
	f.Add([]byte(`{"config":{"digest":"sha256:x"},"layers":[{}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := parseDocument(b)
		if err != nil {
			return
		}
		d.isImage()
		for _, l := range d.Layers {
			if l.Digest.Validate() != nil || strings.Contains(blobPath(l.Digest), "..") {
				t.Errorf("a layer's digest is %q", l.Digest)
			}
		}
	})
}
