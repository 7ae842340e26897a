package containerd

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	digest "github.com/opencontainers/go-digest"
	"go.etcd.io/bbolt"

	"imagefs/store"
	"imagefs/store/prune"
	"imagefs/store/report"
	"imagefs/store/storetest"
	"imagefs/store/union"
)

func TestLiveNames(t *testing.T) {
	s, d := living(t)
	ids := names(t, s).Tags
	known := d.known("docker.io/library/app:1")
	if err := s.Tag(background, "localhost:5000/x/y:2", ids["app:1"]); err != nil {
		t.Error(err)
	}
	d.was("tag", "POST /images/"+known+"/tag?repo=localhost:5000/x/y&tag=2")
	if err := s.Tag(background, "multi:2", ids["multi:1"]); err != nil || d.known("docker.io/library/multi:2") != d.known("docker.io/library/multi:1") {
		t.Errorf("a tag of several platforms: %v", err)
	}
	d.asked = nil
	if err := s.Untag(background, "team/app:1"); err != nil {
		t.Error(err)
	}
	d.was("untag", "DELETE /images/docker.io/team/app:1?noprune=1")
	if err := s.Rename(background, map[string]string{"app:1": "only:1", "only:1": "app:1"}); err != nil {
		t.Error(err)
	}
	if n := names(t, s).Tags; n["app:1"] != ids["only:1"] || n["only:1"] != ids["app:1"] {
		t.Errorf("names that were exchanged: %v", n)
	}
	if err := s.Rename(background, map[string]string{"multi:2": "multi:3"}); err != nil {
		t.Error(err)
	}
	if n := names(t, s).Tags; n["multi:3"] != ids["multi:1"] || n["multi:2"] != "" {
		t.Errorf("a name that was moved: %v", n)
	}
	d.asked = nil
	for what, c := range map[string]struct {
		err  error
		want error
	}{
		"tag of no image":     {s.Tag(background, "x:1", digest.FromString("x")), store.ErrNotFound},
		"tag without a tag":   {s.Tag(background, "x", ids["app:1"]), store.ErrInvalid},
		"untag of no name":    {s.Untag(background, "no:1"), store.ErrNotFound},
		"untag of a digest":   {s.Untag(background, "only@"+known), store.ErrUnsupported},
		"rename of no name":   {s.Rename(background, map[string]string{"no:1": "x:1"}), store.ErrNotFound},
		"rename to no name":   {s.Rename(background, map[string]string{"app:1": "X"}), store.ErrInvalid},
		"removal of no image": {second(s.Remove(background, "no:1", true)), store.ErrNotFound},
	} {
		if !errors.Is(c.err, c.want) {
			t.Errorf("%s: %v, want %v", what, c.err, c.want)
		}
	}
	d.was("what cannot be")
}

func second[T any](_ T, err error) error { return err }

// The last name goes to an image without layers, which is removed by its own ID.
func TestLiveUntagLast(t *testing.T) {
	s, d := living(t)
	id := names(t, s).Tags["only:1"]
	if err := s.Untag(background, "only:1"); err != nil {
		t.Fatal(err)
	}
	if len(d.asked) != 3 || d.asked[0] != "POST /images/load?quiet=1" || !strings.HasSuffix(d.asked[1], "/tag?repo=only&tag=1") || !strings.HasPrefix(d.asked[2], "DELETE /images/sha256:") || !strings.HasSuffix(d.asked[2], "?force=1") {
		t.Errorf("the daemon was asked %q", d.asked)
	}
	n := names(t, s)
	if n.Tags["only:1"] != "" {
		t.Error("the name is still there")
	}
	contains(t, get(t, s, id), "app", "y")
	if ids, err := s.IDs(background); err != nil || len(ids) != 4 {
		t.Errorf("%q %v: the empty image stayed", ids, err)
	}
	if err := s.Tag(background, "again:1", id); err != nil || names(t, s).Tags["again:1"] != id {
		t.Errorf("a name for an image that had none: %v", err)
	}
	d.load = func(map[string][]byte) any { return map[string]string{"error": "no room"} }
	if err := s.Untag(background, "again:1"); err == nil || !strings.Contains(err.Error(), "no room") {
		t.Error(err)
	}
}

func TestLiveRemove(t *testing.T) {
	s, d := living(t)
	ids := names(t, s).Tags
	before, err := s.IDs(background)
	if err != nil {
		t.Fatal(err)
	}
	foretold, errs, err := s.Preview(background, store.Removal{Ref: "team/app:1", Still: ids["app:1"]}, store.Removal{Ref: "app:1"},
		store.Removal{Ref: string(ids["multi:1"])}, store.Removal{Ref: "only:1", Still: ids["app:1"]}, store.Removal{Ref: "app:1"})
	if err != nil || errs[0] != nil || errs[1] != nil || errs[2] != nil || !errors.Is(errs[3], store.ErrNotFound) || !errors.Is(errs[4], store.ErrNotFound) {
		t.Fatalf("%v %v", errs, err)
	}
	d.was("preview")
	known := d.known("docker.io/library/app:1")
	d.containers = `[{"Id":"0123456789abcdef","ImageID":"` + known + `"}]`
	if _, errs, err := s.Preview(background, store.Removal{Ref: string(ids["app:1"])}, store.Removal{Ref: "team/app:1"}, store.Removal{Ref: "app:1"}); err != nil ||
		!errors.Is(errs[0], store.ErrBusy) || errs[1] != nil || !errors.Is(errs[2], store.ErrBusy) || !strings.Contains(errs[2].Error(), "0123456789ab is") {
		t.Errorf("of a container's image: %v %v", errs, err)
	}
	var arm digest.Digest
	for _, id := range before {
		if !slices.Contains(slices.Collect(maps.Values(ids)), id) {
			arm = id
		}
	}
	for _, what := range []string{string(arm), "multi@" + manifestOf(t, s, arm)} {
		if _, err := s.Remove(background, what, true); !errors.Is(err, store.ErrNotFound) || !strings.Contains(err.Error(), "goes with that") {
			t.Errorf("one platform of several: %v", err)
		}
	}
	d.was("what cannot be removed")
	// What is left on disk is not what the store has any more.
	for n, ref := range []string{"team/app:1", "app:1", string(ids["multi:1"])} {
		got, err := s.Remove(background, ref, false)
		if err != nil {
			t.Fatal(err)
		}
		d.asked = nil
		onlyImages := func(r []digest.Digest) []digest.Digest {
			return slices.DeleteFunc(slices.Clone(r), func(d digest.Digest) bool { return !slices.Contains(before, d) })
		}
		if want := foretold[n]; !slices.Equal(got.Untagged, want.Untagged) || !slices.Equal(onlyImages(got.Deleted), onlyImages(want.Deleted)) {
			t.Errorf("%s: %+v, foretold %+v", ref, got, want)
		}
	}
	if got := foretold[1].Deleted; len(got) != 2 || got[0] != ids["app:1"] { // the lower layer is others' too
		t.Errorf("deleted with app:1: %q", got)
	}
	if got := foretold[2].Deleted; len(got) < 2 || got[0] != ids["multi:1"] || !slices.Contains(got, arm) {
		t.Errorf("deleted with multi:1: %q", got)
	}
	if left, err := s.IDs(background); err != nil || !slices.Equal(left, []digest.Digest{ids["only:1"]}) {
		t.Errorf("%q %v are left", left, err)
	}
}

// manifestOf returns the digest of an image's manifest.
func manifestOf(t *testing.T, s *Store, id digest.Digest) string {
	t.Helper()
	return string(digest.FromBytes(get(t, s, id).(store.Manifester).RawManifest()))
}

func TestLiveLoad(t *testing.T) {
	s, d := living(t)
	img := app("new:1", "linux/amd64", "z")
	storetest.Fill(t, s, img)
	d.was("load", "POST /images/load?quiet=1")
	contains(t, get(t, s, img.ID()), "app", "z")
	if names(t, s).Tags["new:1"] != img.ID() {
		t.Error("the image has no name")
	}
	d.load = func(map[string][]byte) any { return map[string]string{"stream": "Loaded"} }
	in, err := s.Ingest(background)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Abort()
	lost := app("lost:1", "linux/amd64", "lost")
	if err := storetest.Commit(in, lost); err == nil || !strings.Contains(err.Error(), "is not there") {
		t.Errorf("an image that did not come: %v", err)
	}
	d.info["DriverStatus"] = nil
	if err := storetest.Commit(in, lost); !errors.Is(err, store.ErrBusy) {
		t.Errorf("a daemon that is none any more: %v", err)
	}
}

// With images of several namespaces names start with them, and only Docker's are its own to change.
func TestLiveNamespaces(t *testing.T) {
	s, d := living(t, "k8s.io")
	n := names(t, s).Tags
	if err := s.Tag(background, "moby/app:2", n["moby/app:1"]); err != nil || d.known("docker.io/library/app:2") == "" {
		t.Error(err)
	}
	if got, err := s.Remove(background, "moby/app:2", false); err != nil || !slices.Equal(got.Untagged, []string{"moby/app:2"}) {
		t.Errorf("%+v %v", got, err)
	}
	if err := s.Untag(background, "moby/only:1"); err != nil || names(t, s).Tags["moby/only:1"] != "" {
		t.Error(err)
	}
	d.asked = nil
	for what, err := range map[string]error{
		"tag":    s.Tag(background, "moby/x:1", n["k8s.io/foreign:1"]),
		"untag":  s.Untag(background, "k8s.io/foreign:1"),
		"rename": s.Rename(background, map[string]string{"k8s.io/foreign:1": "moby/x:1"}),
		"remove": second(s.Remove(background, "k8s.io/foreign:1", false)),
		"by ID":  second(s.Remove(background, string(n["k8s.io/foreign:1"]), true)),
	} {
		if !errors.Is(err, store.ErrUnsupported) || !strings.Contains(err.Error(), "namespace k8s.io, Docker's is moby") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := s.Tag(background, "x:1", n["moby/app:1"]); !errors.Is(err, store.ErrInvalid) || !strings.Contains(err.Error(), "start with moby/") {
		t.Error(err)
	}
	d.was("what is not Docker's")
}

// A daemon that is not shown to have its images here is not asked.
func TestLiveOthers(t *testing.T) {
	for says, change := range map[string]func(s *Store, d *fakeDocker){
		"keeps its images below":                    func(_ *Store, d *fakeDocker) { d.info["DriverStatus"] = [][2]string{{"Backing Filesystem", "extfs"}} },
		"does not say where its containerd answers": func(_ *Store, d *fakeDocker) { delete(d.info, "Containerd") },
		"no such file": func(_ *Store, d *fakeDocker) {
			d.info["Containerd"] = map[string]any{"Address": "/nope", "Namespaces": map[string]string{"Containers": "moby"}}
		},
		"another store": func(_ *Store, d *fakeDocker) { d.db.Close() },
		"--docker-host": func(s *Store, _ *fakeDocker) { s.opts.Hosts = []string{"unix:///nope"} },
		"which imagefs only reads: use docker, nerdctl": func(s *Store, _ *fakeDocker) { s.opts.Hosts = nil; t.Setenv("DOCKER_HOST", "unix:///nope") },
		"was opened read-only":                          func(s *Store, _ *fakeDocker) { s.opts.ReadOnly = true },
	} {
		s, d := living(t)
		id := names(t, s).Tags["app:1"]
		if st := s.State(); st.Fixed != nil {
			t.Errorf("before: %v", st.Fixed)
		}
		change(s, d)
		want := store.ErrUnsupported
		if s.opts.ReadOnly {
			want = store.ErrReadOnly
		}
		for what, err := range map[string]error{
			"tag": s.Tag(background, "x:1", id), "untag": s.Untag(background, "app:1"), "rename": s.Rename(background, map[string]string{"app:1": "x:1"}),
			"remove": second(s.Remove(background, "app:1", true)), "load": second(s.Ingest(background)), "state": s.State().Fixed,
		} {
			if !errors.Is(err, want) || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%s: %s: %v", says, what, err)
			}
		}
		if _, _, err := s.Preview(background); !errors.Is(err, want) {
			t.Errorf("%s: preview: %v", says, err)
		}
		d.was(says)
	}
}

// duplicate adds another manifest of an image, which has the name full, and returns its digest.
func (d *fakeDocker) duplicate(s *Store, id digest.Digest, full string) digest.Digest {
	d.t.Helper()
	raw := get(d.t, s, id).(store.Manifester).RawManifest()
	target := d.root.layout.Blob(storetest.TypeManifest, append([]byte(" "), raw...)).Digest
	d.root.images = nil // they are there
	d.root.write()
	if full == "" {
		full = dangling + "@" + string(target)
	}
	d.update(func(images *bbolt.Bucket) error { return name(images, full, string(target)) })
	d.asked = nil
	return target
}

// Docker calls an image by its manifest: two of one config are two images to it.
func TestLiveDuplicates(t *testing.T) {
	s, d := living(t)
	id := names(t, s).Tags["only:1"]
	known := digest.Digest(d.known("docker.io/library/only:1"))
	other := d.duplicate(s, id, "")
	if got, err := s.Remove(background, other.Encoded()[:12], true); err != nil || len(got.Untagged) > 0 {
		t.Errorf("the one without a name: %+v %v", got, err)
	}
	d.was("the one without a name", "DELETE /images/"+string(other)+"?force=1")
	d.duplicate(s, id, "")
	foretold, errs, err := s.Preview(background, store.Removal{Ref: string(id)})
	if err != nil || errs[0] != nil {
		t.Fatal(errs, err)
	}
	got, err := s.Remove(background, string(id), false)
	if err != nil || !slices.Equal(got.Untagged, []string{"only:1"}) || len(got.Deleted) == 0 || got.Deleted[0] != id {
		t.Errorf("both, by ID: %+v %v", got, err)
	}
	if !slices.Equal(foretold[0].Untagged, got.Untagged) || foretold[0].Deleted[0] != id {
		t.Errorf("both, by ID: foretold %+v", foretold)
	}
	if len(d.asked) != 2 || !slices.Contains(d.asked, "DELETE /images/"+string(known)) {
		t.Errorf("both, by ID: the daemon was asked %q", d.asked)
	}
	app := names(t, s).Tags["app:1"]
	d.duplicate(s, app, "docker.io/library/twice:1")
	if _, err := s.Remove(background, string(app), false); !errors.Is(err, store.ErrBusy) {
		t.Errorf("names for two of them: %v", err)
	}
	// Of an index and a manifest in it the index is named, which loses nothing.
	multi := names(t, s).Tags["multi:1"]
	d.update(func(images *bbolt.Bucket) error {
		return name(images, "docker.io/library/a:1", manifestOf(t, s, multi))
	})
	if err := s.Tag(background, "x:1", multi); err != nil || d.known("docker.io/library/x:1") != d.known("docker.io/library/multi:1") {
		t.Errorf("a tag of an index: %v", err)
	}
}

// Records whose names are none to Docker keep no image there, and cannot be changed.
func TestLiveOtherNames(t *testing.T) {
	for _, other := range []string{"copy:1", "docker.io/library/only", "docker.io/copy:1", "docker.io/library/only@" + string(digest.FromString("x"))} {
		s, d := living(t)
		known := d.known("docker.io/library/only:1")
		d.update(func(images *bbolt.Bucket) error { return name(images, other, known) })
		if err := s.Untag(background, "only:1"); err != nil {
			t.Error(err)
		}
		if slices.Contains(d.asked, "DELETE /images/docker.io/library/only:1?noprune=1") {
			t.Errorf("with %s the image would go with its last name: %q", other, d.asked)
		}
		_, errs, err := s.Preview(background, store.Removal{Ref: "app:1"}, store.Removal{Ref: "team/app:1"})
		if err != nil || errs[0] != nil || errs[1] != nil {
			t.Error(errs, err)
		}
	}
	for what, change := range map[string]func(images *bbolt.Bucket, known string) error{
		"in another form": func(b *bbolt.Bucket, known string) error {
			return errors.Join(b.DeleteBucket([]byte("docker.io/library/only:1")), name(b, "only:1", known))
		},
		"of a digest that is none": func(b *bbolt.Bucket, _ string) error { return name(b, "docker.io/library/only:1", "sha256:abc") },
		"of no digest":             func(b *bbolt.Bucket, _ string) error { return name(b, "docker.io/library/only:1", "") },
	} {
		s, d := living(t)
		known := d.known("docker.io/library/only:1")
		d.update(func(images *bbolt.Bucket) error { return change(images, known) })
		d.asked = nil
		id := names(t, s).Tags["only:1"]
		refused := map[string]error{
			"untag": s.Untag(background, "only:1"), "rename": s.Rename(background, map[string]string{"only:1": "x:1"}),
			"remove": second(s.Remove(background, "only:1", true)),
		}
		if what != "in another form" {
			refused["tag"], refused["by ID"] = s.Tag(background, "x:1", id), second(s.Remove(background, string(id), true))
		}
		_, errs, err := s.Preview(background, store.Removal{Ref: "only:1"}, store.Removal{Ref: string(id)})
		if err != nil || errs[0] == nil {
			t.Errorf("a name %s: preview: %v %v", what, errs, err)
		}
		for how, err := range refused {
			if !errors.Is(err, store.ErrUnsupported) && !errors.Is(err, store.ErrNotFound) {
				t.Errorf("a name %s: %s: %v", what, how, err)
			}
		}
		d.was("a name " + what)
	}
}

// What is not Docker's stays, and is no reason to stop.
func TestLivePrune(t *testing.T) {
	for _, dry := range []bool{true, false} {
		s, _ := living(t, "k8s.io")
		got, err := prune.Run(background, s, prune.Options{Filter: prune.Filter{All: true}, DryRun: dry})
		if err != nil || len(got.Failed) > 0 {
			t.Errorf("%+v %v", got, err)
		}
		var gone []string
		for _, r := range got.Removed {
			gone = append(gone, r.Untagged...)
		}
		slices.Sort(gone)
		if want := []string{"moby/app:1", "moby/multi:1", "moby/only:1", "moby/team/app:1"}; !slices.Equal(gone, want) {
			t.Errorf("dry run %v: %q went, want %q", dry, gone, want)
		}
		if got := len(names(t, s).Tags); dry && got != 5 || !dry && got != 1 {
			t.Errorf("dry run %v: %d names are left", dry, got)
		}
	}
	s, _ := living(t)
	id := names(t, s).Tags["only:1"]
	if _, errs, err := s.Preview(background, store.Removal{Ref: string(id), Still: id}); err != nil || !errors.Is(errs[0], store.ErrBusy) {
		t.Errorf("an ID that has a name: %v %v", errs, err)
	}
}

// A part that has an image, and not as one that it could change, does not hide one that could.
func TestLiveUnion(t *testing.T) {
	a, da := living(t)
	b, db := living(t)
	var arm digest.Digest
	for _, id := range names(t, a).Digests {
		if !slices.Contains(slices.Collect(maps.Values(names(t, a).Tags)), id) {
			arm = id
		}
	}
	manifest := manifestOf(t, b, arm)
	db.update(func(images *bbolt.Bucket) error {
		return errors.Join(images.DeleteBucket([]byte("docker.io/library/multi:1")), name(images, "docker.io/library/arm:1", manifest))
	})
	u, err := union.New([]store.Part{{Name: "a", Path: a.Root(), Store: a}, {Name: "b", Path: b.Root(), Store: b}}, union.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := u.(store.Tagger).Tag(background, "arm:2", arm); err != nil {
		t.Error(err)
	}
	da.was("what it cannot do")
	if _, err := u.(store.Remover).Remove(background, string(arm), true); err != nil || len(db.asked) != 2 {
		t.Errorf("%v; the second was asked %q", err, db.asked)
	}
	other := db.duplicate(b, names(t, b).Tags["only:1"], "")
	da.duplicate(a, names(t, a).Tags["app:1"], "")
	if _, err := u.(store.Remover).Remove(background, other.Encoded()[:20], true); err != nil || !slices.Equal(append(da.asked, db.asked...), []string{"DELETE /images/" + string(other) + "?force=1"}) {
		t.Errorf("an engine's digest: %v; asked %q %q", err, da.asked, db.asked)
	}
	// What a part's image can tell beside what all can.
	multi := names(t, a).Tags["multi:1"]
	img, err := u.Image(background, multi)
	if err != nil {
		t.Fatal(err)
	}
	own := get(t, a, multi).(interface {
		store.Manifester
		report.Graph
	})
	if g, ok := img.(store.Grouped); !ok || !slices.Equal(g.Group(), []digest.Digest{arm}) {
		t.Error("the platforms of an index are not one group")
	}
	if m, ok := img.(store.Manifester); !ok || len(own.RawManifest()) == 0 || string(m.RawManifest()) != string(own.RawManifest()) {
		t.Error("the manifest is lost")
	}
	driver, _ := own.Graph()
	if g, ok := img.(report.Graph); !ok {
		t.Error("the driver is lost")
	} else if d, _ := g.Graph(); d != driver {
		t.Errorf("the driver is %q, was %q", d, driver)
	}
}
