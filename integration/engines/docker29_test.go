package engines

import (
	"cmp"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"imagefs/integration/harness"
	"imagefs/store/storetest"
)

// Docker 29 keeps its images in a containerd's store, of its own or another's.
// What it loads, builds, imports and tags is shown as it says and as the kernel
// shows its snapshots, while it lives, when it has ended, and in a copy.
func TestDocker29(t *testing.T) {
	harness.Need(t, "root", "/dev/fuse", "containerd", "ctr")
	builder, archives := oddArchives(t)
	builder.Stop(t)
	for _, apart := range []bool{false, true} {
		name, root := "managed", filepath.Join(t.TempDir(), "docker")
		if apart {
			name = "apart"
		}
		t.Run(name, func(t *testing.T) {
			var o harness.Docker29
			if apart {
				o.Containerd = harness.StartContainerd(t, filepath.Join(t.TempDir(), "containerd"))
			}
			d := o.Start(t, root)
			s := harness.Imagefs{Store: root}
			if apart {
				s.Store = d.Containerd().Root
			}
			fill29(t, d, archives)
			alone := s.Mount(t) // which does not know where the daemon answers
			t.Setenv("IMAGEFS_DOCKER_HOST", d.Host)
			m := s.Mount(t)
			all := images29(t, d)
			if apart { // what is read is the same
				all = slices.DeleteFunc(all, func(i image29) bool { return i.ref == "odd:2" || i.ref == "moved:1" || i.ref == "classic:1" })
			}
			check := func(t *testing.T, m *harness.Mount, kernel bool) {
				for _, i := range all {
					i.check(t, m, kernel)
				}
			}
			check(t, m, true)
			want, got := lists29(t, d, s)
			harness.Same(t, "imagefs images and docker images", want, got)
			texts29(t, d, s, m, all)
			saved29(t, d, s, all)
			t.Run("changes", func(t *testing.T) { changes29(t, d, s, m) })
			refused29(t, d, alone)
			t.Run("live", func(t *testing.T) { live29(t, d, s, m, !apart) })
			gone := func(i image29) bool { return !d.Has(i.id) }
			all = slices.DeleteFunc(all, gone)
			d.Stop(t)
			if apart {
				o.Containerd.Stop(t)
			}
			check(t, m, false)
			s.Run(t, "check")
			dead := filepath.Join(t.TempDir(), "copy")
			harness.Run(t, "cp", "-a", s.Store, dead)
			copied := harness.Imagefs{Store: dead}
			copied.Run(t, "check")
			check(t, copied.Mount(t, "--read-only"), false)
		})
	}
}

// multi29 is an index as Docker 29 has them, by its name: two platforms and what BuildKit states of one.
const multi29 = "team/multi:1"

// fill29 makes images in all the ways that an engine has without a network.
func fill29(t *testing.T, d *harness.Docker, archives map[string]string) {
	t.Helper()
	for _, ref := range []string{"odd:1", "odd:2"} {
		d.Run(t, "load", "-q", "-i", archives[ref])
	}
	context := oddContext(t)
	d.Build(t, true, "kit:1", context)
	d.Build(t, false, "classic:1", context)
	// One that loses its name, and has none from then on.
	d.Build(t, true, "moved:1", context, "--build-arg", "V=3")
	d.Build(t, true, "moved:1", context, "--build-arg", "V=4")
	d.Run(t, "tag", "odd:2", "localhost:5000/team/odd:live")

	l := storetest.NewLayout()
	host := l.Manifest(storetest.Image{Platform: "linux/amd64", Layers: [][]byte{storetest.Files("etc/", "etc/platform=amd64")}}, storetest.Gzip).For("linux/amd64")
	other := l.Manifest(storetest.Image{Platform: "linux/arm64", Layers: [][]byte{storetest.Files("etc/", "etc/platform=arm64")}}, storetest.Zstd).For("linux/arm64")
	statement := l.JSON(storetest.TypeManifest, storetest.Manifest{SchemaVersion: 2, MediaType: storetest.TypeManifest,
		Config: l.Blob(storetest.TypeConfig, []byte(`{"architecture":"unknown","os":"unknown","config":{},"rootfs":{"type":"layers","diff_ids":["sha256:`+strings.Repeat("1", 64)+`"]}}`)),
		Layers: []storetest.Descriptor{l.Blob("application/vnd.in-toto+json", []byte(`{"_type":"https://in-toto.io/Statement/v0.1"}`))}}).
		For("unknown/unknown").With("vnd.docker.reference.type", "attestation-manifest").With("vnd.docker.reference.digest", string(host.Digest))
	l.Index(l.SubIndex(host, other, statement).With("io.containerd.image.name", "docker.io/"+multi29).With("org.opencontainers.image.ref.name", "1"))
	file := filepath.Join(t.TempDir(), "multi.tar")
	if err := os.WriteFile(file, l.Tar(), 0o600); err != nil {
		t.Fatal(err)
	}
	d.Run(t, "load", "-q", "-i", file)

	tar := filepath.Join(t.TempDir(), "root.tar")
	if err := os.WriteFile(tar, storetest.Files("hello=world"), 0o600); err != nil {
		t.Fatal(err)
	}
	d.Run(t, "import", tar, "imported:1")
}

// image29 is an image as Docker 29 has it.
type image29 struct {
	ref   string // "" if it has no name
	id    string // what Docker calls its ID: the digest of a manifest or an index
	image harness.DiskImage
}

// images29 returns all images, as Docker and its containerd tell of them.
func images29(t *testing.T, d *harness.Docker) []image29 {
	t.Helper()
	var out []image29
	for _, line := range harness.Lines(d.Run(t, "images", "--no-trunc", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}")) {
		ref, id, _ := strings.Cut(line, " ")
		i := image29{ref: ref, id: id}
		if strings.Contains(ref, "<none>") {
			i.ref = ""
		}
		// Of an index the one that runs here.
		var index struct {
			Manifests []struct {
				Digest   string
				Platform struct{ Architecture string }
			}
		}
		manifest := id
		if err := json.Unmarshal([]byte(d.Containerd().Run(t, "moby", "content", "get", id)), &index); err != nil {
			t.Fatal(err)
		}
		for _, m := range index.Manifests {
			if m.Platform.Architecture == "amd64" {
				manifest = m.Digest
			}
		}
		i.image = d.Containerd().Image(t, "moby", manifest)
		out = append(out, i)
	}
	if len(out) < 5 {
		t.Fatalf("%d images", len(out))
	}
	return out
}

// check compares what is shown of an image with what Docker says and the kernel shows.
func (i image29) check(t *testing.T, m *harness.Mount, kernel bool) {
	t.Helper()
	paths := []string{"digests/sha256/" + i.id[7:], "ids/" + i.id[7:], "ids/" + i.id[7:19]}
	if i.ref != "" {
		repo, tag := split(i.ref)
		paths = append(paths, "images/"+repo+"/"+tag)
	}
	for _, p := range paths {
		if to, err := filepath.EvalSymlinks(m.Path(p)); err != nil || filepath.Base(to) != i.image.ID[7:] {
			t.Errorf("%s of %q leads to %s, %v, want %s", p, i.ref, to, err, i.image.ID)
		}
	}
	if kernel && i.image.Dirs != nil {
		harness.CheckImage(t, m, i.image)
	}
}

// split takes a reference apart.
func split(ref string) (repo, tag string) {
	n := strings.LastIndexByte(ref, ':')
	return ref[:n], ref[n+1:]
}

// lists29 returns the lists of images, of Docker and of ours. Of the columns, ID
// and size are others: see store/containerd. Images of other platforms have
// rows of their own here.
func lists29(t *testing.T, d *harness.Docker, s harness.Imagefs) (want, got []string) {
	t.Helper()
	const columns = "{{.Repository}}:{{.Tag}} {{.CreatedAt}}"
	want = slices.Sorted(slices.Values(harness.Lines(d.Run(t, "images", "--no-trunc", "--format", columns))))
	got = slices.Sorted(slices.Values(harness.Lines(s.Run(t, "images", "--no-trunc", "--format", columns))))
	got = slices.DeleteFunc(got, func(l string) bool { return strings.HasPrefix(l, "team/multi:<none> ") })
	return want, got
}

// texts29 compares what is said of each image: by its name, and by what Docker calls its ID.
func texts29(t *testing.T, d *harness.Docker, s harness.Imagefs, m *harness.Mount, all []image29) {
	t.Helper()
	for n, i := range all {
		refs := []string{i.id[7:19]}
		if i.ref != "" {
			refs[0] = i.ref
		}
		if n == 0 {
			refs = append(refs, i.id, i.id[7:], i.id[7:19])
		}
		for _, ref := range refs {
			sameHistory(t, d, s, i, ref)
			sameInspect(t, d, i.ref+" "+ref, d.Run(t, "image", "inspect", ref), s.Run(t, "inspect", ref), i)
		}
	}
}

// sameHistory compares the histories.
func sameHistory(t *testing.T, d *harness.Docker, s harness.Imagefs, i image29, ref string) {
	t.Helper()
	columns := "{{.ID}}\t{{.CreatedAt}}\t{{.CreatedBy}}\t{{.Comment}}"
	if i.ref != multi29 { // which is not unpacked: Docker says that it has no bytes
		columns += "\t{{.Size}}"
	}
	want := d.Run(t, "history", "--no-trunc", "--format", columns, ref)
	if i.id != i.image.ID {
		want = ids29(t, d, strings.ReplaceAll(want, i.id, i.image.ID))
	}
	got := s.Run(t, "history", "--no-trunc", "--format", columns, ref)
	harness.Same(t, ref+": imagefs history and docker history", harness.Lines(want), harness.Lines(got))
}

var whole29 = regexp.MustCompile(`(?m)^sha256:[0-9a-f]{64}`)

// ids29 puts for each of Docker's IDs at the beginning of a line ours, the digest of the config.
func ids29(t *testing.T, d *harness.Docker, text string) string {
	t.Helper()
	return whole29.ReplaceAllStringFunc(text, func(id string) string {
		var m struct{ Config struct{ Digest string } }
		if err := json.Unmarshal([]byte(d.Containerd().Run(t, "moby", "content", "get", id)), &m); err != nil {
			t.Fatal(err)
		}
		return cmp.Or(m.Config.Digest, id)
	})
}

// sameInspect compares field by field what docker image inspect says with what imagefs says.
func sameInspect(t *testing.T, d *harness.Docker, what, docker, imagefs string, i image29) {
	t.Helper()
	var want, got []map[string]any
	if err := errors.Join(json.Unmarshal([]byte(docker), &want), json.Unmarshal([]byte(imagefs), &got)); err != nil || len(want) != 1 || len(got) != 1 {
		t.Fatalf("%s: %v\n%s\n%s", what, err, docker, imagefs)
	}
	w, g := want[0], got[0]
	if w["Id"] != i.id || g["Id"] != i.image.ID {
		t.Errorf("%s: the IDs are %s and %s, want %s and %s", what, w["Id"], g["Id"], i.id, i.image.ID)
	}
	if i.id != i.image.ID {
		for _, field := range []string{"Id", "Size", "Descriptor", "Identity"} {
			delete(w, field) // what store/containerd says of these
		}
		if parent, ok := w["Parent"].(string); ok {
			w["Parent"] = ids29(t, d, parent)
		}
	}
	if i.ref == multi29 { // has that of its platform's manifest too
		g["RepoDigests"] = slices.DeleteFunc(g["RepoDigests"].([]any), func(v any) bool { return v != "team/multi@"+i.id })
	}
	for field, value := range w {
		if field == "Config" {
			// It leaves out what is empty.
			for k, v := range value.(map[string]any) {
				if o := g[field].(map[string]any)[k]; text29(o) != text29(v) {
					t.Errorf("%s: %s.%s is %s, docker says %s", what, field, k, text29(o), text29(v))
				}
			}
			continue
		}
		if text29(g[field]) != text29(value) {
			t.Errorf("%s: %s is %s, docker says %s", what, field, text29(g[field]), text29(value))
		}
	}
}

// text29 is a value as JSON, lists of names sorted.
func text29(v any) string {
	if list, ok := v.([]any); ok {
		var all []string
		for _, e := range list {
			if s, ok := e.(string); ok {
				all = append(all, s)
			}
		}
		if len(all) == len(list) && slices.ContainsFunc(all, func(s string) bool { return strings.Contains(s, "@sha256:") || strings.Contains(s, ":1") }) {
			slices.Sort(all)
			v = all
		}
	}
	b, _ := json.Marshal(v)
	return string(b)
}

// saved29 takes images from Docker's archives to a store of ours, and from ours to Docker.
func saved29(t *testing.T, d *harness.Docker, s harness.Imagefs, all []image29) {
	t.Helper()
	dir := t.TempDir()
	for n, i := range all {
		if !slices.Contains([]string{"odd:1", "kit:1", "classic:1", multi29}, i.ref) {
			continue
		}
		theirs := filepath.Join(dir, string(rune('a'+n))+".tar")
		d.Run(t, "save", "-o", theirs, i.ref)
		own := harness.NewStore(t)
		own.Run(t, "load", "-q", "-i", theirs)
		for _, o := range []harness.Imagefs{own, {Store: theirs}} {
			if got := strings.TrimSpace(o.Run(t, "inspect", "-f", "{{.Id}}", i.ref)); got != i.image.ID {
				t.Errorf("%s, saved by Docker, is %s in %s, want %s", i.ref, got, o.Store, i.image.ID)
			}
			if out := s.Run(t, "save", "-q", i.ref); out != o.Run(t, "save", "-q", i.ref) {
				t.Errorf("%s in %s is saved as another archive", i.ref, o.Store)
			}
		}
		d.Run(t, "tag", i.ref, "kept:1")
		for _, format := range []string{"docker", "oci"} {
			ours := filepath.Join(dir, format)
			s.Run(t, "save", "-q", "--format", format, "-o", ours, i.ref)
			d.Run(t, "rmi", i.ref)
			d.Run(t, "load", "-q", "-i", ours)
			if got := strings.TrimSpace(s.Run(t, "inspect", "-f", "{{.Id}}", i.ref)); got != i.image.ID {
				t.Errorf("%s, saved as %s, is %s in Docker, want %s", i.ref, format, got, i.image.ID)
			}
			c := strings.TrimSpace(d.Run(t, "create", i.ref, "/x"))
			d.Run(t, "rm", c)
		}
		d.Run(t, "tag", "kept:1", i.ref)
		d.Run(t, "rmi", "kept:1")
	}
}

// changes29 looks at changes of Docker's on a mount, and at what becomes of ours: they are Docker's to make.
func changes29(t *testing.T, d *harness.Docker, s harness.Imagefs, m *harness.Mount) {
	d.Run(t, "tag", "kit:1", "new/er:2")
	shows(t, m, "images/new/er/2/rootfs/version", true)
	d.Run(t, "rmi", "new/er:2")
	shows(t, m, "images/new/er", false)
	id := d.ID(t, "imported:1")
	d.Run(t, "rmi", "imported:1")
	shows(t, m, "images/imported", false)
	shows(t, m, "digests/sha256/"+id[7:], false)
	d.Run(t, "image", "prune", "-f")
	want, got := lists29(t, d, s)
	harness.Same(t, "after a prune: imagefs images and docker images", want, got)
}

// refused29 looks at what becomes of changes that nobody can be asked for.
func refused29(t *testing.T, d *harness.Docker, m *harness.Mount) {
	t.Helper()
	for file, text := range map[string]string{"tag": "kit:1 kit:2", "rmi": "kit:1", "prune": "dangling"} {
		if err := os.WriteFile(m.Path("ctl", file), []byte(text+"\n"), 0); !errors.Is(err, unix.EOPNOTSUPP) {
			t.Errorf("ctl/%s: %v, want EOPNOTSUPP", file, err)
		}
		if last := m.Read(t, "ctl/last"); !strings.Contains(last, "use docker") {
			t.Errorf("ctl/%s: %s", file, last)
		}
	}
	if !d.Has("kit:1") || d.Has("kit:2") {
		t.Error("what failed was done")
	}
}

// live29 has a daemon make changes, on the command line, in ctl/ and by names of
// the tree; with all, it loads archives of all forms.
func live29(t *testing.T, d *harness.Docker, s harness.Imagefs, m *harness.Mount, all bool) {
	agree := func(t *testing.T) {
		t.Helper()
		want, got := lists29(t, d, s)
		harness.Same(t, "imagefs images and docker images", want, got)
		for _, i := range images29(t, d) {
			if i.ref != "" {
				repo, tag := split(i.ref)
				shows(t, m, "images/"+repo+"/"+tag, true)
			}
			i.check(t, m, false)
		}
	}
	same := func(t *testing.T, a, b string) {
		t.Helper()
		if x, y := d.ID(t, a), d.ID(t, b); x != y {
			t.Errorf("%s is %s, %s is %s", a, x, b, y)
		}
	}
	ctl := func(t *testing.T, file, text string, want error) {
		t.Helper()
		if err := os.WriteFile(m.Path("ctl", file), []byte(text+"\n"), 0); !errors.Is(err, want) {
			t.Errorf("%s %s: %v, want %v\n%s", file, text, err, want, m.Read(t, "ctl/last"))
		}
	}
	try := func(t *testing.T, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%v\n%s", err, m.Read(t, "ctl/last"))
		}
	}
	ours := func(ref string) string { return strings.TrimSpace(s.Run(t, "inspect", "-f", "{{.Id}}", ref)) }

	t.Run("tag", func(t *testing.T) {
		s.Run(t, "tag", "kit:1", "kit:2")
		same(t, "kit:1", "kit:2")
		ctl(t, "tag", "odd:1 localhost:5000/deep/er:x", nil)
		same(t, "odd:1", "localhost:5000/deep/er:x")
		ctl(t, "tag", "odd:1 kit:2", nil)
		same(t, "odd:1", "kit:2")
		s.Run(t, "tag", multi29, "team/multi:2") // both platforms
		same(t, multi29, "team/multi:2")
		ctl(t, "tag", "nosuch:1 odd:3", unix.ENOENT)
		agree(t)
	})
	t.Run("a platform", func(t *testing.T) {
		other := ""
		for _, id := range harness.Lines(s.Run(t, "images", "-aq", "--no-trunc")) {
			if strings.TrimSpace(s.Run(t, "inspect", "-f", "{{.Architecture}}", id)) == "arm64" {
				other = id
			}
		}
		if other == "" {
			t.Fatal("there is no image of another platform")
		}
		for _, args := range [][]string{{"tag", other, "arm:1"}, {"rmi", other}} {
			if code, said := s.Fail(t, args...); code != 1 || !strings.Contains(said, "goes with that") || strings.Count(said, "\n") != 1 {
				t.Errorf("%q: %d %q", args, code, said)
			}
		}
		// It would go with the image that has the name.
		s.Run(t, "rmi", "team/multi:2")
		f, err := os.Open(m.Path("ids", other[7:], "rootfs/etc/platform"))
		try(t, err)
		ctl(t, "rmi", multi29, unix.EBUSY)
		try(t, f.Close())
	})
	t.Run("untag", func(t *testing.T) {
		try(t, os.Remove(m.Path("images/kit/2")))
		shows(t, m, "images/kit/2", false)
		if d.Has("kit:2") || d.Has("team/multi:2") || !d.Has(multi29) {
			t.Error("kit:2 or team/multi:2 is there, or team/multi:1 is not")
		}
		// The only name, while a container uses the image.
		id, was := d.ID(t, "kit:1"), ours("kit:1")
		c := strings.TrimSpace(d.Run(t, "create", "kit:1", "/x"))
		try(t, os.Remove(m.Path("images/kit/1")))
		shows(t, m, "images/kit/1", false)
		if d.Has("kit:1") || d.ID(t, id) != id || ours(id) != was {
			t.Error("the image went with its name, or the name stayed")
		}
		d.Run(t, "rm", c)
		try(t, os.MkdirAll(m.Path("images/kit"), 0o755))
		try(t, os.Symlink("../../ids/"+was[7:], m.Path("images/kit/1")))
		same(t, id, "kit:1")
		agree(t)
	})
	t.Run("rename", func(t *testing.T) {
		s.Run(t, "tag", "odd:1", "a:x")
		try(t, os.MkdirAll(m.Path("images/b"), 0o755))
		try(t, os.Rename(m.Path("images/a/x"), m.Path("images/b/y")))
		same(t, "odd:1", "b:y")
		if d.Has("a:x") {
			t.Error("a:x is still there")
		}
		s.Run(t, "rmi", "b:y")
		agree(t)
	})
	t.Run("load", func(t *testing.T) { load29(t, d, s, m, all, agree) })
	t.Run("rmi", func(t *testing.T) {
		id := d.ID(t, "odd:1")
		ctl(t, "rmi", id, unix.EBUSY) // names in several repositories
		if _, said := s.Fail(t, "rmi", id); !strings.Contains(said, "must be forced") || strings.Count(said, "\n") != 1 {
			t.Errorf("%q", said)
		}
		c := strings.TrimSpace(d.Run(t, "create", "kit:1", "/x"))
		ctl(t, "rmi", "kit:1", unix.EBUSY)
		d.Run(t, "rm", c)
		was := ours("kit:1")
		if out := s.Run(t, "rmi", "kit:1"); !strings.Contains(out, "Untagged: kit:1\nDeleted: "+was+"\n") {
			t.Errorf("%s", out)
		}
		ctl(t, "rmi", "kit:1", unix.ENOENT)
		shows(t, m, "images/kit/1", false)
		agree(t)
	})
	t.Run("prune", func(t *testing.T) {
		d.Run(t, "tag", "odd:1", "lost:1")
		root := filepath.Join(t.TempDir(), "root.tar")
		try(t, os.WriteFile(root, storetest.Files("lost=1"), 0o600))
		s.Run(t, "import", root, "lost:2")
		d.Run(t, "tag", "odd:1", "lost:2") // its only name
		for _, args := range [][]string{{"prune"}, {"prune", "-a"}} {
			c := strings.TrimSpace(d.Run(t, "create", multi29, "/x"))
			images := s.Run(t, "images", "-aq", "--no-trunc")
			// Of layers BuildKit's cache may keep some, of which no image knows.
			told := func(text string) []string {
				return slices.DeleteFunc(harness.Lines(text), func(l string) bool {
					id, deleted := strings.CutPrefix(l, "deleted: ")
					return !strings.HasPrefix(l, "untagged: ") && (!deleted || !strings.Contains(images, id))
				})
			}
			foretold := told(s.Run(t, append(args, "--dry-run")...))
			done := told(s.Run(t, append(args, "-f")...))
			harness.Same(t, "a prune and its dry run", foretold, done)
			if len(done) == 0 {
				t.Errorf("%q: nothing was done", args)
			}
			d.Run(t, "rm", c)
			want, got := lists29(t, d, s)
			harness.Same(t, "imagefs images and docker images", want, got)
		}
		if !d.Has(multi29) || d.Has("odd:1") {
			t.Error("what a container used is gone, or what none used is not")
		}
	})
}

// load29 loads one image into a living daemon; with all, in all forms.
func load29(t *testing.T, d *harness.Docker, s harness.Imagefs, m *harness.Mount, all bool, agree func(*testing.T)) {
	dir := t.TempDir()
	forms := map[string][]string{
		"docker.tar": nil, "docker.tar.zst": {"--compress", "zstd"}, "oci.tar.gz": {"--format", "oci", "--compress", "gzip"}, "layout": {"--format", "oci-dir"},
	}
	if !all {
		forms = map[string][]string{"docker.tar": nil}
	}
	for name, args := range forms {
		s.Run(t, append([]string{"save", "-q", "-o", filepath.Join(dir, name), "kit:1"}, args...)...)
	}
	want := strings.TrimSpace(s.Run(t, "inspect", "-f", "{{.Id}}", "kit:1"))
	for name := range forms {
		t.Run(name, func(t *testing.T) {
			d.Run(t, "rmi", "kit:1")
			if p := filepath.Join(dir, name); strings.HasPrefix(name, "docker") {
				harness.Run(t, "cp", p, m.Path("ctl/load")) // streamed
			} else if err := os.WriteFile(m.Path("ctl/load"), []byte(p+"\n"), 0); err != nil {
				t.Fatalf("%v\n%s", err, m.Read(t, "ctl/last"))
			}
			if got := strings.TrimSpace(s.Run(t, "inspect", "-f", "{{.Id}}", "kit:1")); got != want {
				t.Errorf("kit:1 is %s, was %s", got, want)
			}
			agree(t)
			harness.CheckImage(t, m, d.Containerd().Image(t, "moby", d.ID(t, "kit:1")))
		})
	}
	t.Run("cut", func(t *testing.T) {
		d.Run(t, "rmi", "kit:1")
		loadCut(t, s, filepath.Join(dir, "docker.tar"))
		if d.Has("kit:1") {
			t.Error("there is an image of a cut archive")
		}
		if out := s.Run(t, "load", "-q", "-i", filepath.Join(dir, "docker.tar")); out != "Loaded image: kit:1\n" {
			t.Errorf("%q", out)
		}
		agree(t)
	})
	t.Run("nothing written", func(t *testing.T) { nothingWritten(t, s.Store, s, d) })
}

// With a storage driver Docker 29 keeps its images as older ones do, and makes the changes that it is asked for.
func TestDocker29Live(t *testing.T) {
	liveDaemon(t, func(t *testing.T, root string) *harness.Docker { return harness.Docker29{Graph: true}.Start(t, root) })
}

// What is shown of such a data root is what Docker 29 says and what the kernel shows.
func TestDocker29Graph(t *testing.T) {
	harness.Need(t, "root", "/dev/fuse")
	root := filepath.Join(t.TempDir(), "docker")
	d := harness.Docker29{Graph: true}.Start(t, root)
	buildOdd(t, d)
	s := harness.Imagefs{Store: root}
	sameList(t, d, s)
	m := s.Mount(t)
	for _, ref := range []string{"odd:1", "odd:2", "kit:1"} {
		img := image(t, harness.ReadRoot(t, root), ref)
		sameHistory(t, d, s, image29{id: img.ID, image: img}, ref)
		sameInspect(t, d, ref, d.Run(t, "image", "inspect", ref), s.Run(t, "inspect", ref), image29{id: img.ID, image: img})
		harness.CheckImage(t, m, img)
	}
	d.Stop(t)
	s.Run(t, "check")
}
