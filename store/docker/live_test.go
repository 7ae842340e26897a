package docker

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"imagefs/store"
	"imagefs/store/daemon/api"
	"imagefs/store/storetest"
)

// fake is a daemon that lives on a store: it holds a lock and answers at a
// socket, and notes what it is asked.
type fake struct {
	host   string
	info   api.Daemon
	asked  []string                            // changes, as METHOD path
	answer func(http.ResponseWriter, string)   // to changes, nil: success
	took   map[string][]byte                   // the members of the last archive
	load   func(members map[string][]byte) any // what to say to an archive, nil: nothing
}

// living makes a store that a daemon lives on, which has app:v1 and app:v2 of one
// image and only:1 of another.
func living(t *testing.T) (*Store, *fake) {
	t.Helper()
	s := openNew(t)
	load(t, s, "1", []string{"app:v1", "app:v2"}, layerTar(t, "a=1"))
	load(t, s, "2", []string{"only:1"}, layerTar(t, "b=1"))
	if err := os.Mkdir(filepath.Join(s.path, "volumes"), 0o755); err != nil {
		t.Fatal(err)
	}
	db, err := os.Create(filepath.Join(s.path, "volumes/metadata.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	if err := unix.Flock(int(db.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	d := &fake{info: api.Daemon{ID: "the:id", Driver: "overlay2", DockerRootDir: s.path}}
	d.serve(t)
	s.opts.Hosts = []string{d.host}
	return s, d
}

func (d *fake) serve(t *testing.T) {
	d.host = storetest.ServeSocket(t, d)
}

func (d *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/info" {
		_ = json.NewEncoder(w).Encode(d.info)
		return
	}
	what := r.Method + " " + r.URL.String()
	d.asked = append(d.asked, what)
	if r.URL.Path == "/images/load" {
		d.took = map[string][]byte{}
		for in := tar.NewReader(r.Body); ; {
			h, err := in.Next()
			if err != nil {
				break
			}
			d.took[h.Name], _ = io.ReadAll(in)
		}
		_, _ = io.Copy(io.Discard, r.Body)
		if d.load != nil {
			_ = json.NewEncoder(w).Encode(d.load(d.took))
		}
		return
	}
	if d.answer != nil {
		d.answer(w, what)
	} else if r.Method == http.MethodDelete {
		fmt.Fprint(w, "[]")
	}
}

// was checks what the daemon was asked, and forgets it.
func (d *fake) was(t *testing.T, what string, want ...string) {
	t.Helper()
	if !slices.Equal(d.asked, want) {
		t.Errorf("%s: the daemon was asked\n\t%q, want\n\t%q", what, d.asked, want)
	}
	d.asked = nil
}

// unwritten returns a check that nothing below the root has changed.
func unwritten(t *testing.T, root string) func() {
	t.Helper()
	list := func() (out []string) {
		err := filepath.WalkDir(root, func(p string, e fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			st, err := e.Info()
			out = append(out, fmt.Sprint(p, st.Mode(), st.Size(), st.ModTime()))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	before := list()
	return func() {
		t.Helper()
		if after := list(); !slices.Equal(before, after) {
			t.Errorf("the data root was written\nbefore %q\nafter  %q", before, after)
		}
	}
}

func TestLiveChanges(t *testing.T) {
	s, d := living(t)
	app, only := idOfName(t, s, "app:v1"), idOfName(t, s, "only:1")
	check := unwritten(t, s.path)
	if err := s.Tag(ctx, "localhost:5000/x/y:1", app); err != nil {
		t.Error(err)
	}
	d.was(t, "tag", "POST /images/"+string(app)+"/tag?repo=localhost%3A5000%2Fx%2Fy&tag=1")
	if err := s.Untag(ctx, "app:v1"); err != nil {
		t.Error(err)
	}
	d.was(t, "untag", "DELETE /images/app:v1?noprune=1")
	if err := s.Untag(ctx, "app:v3"); !errors.Is(err, store.ErrNotFound) {
		t.Error(err)
	}
	if err := s.Rename(ctx, map[string]string{"app:v1": "b:1", "only:1": "c:1"}); err != nil {
		t.Error(err)
	}
	// The fake has not really tagged: only:1 is still the last name here.
	if a := d.asked; len(a) < 3 || a[0] != "POST /images/"+string(app)+"/tag?repo=b&tag=1" || a[1] != "POST /images/"+string(only)+"/tag?repo=c&tag=1" || a[2] != "DELETE /images/app:v1?noprune=1" {
		t.Errorf("rename: %q", a)
	}
	d.asked = nil
	if err := s.Rename(ctx, map[string]string{"app:v1": "only:1", "only:1": "app:v1"}); err != nil {
		t.Error(err)
	}
	d.was(t, "exchange", "POST /images/"+string(only)+"/tag?repo=app&tag=v1", "POST /images/"+string(app)+"/tag?repo=only&tag=1")

	d.answer = func(w http.ResponseWriter, what string) {
		fmt.Fprintf(w, `[{"Untagged":"only:1"},{"Deleted":"%s"},{"Deleted":"../x"},{}]`, only)
	}
	out, err := s.Remove(ctx, "only:1", true)
	if err != nil || !slices.Equal(out.Untagged, []string{"only:1"}) || !slices.Equal(out.Deleted, []digest.Digest{only}) {
		t.Errorf("%+v %v", out, err)
	}
	d.was(t, "remove", "DELETE /images/only:1?force=1")
	if _, err := s.Remove(ctx, only.Encoded()[:12], false); err != nil {
		t.Error(err)
	}
	d.was(t, "remove by ID", "DELETE /images/"+string(only))
	d.answer = func(w http.ResponseWriter, what string) {
		w.WriteHeader(http.StatusConflict)
		fmt.Fprint(w, `{"message":"conflict: unable to remove"}`)
	}
	if _, err := s.Remove(ctx, "only:1", false); !errors.Is(err, store.ErrBusy) || !strings.Contains(fmt.Sprint(err), "unable to remove") {
		t.Error(err)
	}
	check()
}

func idOfName(t *testing.T, s *Store, ref string) digest.Digest {
	t.Helper()
	n, err := s.Names(ctx)
	if err != nil || n.Tags[ref] == "" {
		t.Fatalf("%s: %v", ref, err)
	}
	return n.Tags[ref]
}

// savedImage is an image in the archive that the daemon is sent.
type savedImage struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// The last name goes to an image without layers, which is removed by its ID.
func TestLiveUntagLast(t *testing.T) {
	s, d := living(t)
	check := unwritten(t, s.path)
	if err := s.Untag(ctx, "only:1"); err != nil {
		t.Fatal(err)
	}
	var m []savedImage
	if err := json.Unmarshal(d.took["manifest.json"], &m); err != nil || len(m) != 1 || !slices.Equal(m[0].RepoTags, []string{"only:1"}) || len(m[0].Layers) != 0 {
		t.Fatalf("%+v %v", m, err)
	}
	config := d.took[m[0].Config]
	if cfg, err := store.ParseConfig(config); err != nil || len(cfg.DiffIDs) != 0 {
		t.Errorf("%s %v", config, err)
	}
	d.was(t, "untag", "POST /images/load?quiet=1", "DELETE /images/"+string(digest.FromBytes(config))+"?force=1")

	d.load = func(map[string][]byte) any { return map[string]string{"error": "no room"} }
	if err := s.Untag(ctx, "only:1"); err == nil || !strings.Contains(err.Error(), "no room") {
		t.Error(err)
	}
	d.was(t, "a failing untag", "POST /images/load?quiet=1")
	d.load = nil
	d.answer = func(w http.ResponseWriter, what string) { w.WriteHeader(http.StatusInternalServerError) }
	if err := s.Untag(ctx, "only:1"); err == nil || !strings.Contains(err.Error(), "only:1 names an empty image now") {
		t.Error(err)
	}
	check()
}

// A digest reference goes as long as the image has another name.
func TestLiveUntagDigest(t *testing.T) {
	s, d := living(t)
	id, ref := idOfName(t, s, "only:1"), "only@sha256:"+strings.Repeat("a", 64)
	write := func(names map[string]digest.Digest) {
		b, err := json.Marshal(repositories{map[string]map[string]digest.Digest{"only": names}})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.root.Write(overlay2.repos, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(map[string]digest.Digest{"only:1": id, ref: id})
	if err := s.Untag(ctx, ref); err != nil {
		t.Error(err)
	}
	d.was(t, "a digest", "DELETE /images/"+ref+"?noprune=1")
	// With the last tag goes the digest, as docker rmi has it, and then the image.
	if err := s.Untag(ctx, "only:1"); err != nil || len(d.asked) != 2 || !strings.HasPrefix(d.asked[0], "POST /images/load") {
		t.Errorf("%q %v", d.asked, err)
	}
	d.asked = nil
	write(map[string]digest.Digest{ref: id})
	if err := s.Untag(ctx, ref); !errors.Is(err, store.ErrBusy) {
		t.Error(err)
	}
	d.was(t, "the last digest")
}

func TestLiveLoad(t *testing.T) {
	s, d := living(t)
	check := unwritten(t, s.path)
	base, top := layerTar(t, "a=1"), layerTar(t, "new=1")
	if _, err := tryLoad(s, "3", []string{"three:1"}, base, top); err == nil || !strings.Contains(err.Error(), "not there") {
		t.Errorf("an image that did not come: %v", err)
	}
	d.was(t, "load", "POST /images/load?quiet=1")
	var m []savedImage
	if err := json.Unmarshal(d.took["manifest.json"], &m); err != nil || len(m) != 1 || !slices.Equal(m[0].RepoTags, []string{"three:1"}) || len(m[0].Layers) != 2 {
		t.Fatalf("%+v %v", m, err)
	}
	if got := d.took[m[0].Layers[1]]; string(got) != string(top) {
		t.Errorf("%d bytes of the layer, want %d", len(got), len(top))
	}
	check()

	d.load = func(in map[string][]byte) any {
		for name, b := range in {
			if strings.HasSuffix(name, ".json") && name != "manifest.json" {
				if err := os.WriteFile(filepath.Join(s.path, overlay2.content, strings.TrimSuffix(name, ".json")), b, 0o600); err != nil {
					t.Error(err)
				}
			}
		}
		return map[string]string{"stream": "Loaded"}
	}
	if _, err := tryLoad(s, "4", []string{"four:1"}, base, top); err != nil {
		t.Error(err)
	}
	finished := d.load
	d.load = func(in map[string][]byte) any { finished(in); return map[string]string{"error": "tired"} }
	if _, err := tryLoad(s, "5", nil, base); err == nil || !strings.Contains(err.Error(), "docker: tired; the daemon had finished the image sha256:") {
		t.Error(err)
	}
	d.asked = nil
	if _, err := tryLoad(s, "6", nil, []byte("no tar")); !errors.Is(err, store.ErrCorrupt) {
		t.Error(err)
	}
	d.was(t, "a layer that is none")
}

// Several removals are one request each, and a dry run is none.
func TestLiveRemoveEach(t *testing.T) {
	s, d := living(t)
	only := idOfName(t, s, "only:1")
	check := unwritten(t, s.path)
	out, errs, err := s.Preview(ctx, removals([]string{"only:1", "no:1"})...)
	if err != nil || errs[0] != nil || !errors.Is(errs[1], store.ErrNotFound) || !slices.Contains(out[0].Deleted, only) {
		t.Errorf("%+v %v %v", out, errs, err)
	}
	d.was(t, "preview")
	d.answer = func(w http.ResponseWriter, what string) {
		if strings.Contains(what, "only") {
			w.WriteHeader(http.StatusConflict)
			return
		}
		fmt.Fprint(w, `[{"Untagged":"app:v1"}]`)
	}
	out, errs, err = s.RemoveEach(ctx, removals([]string{"only:1", "app:v1"})...)
	if err != nil || !errors.Is(errs[0], store.ErrBusy) || errs[1] != nil || !slices.Equal(out[1].Untagged, []string{"app:v1"}) {
		t.Errorf("%+v %v %v", out, errs, err)
	}
	d.was(t, "remove each", "DELETE /images/only:1", "DELETE /images/app:v1")
	// What was named otherwise meanwhile is not asked for.
	_, errs, err = s.RemoveEach(ctx, store.Removal{Ref: string(only), Still: only}, store.Removal{Ref: "app:v1", Still: only})
	if err != nil || !errors.Is(errs[0], store.ErrBusy) || !errors.Is(errs[1], store.ErrNotFound) {
		t.Errorf("%v %v", errs, err)
	}
	d.was(t, "remove what is another image's")
	check()
}

func TestLiveState(t *testing.T) {
	s, d := living(t)
	if st := s.State(); !st.Daemon || st.Fixed != nil {
		t.Errorf("%+v", st)
	}
	d.info.DockerRootDir = t.TempDir()
	if st := s.State(); !st.Daemon || !errors.Is(st.Fixed, store.ErrReadOnly) {
		t.Errorf("%+v", st)
	}
	if _, _, err := s.Preview(ctx, store.Removal{Ref: "only:1"}); !errors.Is(err, store.ErrReadOnly) {
		t.Error(err)
	}
	d.info.DockerRootDir = s.path
	s.opts.ReadOnly = true
	if st := s.State(); !st.Daemon || !errors.Is(st.Fixed, store.ErrReadOnly) {
		t.Errorf("%+v", st)
	}
}
