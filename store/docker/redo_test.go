package docker

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"imagefs/store"
)

// reopened is the store as another process finds it, which finishes what is in the journal.
func reopened(t *testing.T, s *Store) *Store {
	t.Helper()
	again, err := Open(s.path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { again.Close() })
	return again
}

// leadsTo fails the test unless a name leads to an image that is whole.
func leadsTo(t *testing.T, s *Store, ref string, id digest.Digest) {
	t.Helper()
	names, err := s.Names(ctx)
	if err != nil || names.Tags[ref] != id {
		t.Errorf("%s: %q, %v; want %s", ref, names.Tags[ref], err, id)
	}
	readable(t, s, id)
}

// What a removal could not delete is deleted later; what was loaded in its place
// since then is another thing.
func TestRemovalLeavesSomething(t *testing.T) {
	s := openNew(t)
	l := layerTar(t, "a=1")
	id := load(t, s, "x", []string{"app:1"}, l)
	p, err := s.planner(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.step(id, "app:1", "app:1", false); err != nil {
		t.Fatal(err)
	}
	file, err := s.begin(p.rec)
	if err != nil {
		t.Fatal(err)
	}
	cache := p.rec.Layers[0].Cache
	if err := s.doRemove(p.rec); err != nil {
		t.Fatal(err)
	}
	// As it is if something in the layer's directory cannot be deleted.
	put(t, s, overlay2.home+"/"+cache+"/diff/a", "1")
	if err := s.finish(file, p.rec, fmt.Errorf("%w: %w", errLeft, unix.EBUSY)); err != nil {
		t.Fatal(err)
	}
	if again := load(t, s, "x", []string{"app:1"}, l); again != id {
		t.Fatal(again)
	}
	load(t, s, "y", []string{"other:1"}, layerTar(t, "b=2"))
	leadsTo(t, s, "app:1", id)
	if s.root.Exists(overlay2.home + "/" + cache) {
		t.Error("what was left is still there")
	}
	leadsTo(t, reopened(t, s), "app:1", id)
}

// Between the death of a process and the next an engine may have used the store.
func TestRedoAfterOthers(t *testing.T) {
	for what, then := range map[string]func(t *testing.T, s *Store, a, b digest.Digest){
		"the name leads to another image": func(t *testing.T, s *Store, a, b digest.Digest) {
			if err := s.changeNames(map[string]digest.Digest{"a:1": b}, nil); err != nil {
				t.Fatal(err)
			}
			again := reopened(t, s)
			leadsTo(t, again, "a:1", b)
			clean(t, again)
		},
		"the image has got another name": func(t *testing.T, s *Store, a, b digest.Digest) {
			if err := s.changeNames(map[string]digest.Digest{"a:2": a}, nil); err != nil {
				t.Fatal(err)
			}
			again := reopened(t, s)
			leadsTo(t, again, "a:2", a)
			if names, _ := again.Names(ctx); names.Tags["a:1"] != "" {
				t.Error("the name was not taken away")
			}
			clean(t, again)
		},
		"an image without a config has the layers": func(t *testing.T, s *Store, a, b digest.Digest) {
			low, _ := chainsOf(t, s, b)
			if err := os.Remove(filepath.Join(s.path, overlay2.content, b.Encoded())); err != nil {
				t.Fatal(err)
			}
			if !reopened(t, s).root.Exists(overlay2.layers + "/" + low.Encoded() + "/cache-id") {
				t.Error("one is gone")
			}
		},
	} {
		t.Run(what, func(t *testing.T) {
			s := openNew(t)
			l := layerTar(t, "a=1")
			a := load(t, s, "a", []string{"a:1"}, l)
			b := load(t, s, "b", []string{"b:1"}, l, layerTar(t, "b=1"))
			p, err := s.planner(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := p.step(a, "a:1", "a:1", false); err != nil {
				t.Fatal(err)
			}
			if _, err := s.begin(p.rec); err != nil {
				t.Fatal(err)
			}
			then(t, s, a, b)
		})
	}
}

// chainsOf returns the lowest and the highest chain ID of an image.
func chainsOf(t *testing.T, s *Store, id digest.Digest) (low, high digest.Digest) {
	t.Helper()
	chains, err := s.chains(id)
	if err != nil {
		t.Fatal(err)
	}
	return chains[0], chains[len(chains)-1]
}

// A load that is taken back leaves the layers that others need, whatever its record says.
func TestTakeBackLeavesOthers(t *testing.T) {
	s := openNew(t)
	l := layerTar(t, "a=1")
	a := load(t, s, "a", []string{"a:1"}, l)
	b := load(t, s, "b", []string{"b:1"}, l, layerTar(t, "b=1"))
	chain, _ := chainsOf(t, s, a)
	cache := get(t, s, overlay2.layers+"/"+chain.Encoded()+"/cache-id")
	link := get(t, s, overlay2.home+"/"+cache+"/link")
	// As docker rmi removes a, the layer being needed.
	if err := os.Remove(filepath.Join(s.path, overlay2.content, a.Encoded())); err != nil {
		t.Fatal(err)
	}
	if err := s.changeNames(nil, []string{"a:1"}); err != nil {
		t.Fatal(err)
	}
	for _, stage := range []string{"0123456789abcdef", "0123456789abcdee"} {
		if stage[15] == 'f' { // the load was not over
			put(t, s, stageDir+"/"+stage+"/0/x", "")
		}
		put(t, s, journalDir+"/1.json", fmt.Sprintf(`{"op":"load","stage":%q,"layers":[{"chain":%q,"cache":%q,"link":%q,"dir":"0"}],"images":[{"id":%q}],"names":{"a:1":%q}}`,
			stage, chain, cache, link, a, a))
		again := reopened(t, s)
		leadsTo(t, again, "b:1", b)
		if names, _ := again.Names(ctx); names.Tags["a:1"] != "" {
			t.Error("the name of the removed image is back")
		}
		if left, _ := again.root.List(journalDir); len(left) > 0 {
			t.Error(left)
		}
	}
}

// A layer that belongs to no image may stand on one of an image, as those of
// BuildKit's cache do.
func TestLayersOfNoImageStandOnOthers(t *testing.T) {
	s := openNew(t)
	id := load(t, s, "a", []string{"a:1"}, layerTar(t, "a=1"), layerTar(t, "b=1"))
	low, high := chainsOf(t, s, id)
	onLow := store.NextChainID(low, digest.FromString("cache"))
	put(t, s, overlay2.layers+"/"+onLow.Encoded()+"/parent", string(low))
	put(t, s, overlay2.layers+"/"+onLow.Encoded()+"/cache-id", "cached")
	out, err := s.Remove(ctx, "a:1", false)
	if err != nil || len(out.Deleted) != 2 || out.Deleted[1] != high {
		t.Error(out, err)
	}
	for chain, want := range map[digest.Digest]bool{low: true, onLow: true, high: false} {
		if got := s.root.Exists(overlay2.layers + "/" + chain.Encoded() + "/cache-id"); got != want {
			t.Errorf("%s is there: %v", chain, got)
		}
	}
}

// Who cannot be asked what they need, may need everything.
func TestUnreadableContainers(t *testing.T) {
	for what, plant := range map[string]func(s *Store) error{
		"a link in place of them": func(s *Store) error { return os.Symlink("/nowhere", filepath.Join(s.path, "containers")) },
		"a link in place of one": func(s *Store) error {
			d := filepath.Join(s.path, "containers", strings.Repeat("a", 64))
			return errors.Join(os.MkdirAll(d, 0o700), os.Symlink("/nowhere", d+"/config.v2.json"))
		},
	} {
		s := openNew(t)
		id := load(t, s, "a", []string{"a:1"}, layerTar(t, "a=1"))
		if err := plant(s); err != nil {
			t.Fatal(err)
		}
		if out, err := s.Remove(ctx, "a:1", false); err == nil {
			t.Error(what, out)
		}
		leadsTo(t, s, "a:1", id)
	}
}

func TestIsBroken(t *testing.T) {
	s := openNew(t)
	id := load(t, s, "a", nil, layerTar(t, "a=1"))
	file := filepath.Join(s.path, overlay2.content, id.Encoded())
	for what, plant := range plants(t) {
		if err := errors.Join(os.RemoveAll(file), plant(file)); err != nil {
			t.Fatal(err)
		}
		if _, err := s.chains(id); !isBroken(err) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for _, err := range []error{nil, unix.EIO, unix.EMFILE, unix.ENOMEM, unix.EACCES} {
		if isBroken(fmt.Errorf("read: %w", err)) {
			t.Error(err)
		}
	}
}

func TestCheckFindsDigestsOfNothing(t *testing.T) {
	s := openNew(t)
	gone := digest.FromString("gone")
	ref := "a@" + string(gone)
	if err := s.changeNames(map[string]digest.Digest{ref: gone}, nil); err != nil {
		t.Fatal(err)
	}
	if got := problems(t, s); len(got) != 1 || !strings.Contains(got[0], ref) {
		t.Errorf("%q", got)
	}
}
