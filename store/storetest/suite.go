package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	digest "github.com/opencontainers/go-digest"

	"imagefs/store"
)

// Contents is what the store under test holds, as the test that made it knows.
type Contents struct {
	Images []Held
	// Broken are images that the store lists and that are not whole, each with a
	// word of what Err is to say.
	Broken map[digest.Digest]string
	// Loose has owners, times, modes, links' counts and extended attributes not
	// compared: the store was written by somebody who could not keep them.
	Loose bool
	// Damaged tells that Check finds something although all images are whole.
	Damaged bool
	// NoTar tells that the store cannot give the tars of its layers back.
	NoTar bool
}

// Run checks that a store is what package store says a store is, and that it
// shows just what it holds. Each check opens the store anew.
func Run(t *testing.T, open func(t testing.TB) store.Store, want Contents) {
	s := suite{want: want}
	for _, c := range []struct {
		name  string
		check func(t *testing.T, st store.Store)
	}{
		{"names", s.names}, {"IDs", s.ids}, {"images", s.images}, {"broken images", s.broken}, {"what is not there", s.absent},
		{"layers", s.layers}, {"trees", s.trees}, {"tars", s.tars}, {"optional interfaces", s.optional}, {"many at once", s.atOnce},
	} {
		t.Run(c.name, func(t *testing.T) {
			st := open(t)
			before := fingerprint(t, st.Root())
			c.check(t, st)
			if err := st.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
			if after := fingerprint(t, st.Root()); !slices.Equal(before, after) {
				t.Errorf("looking at the store changed it: %s", firstDiff(before, after))
			}
		})
	}
	t.Run("close", func(t *testing.T) { s.closes(t, open) })
}

type suite struct{ want Contents }

var background = context.Background()

func (s *suite) names(t *testing.T, st store.Store) {
	got, err := st.Names(background)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]digest.Digest{}
	for _, h := range s.want.Images {
		for _, n := range h.Names {
			want[n] = h.id()
		}
	}
	for ref, id := range want {
		if got.Tags[ref] != id {
			t.Errorf("%s names %q, want %s", ref, got.Tags[ref], id)
		}
	}
	for ref, id := range got.Tags {
		if _, broken := s.want.Broken[id]; want[ref] == "" && !broken {
			t.Errorf("%s names %s and should not be there", ref, id)
		}
		if familiar, err := store.FamiliarTag(ref); err != nil || familiar != ref {
			t.Errorf("%s is no familiar reference with a tag: %q %v", ref, familiar, err)
		}
	}
	for ref, id := range got.Digests {
		if familiar, err := store.FamiliarDigest(ref); err != nil || familiar != ref || !s.has(id) {
			t.Errorf("%s is no familiar digest reference of an image that is there: %q %v", ref, familiar, err)
		}
	}
	for alias, id := range got.Aliases {
		if alias.Validate() != nil || alias == id || !s.has(id) {
			t.Errorf("%s is no alias of an image that is there, but of %s", alias, id)
		}
	}
}

func (s *suite) has(id digest.Digest) bool {
	_, broken := s.want.Broken[id]
	return broken || slices.ContainsFunc(s.want.Images, func(h Held) bool { return h.id() == id })
}

func (s *suite) ids(t *testing.T, st store.Store) {
	got, err := st.IDs(background)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.IsSorted(got) || len(slices.Compact(slices.Clone(got))) != len(got) {
		t.Errorf("not sorted, or one twice: %s", got)
	}
	for _, id := range got {
		if !s.has(id) {
			t.Errorf("%s should not be there", id)
		}
	}
	for _, h := range s.want.Images {
		if !slices.Contains(got, h.id()) {
			t.Errorf("%s, %q, is missing", h.id(), h.Names)
		}
	}
	for id := range s.want.Broken {
		if !slices.Contains(got, id) {
			t.Errorf("%s, which is broken, is missing", id)
		}
	}
}

// each calls do with every image that is whole.
func (s *suite) each(t *testing.T, st store.Store, do func(h Held, img store.Image)) {
	t.Helper()
	for _, h := range s.want.Images {
		img, err := st.Image(background, h.id())
		if err != nil {
			t.Errorf("image %q: %v", h.Names, err)
			continue
		}
		if len(img.Layers()) != len(h.Layers) {
			t.Errorf("image %q has %d layers, want %d: %v", h.Names, len(img.Layers()), len(h.Layers), img.Err())
			continue
		}
		do(h, img)
	}
}

func (s *suite) images(t *testing.T, st store.Store) {
	s.each(t, st, func(h Held, img store.Image) {
		if img.Err() != nil {
			t.Errorf("image %q: %v", h.Names, img.Err())
		}
		if img.ID() != h.id() || !bytes.Equal(img.RawConfig(), h.Config()) {
			t.Errorf("image %q: ID %s with the config %.200q, want %s with %.200q", h.Names, img.ID(), img.RawConfig(), h.id(), h.Config())
		}
		c := img.Config()
		platform := strings.Trim(c.OS+"/"+c.Architecture+"/"+c.Variant, "/")
		if want := h.Platform; platform != want && (want != "" || platform != "linux/amd64") {
			t.Errorf("image %q: platform %s, want %s", h.Names, platform, want)
		}
		if !c.Created.Equal(Time) || !slices.Equal(c.DiffIDs, h.DiffIDs()) {
			t.Errorf("image %q: made %s of %s", h.Names, c.Created, c.DiffIDs)
		}
		for n, l := range img.Layers() {
			if l.DiffID() != h.DiffIDs()[n] || l.ChainID() != store.ChainID(h.DiffIDs()[:n+1]) {
				t.Errorf("image %q: layer %d is %s in the chain %s", h.Names, n, l.DiffID(), l.ChainID())
			}
			if l.Size() < -1 || l.Digest() != "" && l.Digest().Validate() != nil {
				t.Errorf("image %q: layer %d: size %d, digest %q", h.Names, n, l.Size(), l.Digest())
			}
		}
	})
}

func (s *suite) broken(t *testing.T, st store.Store) {
	for id, word := range s.want.Broken {
		img, err := st.Image(background, id)
		if err != nil {
			t.Errorf("broken image %s: %v, want what is intact of it", id, err)
			continue
		}
		if err := img.Err(); err == nil || !errors.Is(err, store.ErrCorrupt) || !strings.Contains(err.Error(), word) {
			t.Errorf("broken image %s: %v, want an error with %q", id, err, word)
		}
		if raw := img.RawConfig(); raw != nil && digest.FromBytes(raw) != id && !s.renamed(id) {
			t.Errorf("broken image %s shows a config that does not hash to it", id)
		}
		// What is asked of its layers may fail and must come back.
		for _, l := range img.Layers() {
			if ix, err := l.Index(background); err == nil {
				_, _ = readAll(l, ix)
			}
			_, _ = l.TarSize(background)
			if f, err := l.Tar(background); err == nil {
				_, _ = io.Copy(io.Discard, io.NewSectionReader(f, 0, f.Size()))
				f.Close()
			}
		}
	}
}

// renamed tells whether the store has IDs of its own.
func (s *suite) renamed(id digest.Digest) bool {
	return slices.ContainsFunc(s.want.Images, func(h Held) bool { return h.As != "" })
}

func (s *suite) absent(t *testing.T, st store.Store) {
	none := digest.FromString("no image has this config")
	if img, err := st.Image(background, none); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("an image that is not there: %v %v", img, err)
	}
	for _, id := range []digest.Digest{"", "sha256:", "sha256:../../../etc/passwd", "sha256:abc", digest.Digest("sha512:" + none.Encoded()), digest.Digest(none.Encoded())} {
		if img, err := st.Image(background, id); !errors.Is(err, store.ErrNotFound) && !errors.Is(err, store.ErrInvalid) {
			t.Errorf("the image %q: %v %v", id, img, err)
		}
	}
	if st.Root() != "" && !filepath.IsAbs(st.Root()) {
		t.Errorf("its root is %q", st.Root())
	}
}

func (s *suite) optional(t *testing.T, st store.Store) {
	if w, ok := st.(store.Watcher); ok {
		ctx, stop := context.WithCancel(background)
		events, err := w.Watch(ctx)
		if err != nil {
			t.Fatalf("watch: %v", err)
		}
		stop()
		end := time.After(30 * time.Second)
		for open := true; open; {
			select {
			case _, open = <-events:
			case <-end:
				t.Fatal("watch does not end with its context")
			}
		}
	}
	if c, ok := st.(store.Checker); ok {
		var found []string
		err := c.Check(background, true, func(p store.Problem) { found = append(found, fmt.Sprintf("%s: %v", p.What, p.Err)) })
		if errors.Is(err, store.ErrUnsupported) {
			return // of a store whose parts cannot
		}
		if err != nil {
			t.Errorf("check: %v", err)
		}
		if (len(found) > 0) != (len(s.want.Broken) > 0 || s.want.Damaged) {
			t.Errorf("check found %q", found)
		}
	}
}

// atOnce lets several goroutines do everything at the same time.
func (s *suite) atOnce(t *testing.T, st store.Store) {
	var wg sync.WaitGroup
	for n := range 6 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(n), 1))
			held := slices.Clone(s.want.Images)
			r.Shuffle(len(held), func(i, j int) { held[i], held[j] = held[j], held[i] })
			for _, h := range held {
				img, err := st.Image(background, h.id())
				if err != nil {
					t.Errorf("image %q: %v", h.Names, err)
					return
				}
				for i, l := range img.Layers() {
					ix, err := l.Index(background)
					if err == nil {
						_, err = readAll(l, ix)
					}
					if err == nil && !s.want.NoTar {
						err = checkTar(l, h.Layers[i], r)
					}
					if err != nil {
						t.Errorf("image %q: layer %d: %v", h.Names, i, err)
					}
				}
			}
		})
	}
	wg.Wait()
}

// closes checks that a closed store holds no descriptor, and panics for nobody who still asks it.
func (s *suite) closes(t *testing.T, open func(t testing.TB) store.Store) {
	before := descriptors(t)
	st := open(t)
	var layers []store.Layer
	s.each(t, st, func(h Held, img store.Image) {
		for _, l := range img.Layers() {
			if ix, err := l.Index(background); err == nil {
				_, _ = readAll(l, ix)
			}
			layers = append(layers, l)
		}
	})
	if err := st.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	left := func() (out []string) {
		for fd, what := range descriptors(t) {
			// The runtime opens what it polls once and keeps it.
			if before[fd] != what && !strings.HasPrefix(what, "anon_inode:[event") {
				out = append(out, what)
			}
		}
		return out
	}
	for end := time.Now().Add(30 * time.Second); len(left()) > 0 && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
	if l := left(); len(l) > 0 {
		t.Errorf("left open: %q", l)
	}
	_, _ = st.Names(background)
	_, _ = st.IDs(background)
	for _, h := range s.want.Images {
		_, _ = st.Image(background, h.id())
	}
	for _, l := range layers {
		_, _ = l.Open(background, 1)
		_, _ = l.TarSize(background)
	}
}

func descriptors(t testing.TB) map[string]string {
	t.Helper()
	out := map[string]string{}
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if to, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil {
			out[e.Name()] = to
		}
	}
	return out
}

// fingerprint lists what is at a path: names, sizes, modes and times.
func fingerprint(t testing.TB, root string) []string {
	t.Helper()
	if root == "" {
		return nil
	}
	var out []string
	err := filepath.WalkDir(root, func(p string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		st, err := d.Info()
		if err == nil {
			out = append(out, fmt.Sprintf("%s %s %d %d", p, st.Mode(), st.Size(), st.ModTime().UnixNano()))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func firstDiff(a, b []string) string {
	for n := range max(len(a), len(b)) {
		x, y := "nothing", "nothing"
		if n < len(a) {
			x = a[n]
		}
		if n < len(b) {
			y = b[n]
		}
		if x != y {
			return fmt.Sprintf("%s, then %s", x, y)
		}
	}
	return ""
}
