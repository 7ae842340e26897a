package docker

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"imagefs/overlay"
	"imagefs/store"
)

var ctx = context.Background()

// layerTar packs files, one "name=content" each; a name that ends in / is a directory.
func layerTar(t testing.TB, files ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		name, content, _ := strings.Cut(f, "=")
		h := &tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(content)), ModTime: time.Unix(1700000000, 0)}
		if strings.HasSuffix(name, "/") {
			h.Typeflag, h.Mode = tar.TypeDir, 0o755
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func openNew(t testing.TB) *Store {
	t.Helper()
	s, err := Open(filepath.Join(t.TempDir(), "store"), Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// config makes an image config for layers.
func config(comment string, layers ...[]byte) []byte {
	var ids []digest.Digest
	for _, l := range layers {
		ids = append(ids, digest.FromBytes(l))
	}
	b, _ := json.Marshal(map[string]any{"architecture": "amd64", "os": "linux", "comment": comment, "rootfs": map[string]any{"type": "layers", "diff_ids": ids}})
	return b
}

// load puts an image into a store and returns its ID.
func load(t testing.TB, s *Store, comment string, names []string, layers ...[]byte) digest.Digest {
	t.Helper()
	id, err := tryLoad(s, comment, names, layers...)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func tryLoad(s *Store, comment string, names []string, layers ...[]byte) (digest.Digest, error) {
	in, err := s.Ingest(ctx)
	if err != nil {
		return "", err
	}
	defer in.Abort()
	img := store.NewImage{Config: config(comment, layers...), Names: names}
	var ids []digest.Digest
	for _, l := range layers {
		ids = append(ids, digest.FromBytes(l))
		nl := store.NewLayer{DiffID: digest.FromBytes(l)}
		if !in.HasLayer(store.ChainID(ids)) {
			if nl.Staged, err = in.Unpack(ctx, bytes.NewReader(l)); err != nil {
				return "", err
			}
		}
		img.Layers = append(img.Layers, nl)
	}
	return digest.FromBytes(img.Config), in.Commit(ctx, []store.NewImage{img})
}

func clean(t testing.TB, s *Store) {
	t.Helper()
	err := s.Check(ctx, true, func(p store.Problem) { t.Errorf("check: %s: %v", p.What, p.Err) })
	if err != nil {
		t.Fatal(err)
	}
}

func tree(t testing.TB, s *Store, id digest.Digest) *overlay.Tree {
	t.Helper()
	img, err := s.Image(ctx, id)
	if err != nil || img.Err() != nil {
		t.Fatal(err, img.Err())
	}
	var ls []overlay.Layer
	for _, l := range img.Layers() {
		ix, err := l.Index(ctx)
		if err != nil {
			t.Fatal(err)
		}
		ls = append(ls, ix)
	}
	tr, err := overlay.Merge(ls...)
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

func TestLoadAndRead(t *testing.T) {
	s := openNew(t)
	base := layerTar(t, "etc/=", "etc/passwd=root", "bin/sh=shell")
	top := layerTar(t, "etc/.wh.passwd=", "etc/group=g")
	id := load(t, s, "x", []string{"app:v1", "team/app:latest"}, base, top)
	clean(t, s)
	names, err := s.Names(ctx)
	if err != nil || names.Tags["app:v1"] != id || names.Tags["team/app:latest"] != id {
		t.Fatal(names, err)
	}
	tr := tree(t, s, id)
	if _, ok, _ := tr.Walk("etc/passwd"); ok {
		t.Error("whiteout does not hide")
	}
	n, ok, _ := tr.Walk("bin/sh")
	if !ok {
		t.Fatal("bin/sh is lost")
	}
	img, _ := s.Image(ctx, id)
	f, err := img.Layers()[n.Layer()].Open(ctx, n.Ino())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if b, _ := io.ReadAll(io.NewSectionReader(f, 0, f.Size())); string(b) != "shell" {
		t.Errorf("content %q", b)
	}
	for i, raw := range [][]byte{base, top} {
		tf, err := img.Layers()[i].Tar(ctx)
		if err != nil {
			t.Fatal(err)
		}
		h := sha256.New()
		if _, err := io.Copy(h, io.NewSectionReader(tf, 0, tf.Size())); err != nil || digest.NewDigest(digest.SHA256, h) != digest.FromBytes(raw) {
			t.Errorf("layer %d: tar differs %v", i, err)
		}
		tf.Close()
	}
	// A second load of the same changes nothing.
	before, _ := s.root.List(overlay2.home)
	load(t, s, "x", []string{"app:v1"}, base, top)
	if after, _ := s.root.List(overlay2.home); !slices.Equal(before, after) {
		t.Error("loading again made new layers")
	}
	clean(t, s)
}

func TestOneLayerUnderTwoParents(t *testing.T) {
	s := openNew(t)
	a, b, c := layerTar(t, "a=1", "d/=", "d/x=1"), layerTar(t, "b=2"), layerTar(t, "c=3", "d/c=4")
	in, err := s.Ingest(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Abort()
	stage := map[string]store.Staged{}
	for n, l := range map[string][]byte{"a": a, "b": b, "c": c} {
		if stage[n], err = in.Unpack(ctx, bytes.NewReader(l)); err != nil {
			t.Fatal(err)
		}
	}
	nl := func(n string) store.NewLayer { return store.NewLayer{DiffID: stage[n].DiffID(), Staged: stage[n]} }
	err = in.Commit(ctx, []store.NewImage{
		{Config: config("1", a, c), Layers: []store.NewLayer{nl("a"), nl("c")}},
		{Config: config("2", b, c, c), Layers: []store.NewLayer{nl("b"), nl("c"), nl("c")}},
	})
	if err != nil {
		t.Fatal(err)
	}
	clean(t, s)
	if ids, _ := s.IDs(ctx); len(ids) != 2 {
		t.Errorf("%d images", len(ids))
	}
}

func TestRemove(t *testing.T) {
	base, top, other := layerTar(t, "a=1"), layerTar(t, "b=2"), layerTar(t, "c=3")
	for name, c := range map[string]struct {
		remove   func(one, two digest.Digest) (string, bool)
		untagged []string
		deleted  int
		err      error
	}{
		"one of two tags":      {func(_, _ digest.Digest) (string, bool) { return "app:v1", false }, []string{"app:v1"}, 0, nil},
		"last tag":             {func(_, _ digest.Digest) (string, bool) { return "two:latest", false }, []string{"two:latest"}, 2, nil},
		"implied tag":          {func(_, _ digest.Digest) (string, bool) { return "two", false }, []string{"two:latest"}, 2, nil},
		"id, several repos":    {func(one, _ digest.Digest) (string, bool) { return one.Encoded(), false }, nil, 0, store.ErrBusy},
		"id, forced":           {func(one, _ digest.Digest) (string, bool) { return one.Encoded(), true }, []string{"app:v1", "zoo:v1"}, 2, nil},
		"id, one name":         {func(_, two digest.Digest) (string, bool) { return two.Encoded()[:12], false }, []string{"two:latest"}, 2, nil},
		"nothing of that name": {func(_, _ digest.Digest) (string, bool) { return "nix", false }, nil, 0, store.ErrNotFound},
		"no reference":         {func(_, _ digest.Digest) (string, bool) { return "A B", false }, nil, 0, store.ErrInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			s := openNew(t)
			one := load(t, s, "1", []string{"app:v1", "zoo:v1"}, base, top)
			two := load(t, s, "2", []string{"two:latest"}, base, other)
			ref, force := c.remove(one, two)
			got, err := s.Remove(ctx, ref, force)
			if !errors.Is(err, c.err) || (err == nil) != (c.err == nil) {
				t.Fatal(err)
			}
			if !slices.Equal(got.Untagged, c.untagged) || len(got.Deleted) != c.deleted {
				t.Errorf("%+v", got)
			}
			clean(t, s)
		})
	}
}

func TestRename(t *testing.T) {
	dig := "@sha256:" + strings.Repeat("ab", 32)
	for _, c := range []struct {
		what  string
		moves map[string]string
		want  string // names afterwards, of images x and y
		err   error
	}{
		{"in its repository", map[string]string{"a:2": "a:3"}, "a:1=x a:3=y a@=x b/c:1=x", nil},
		{"with the digest of its repository", map[string]string{"a:1": "n:1"}, "a:2=y b/c:1=x n:1=x", nil},
		{"within it, with the digest", map[string]string{"a:1": "a:0"}, "a:0=x a:2=y a@=x b/c:1=x", nil},
		{"onto another", map[string]string{"a:2": "a:1"}, "a:1=y a@=x b/c:1=x", nil},
		{"exchange", map[string]string{"a:2": "b/c:1", "b/c:1": "a:2"}, "a:1=x a:2=x a@=x b/c:1=y", nil},
		{"in a circle", map[string]string{"a:1": "a:2", "a:2": "b/c:1", "b/c:1": "a:1"}, "a:1=x a:2=x a@=x b/c:1=y", nil},
		{"several", map[string]string{"a:1": "n:1", "a:2": "n:2"}, "b/c:1=x n:1=x n:2=y", nil},
		{"to itself", map[string]string{"a:1": "a:1"}, "a:1=x a:2=y a@=x b/c:1=x", nil},
		{"what is not there", map[string]string{"a:1": "n:1", "a:9": "n:2"}, "", store.ErrNotFound},
		{"a digest", map[string]string{"a" + dig: "n:1"}, "", store.ErrNotFound},
		{"to a digest", map[string]string{"a:1": "n" + dig}, "", store.ErrInvalid},
		{"to no tag", map[string]string{"a:1": "n"}, "", store.ErrInvalid},
		{"to what is not familiar", map[string]string{"a:1": "docker.io/library/n:1"}, "", store.ErrInvalid},
	} {
		s := openNew(t)
		labels := map[digest.Digest]string{
			load(t, s, "x", []string{"a:1", "b/c:1"}, layerTar(t, "f=1")): "x",
			load(t, s, "y", []string{"a:2"}, layerTar(t, "f=1")):          "y",
		}
		names, _ := s.Names(ctx)
		if err := s.changeNames(map[string]digest.Digest{"a" + dig: names.Tags["a:1"]}, nil); err != nil {
			t.Fatal(err)
		}
		if err := s.Rename(ctx, c.moves); !errors.Is(err, c.err) {
			t.Errorf("%s: %v", c.what, err)
		}
		if c.err != nil {
			c.want = "a:1=x a:2=y a@=x b/c:1=x"
		}
		// What another process reads.
		other, err := Open(s.Root(), Options{ReadOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		if names, err = other.Names(ctx); err != nil {
			t.Fatal(err)
		}
		other.Close()
		var got []string
		for ref, id := range names.Tags {
			got = append(got, ref+"="+labels[id])
		}
		for ref, id := range names.Digests {
			got = append(got, strings.TrimSuffix(ref, dig[1:])+"="+labels[id])
		}
		slices.Sort(got)
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s: %q, want %q", c.what, got, c.want)
		}
	}
}

func TestTagAndUntag(t *testing.T) {
	s := openNew(t)
	id := load(t, s, "1", []string{"app:v1"}, layerTar(t, "a=1"))
	if err := s.Tag(ctx, "team/x:y", id); err != nil {
		t.Fatal(err)
	}
	if err := s.Tag(ctx, "team/x:y", digest.FromString("none")); !errors.Is(err, store.ErrNotFound) {
		t.Error(err)
	}
	if err := s.Tag(ctx, "docker.io/library/x:y", id); !errors.Is(err, store.ErrInvalid) {
		t.Error(err)
	}
	for _, ref := range []string{"team/x:y", "app:v1"} {
		if err := s.Untag(ctx, ref); err != nil {
			t.Error(err)
		}
	}
	if err := s.Untag(ctx, "app:v1"); !errors.Is(err, store.ErrNotFound) {
		t.Error(err)
	}
	if img, err := s.Image(ctx, id); err != nil || img.Err() != nil || img.LastTagged().IsZero() {
		t.Error("untagging deleted the image", err)
	}
}

func TestAbortLeavesNothing(t *testing.T) {
	s := openNew(t)
	good := layerTar(t, "a=1")
	if _, err := tryLoad(s, "1", []string{"app:v1"}, good, good[:512]); !errors.Is(err, store.ErrCorrupt) {
		t.Fatal(err)
	}
	in, _ := s.Ingest(ctx)
	st, err := in.Unpack(ctx, bytes.NewReader(good))
	if err != nil {
		t.Fatal(err)
	}
	err = in.Commit(ctx, []store.NewImage{{Config: config("x", layerTar(t, "b=2")), Layers: []store.NewLayer{{DiffID: st.DiffID(), Staged: st}}}})
	if !errors.Is(err, store.ErrCorrupt) {
		t.Error(err)
	}
	in.Abort()
	clean(t, s)
	for _, d := range []string{stageDir, overlay2.content, overlay2.layers, indexDir, journalDir} {
		if names, _ := s.root.List(d); len(names) != 0 {
			t.Errorf("%s: %v", d, names)
		}
	}
}

// TestJournalIsRedone cuts a load and a removal off after the record and lets another process finish.
func TestJournalIsRedone(t *testing.T) {
	s := openNew(t)
	in, _ := s.Ingest(ctx)
	l := layerTar(t, "a=1")
	st, err := in.Unpack(ctx, bytes.NewReader(l))
	if err != nil {
		t.Fatal(err)
	}
	g := in.(*ingest)
	c := commit{in: g, ctx: ctx, made: map[digest.Digest]*recordLayer{}, links: map[digest.Digest]string{}, indexes: map[digest.Digest]*layerIndex{},
		rec: record{Op: opLoad, Stage: g.name, Names: map[string]digest.Digest{}}}
	if err := c.image(store.NewImage{Config: config("x", l), Names: []string{"app:v1"}, Layers: []store.NewLayer{{DiffID: st.DiffID(), Staged: st}}}, map[digest.Digest]bool{}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.begin(c.rec); err != nil {
		t.Fatal(err)
	}
	g.end()
	s2, err := Open(s.path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s2.Close()
	clean(t, s2)
	id := digest.FromBytes(config("x", l))
	if names, _ := s2.Names(ctx); names.Tags["app:v1"] != id {
		t.Fatal("the load was not finished")
	}
	p, err := s2.planner(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.step(id, "app:v1", "app:v1", false); err != nil {
		t.Fatal(err)
	}
	if _, err := s2.begin(p.rec); err != nil {
		t.Fatal(err)
	}
	if err := s2.changeNames(nil, p.untagged); err != nil {
		t.Fatal(err)
	}
	s3, err := Open(s.path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s3.Close()
	clean(t, s3)
	if ids, _ := s3.IDs(ctx); len(ids) != 0 {
		t.Error("the removal was not finished")
	}
}

func TestHostileJournal(t *testing.T) {
	for _, j := range []string{`{"op":"remove","layers":[{"chain":"sha256:../../../etc","cache":"x"}]}`, `{"op":"remove","layers":[{"chain":"sha256:` + strings.Repeat("a", 64) + `","cache":"../../x"}]}`,
		`{"op":"load","stage":"../.."}`, `[`, `{"op":"format"}`} {
		s := openNew(t)
		if err := os.WriteFile(filepath.Join(s.path, journalDir, "1.json"), []byte(j), 0o600); err != nil {
			t.Fatal(err)
		}
		unlock, err := s.lock(ctx)
		if err != nil {
			t.Fatalf("%s: %v", j, err)
		}
		unlock()
		if names, err := s.root.List(journalDir); err != nil || len(names) != 1 || names[0] != "1.json"+damaged {
			t.Errorf("%s was accepted: %q %v", j, names, err)
		}
	}
}

func TestLiveStoreIsNotWritten(t *testing.T) {
	s := openNew(t)
	s.opts.Hosts = []string{}
	load(t, s, "1", []string{"app:v1"}, layerTar(t, "a=1"))
	if err := os.Mkdir(filepath.Join(s.path, "volumes"), 0o755); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(s.path, "volumes/metadata.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Remove(ctx, "app:v1", false); !errors.Is(err, store.ErrReadOnly) || !strings.Contains(fmt.Sprint(err), "daemon") {
		t.Error(err)
	}
	if _, err := tryLoad(s, "2", nil, layerTar(t, "b=1")); !errors.Is(err, store.ErrReadOnly) {
		t.Error(err)
	}
	if !s.Live() {
		t.Error("not live")
	}
	unix.Flock(int(f.Fd()), unix.LOCK_UN)
	if _, err := s.Remove(ctx, "app:v1", false); err != nil {
		t.Error(err)
	}
}

func TestBrokenIsShownAndHidesNothing(t *testing.T) {
	s := openNew(t)
	good := load(t, s, "good", []string{"good:1"}, layerTar(t, "a=1"))
	bad := load(t, s, "bad", []string{"bad:1"}, layerTar(t, "b=1"))
	worse := load(t, s, "worse", nil, layerTar(t, "c=1"))
	img, _ := s.Image(ctx, bad)
	l := img.Layers()[0].(*layerRec)
	if err := os.WriteFile(filepath.Join(s.path, overlay2.layers, l.chain.Encoded(), "cache-id"), []byte("../../../../etc"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.path, overlay2.content, worse.Encoded()), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	for id, broken := range map[digest.Digest]bool{good: false, bad: true, worse: true} {
		img, err := s.Image(ctx, id)
		if err != nil || broken != errors.Is(img.Err(), store.ErrCorrupt) {
			t.Errorf("%s: %v %v", id, err, img.Err())
		}
	}
	problems := 0
	if err := s.Check(ctx, false, func(store.Problem) { problems++ }); err != nil || problems == 0 {
		t.Error(problems, err)
	}
	// Loading the image again repairs it.
	load(t, s, "bad", []string{"bad:1"}, layerTar(t, "b=1"))
	if img, _ := s.Image(ctx, bad); img.Err() != nil {
		t.Error(img.Err())
	}
}

func TestWatch(t *testing.T) {
	s := openNew(t)
	wctx, cancel := context.WithCancel(ctx)
	ch, err := s.Watch(wctx)
	if err != nil {
		t.Fatal(err)
	}
	load(t, s, "1", []string{"app:v1"}, layerTar(t, "a=1"))
	select {
	case <-ch:
	case <-time.After(5 * time.Second):
		t.Error("nothing was told")
	}
	cancel()
	for range ch {
	}
}

func TestOpenErrors(t *testing.T) {
	dir := t.TempDir()
	if _, err := Open(filepath.Join(dir, "none"), Options{}); !errors.Is(err, store.ErrNotFound) {
		t.Error(err)
	}
	os.WriteFile(filepath.Join(dir, "file"), nil, 0o600)
	if _, err := Open(filepath.Join(dir, "file"), Options{Create: true}); !errors.Is(err, store.ErrInvalid) {
		t.Error(err)
	}
	if _, err := Open(dir, Options{Create: true}); !errors.Is(err, store.ErrNotFound) {
		t.Error("made a store in a directory that is in use:", err)
	}
	os.MkdirAll(filepath.Join(dir, "deep/er/image/btrfs/imagedb/content"), 0o755)
	if _, err := Open(dir, Options{}); !errors.Is(err, store.ErrUnsupported) || !strings.Contains(err.Error(), "btrfs") {
		t.Error(err)
	}
	os.MkdirAll(filepath.Join(dir, "deep/er/image/overlay2/imagedb/content/sha256"), 0o755)
	s, err := Open(dir, Options{})
	if err != nil || s.Root() != filepath.Join(dir, "deep/er") {
		t.Fatal(err)
	}
	s.Close()
}

func FuzzRepositories(f *testing.F) {
	f.Add([]byte(`{"Repositories":{"web":{"web:1":"sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}}}`))
	f.Add([]byte(`{"Repositories":{"..":{"../x:1":"sha256:zz"},"a":null}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseRepos(b)
		if err != nil {
			if !errors.Is(err, store.ErrCorrupt) {
				t.Fatal(err)
			}
			return
		}
		n := r.names(nil)
		for ref, id := range n.Tags {
			if got, err := store.FamiliarTag(ref); err != nil || got != ref || !store.IsID(id) {
				t.Fatalf("%q → %q", ref, id)
			}
		}
		for ref := range n.Digests {
			if _, err := store.FamiliarDigest(ref); err != nil {
				t.Fatalf("%q", ref)
			}
		}
	})
}
