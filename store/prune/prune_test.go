package prune_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	digest "github.com/opencontainers/go-digest"

	"imagefs/store"
	"imagefs/store/prune"
)

// fake is a store in memory that removes by the simplest rules there are: a
// name goes; an image goes with its last name, and its layers with the last image.
type fake struct {
	store.Store
	images map[digest.Digest]*image
	names  store.Names
	held   map[string]error // what a removal of a reference gives
	asked  []string
}

type image struct {
	store.Image
	name    string
	created time.Time
	labels  string
	parent  *image
	chains  []string
	err     error
}

type layer struct {
	store.Layer
	name string
}

func (l layer) ChainID() digest.Digest { return digest.FromString(l.name) }
func (l layer) Size() int64            { return int64(len(l.name)) } // "ccc" has 3 bytes

func (i *image) ID() digest.Digest { return digest.FromString("image " + i.name) }
func (i *image) RawConfig() []byte {
	return []byte(fmt.Sprintf(`{"config":{"Labels":{%s}}}`, i.labels))
}
func (i *image) Config() store.Config { return store.Config{Created: i.created} }
func (i *image) Err() error           { return i.err }
func (i *image) Parent() digest.Digest {
	if i.parent == nil {
		return ""
	}
	return i.parent.ID()
}
func (i *image) Layers() (out []store.Layer) {
	for _, c := range i.chains {
		out = append(out, layer{name: c})
	}
	return out
}

func (f *fake) Root() string                               { return "/fake" }
func (f *fake) Names(context.Context) (store.Names, error) { return f.names, nil }
func (f *fake) IDs(context.Context) (ids []digest.Digest, err error) {
	for id := range f.images {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids, nil
}
func (f *fake) Image(_ context.Context, id digest.Digest) (store.Image, error) {
	if i, ok := f.images[id]; ok {
		return i, nil
	}
	return nil, store.ErrNotFound
}

func (f *fake) Remove(_ context.Context, ref string, force bool) (r store.Removed, err error) {
	f.asked = append(f.asked, ref)
	if force {
		return r, errors.New("forced")
	}
	if err := f.held[ref]; err != nil {
		return r, err
	}
	id := digest.Digest(ref)
	for _, m := range []map[string]digest.Digest{f.names.Tags, f.names.Digests} {
		if named, ok := m[ref]; ok {
			delete(m, ref)
			id, r.Untagged = named, []string{ref}
		}
	}
	if f.images[id] == nil {
		return r, store.ErrNotFound
	}
	for _, m := range []map[string]digest.Digest{f.names.Tags, f.names.Digests} {
		for _, named := range m {
			if named == id {
				return r, nil
			}
		}
	}
	gone := f.images[id]
	delete(f.images, id)
	r.Deleted = []digest.Digest{id}
	for _, c := range slices.Backward(gone.chains) {
		if !slices.ContainsFunc(f.left(), func(i *image) bool { return slices.Contains(i.chains, c) }) {
			r.Deleted = append(r.Deleted, digest.FromString(c))
		}
	}
	return r, nil
}

func (f *fake) left() (out []*image) {
	for _, i := range f.images {
		out = append(out, i)
	}
	return out
}

func (f *fake) Preview(ctx context.Context, list ...store.Removal) ([]store.Removed, []error, error) {
	c := f.clone()
	out, errs := make([]store.Removed, len(list)), make([]error, len(list))
	for n, r := range list {
		out[n], errs[n] = c.Remove(ctx, r.Ref, false)
	}
	return out, errs, nil
}

// bulk is a fake that removes several at once.
type bulk struct {
	*fake
	steps int
}

func (b *bulk) RemoveEach(ctx context.Context, list ...store.Removal) ([]store.Removed, []error, error) {
	b.steps++
	out, errs := make([]store.Removed, len(list)), make([]error, len(list))
	for n, r := range list {
		if r.Still == "" {
			return nil, nil, errors.New("what it is to be is not said")
		}
		out[n], errs[n] = b.Remove(ctx, r.Ref, false)
	}
	return out, errs, nil
}

func (f *fake) clone() *fake {
	c := &fake{images: map[digest.Digest]*image{}, names: store.Names{Tags: map[string]digest.Digest{}, Digests: map[string]digest.Digest{}}, held: f.held}
	for id, i := range f.images {
		c.images[id] = i
	}
	for r, id := range f.names.Tags {
		c.names.Tags[r] = id
	}
	for r, id := range f.names.Digests {
		c.names.Digests[r] = id
	}
	return c
}

func hour(h int) time.Time { return time.Date(2024, 1, 1, h, 0, 0, 0, time.UTC) }

// shop has an image of every sort.
func shop() *fake {
	base := &image{name: "base", created: hour(1), chains: []string{"b"}}
	step := &image{name: "step", created: hour(2), chains: []string{"b", "ss"}, parent: base}
	app := &image{name: "app", created: hour(3), chains: []string{"b", "ss", "aaa"}, parent: step, labels: `"team":"a","keep":""`}
	two := &image{name: "two", created: hour(4), chains: []string{"tttt"}, labels: `"team":"b"`}
	old := &image{name: "old", created: hour(5), chains: []string{"tttt", "ooooo"}, labels: `"team":"a"`}
	pulled := &image{name: "pulled", created: hour(6), chains: []string{"pppppp"}}
	timeless := &image{name: "timeless", chains: []string{"nnnnnnn"}}
	broken := &image{name: "broken", created: hour(7), chains: []string{"rrrrrrrr"}, err: store.ErrCorrupt}
	f := &fake{images: map[digest.Digest]*image{}, held: map[string]error{}, names: store.Names{
		Tags:    map[string]digest.Digest{"app:1": app.ID(), "two:1": two.ID(), "ghcr.io/x/two:1": two.ID(), "base:1": base.ID()},
		Digests: map[string]digest.Digest{"pulled@" + string(digest.FromString("m")): pulled.ID(), "two@" + string(digest.FromString("m")): two.ID()},
	}}
	for _, i := range []*image{base, step, app, two, old, pulled, timeless, broken} {
		f.images[i.ID()] = i
	}
	return f
}

// what names the images that a result deleted, in order.
func what(r prune.Result, f *fake) string {
	var out []string
	for _, step := range r.Removed {
		for _, id := range step.Deleted {
			if i := f.images[id]; i != nil {
				out = append(out, i.name)
			}
		}
	}
	return strings.Join(out, " ")
}

func TestWhatGoes(t *testing.T) {
	for _, c := range []struct {
		name      string
		all       bool
		filters   []string
		deleted   string
		reclaimed int64
	}{
		{"dangling", false, nil, "pulled old timeless", 6 + 5 + 7},
		{"dangling, said", false, []string{"dangling=true"}, "pulled old timeless", 18},
		{"label", false, []string{"label=team"}, "old", 5},
		{"label with value", false, []string{"label=team=b"}, "", 0},
		{"label and label", false, []string{"label=team=a", "label=keep"}, "", 0},
		{"not label", false, []string{"label!=team"}, "pulled timeless", 13},
		{"not label with value", false, []string{"label!=team=b"}, "pulled old timeless", 18},
		{"until", false, []string{"until=2024-01-01T05:00:00Z"}, "old", 5},
		{"until before", false, []string{"until=2024-01-01T04:59:59Z"}, "", 0},
		{"until long ago", false, []string{"until=24h"}, "pulled old", 11},
		// step has a child and no name: the store removes it with app, this one does not.
		{"all", true, nil, "pulled old two app base timeless", 6 + 5 + 4 + 3 + 7},
		{"all, said", true, []string{"dangling=false"}, "pulled old two app base timeless", 25},
		{"all with label", true, []string{"label=team"}, "old two app", 5 + 4 + 3},
		{"all without either", true, []string{"label!=keep", "label!=team=b"}, "pulled old base timeless", 18},
		{"all until", true, []string{"until=2024-01-01T03:00:00Z"}, "app base", 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := prune.Options{Filter: prune.Filter{All: c.all}, DryRun: true}
			for _, f := range c.filters {
				if err := o.Add(f); err != nil {
					t.Fatal(err)
				}
			}
			f, before := shop(), shop()
			plan, err := prune.Run(t.Context(), f, o)
			if err != nil {
				t.Fatal(err)
			}
			if len(f.images) != len(before.images) || len(f.names.Tags) != len(before.names.Tags) || len(f.asked) > 0 {
				t.Error("a dry run changed something")
			}
			o.DryRun = false
			got, err := prune.Run(t.Context(), f, o)
			if err != nil {
				t.Fatal(err)
			}
			if w := what(got, before); w != c.deleted || got.Reclaimed != c.reclaimed {
				t.Errorf("deleted %q, %d bytes; want %q, %d", w, got.Reclaimed, c.deleted, c.reclaimed)
			}
			if fmt.Sprint(plan) != fmt.Sprint(got) {
				t.Errorf("the dry run said\n%v, then it was\n%v", plan, got)
			}
			b := &bulk{fake: before}
			if at, err := prune.Run(t.Context(), b, o); err != nil || fmt.Sprint(at) != fmt.Sprint(got) || b.steps > 1 {
				t.Errorf("in %d steps: %v\n%v, want\n%v", b.steps, err, at, got)
			}
		})
	}
}

// Names go one by one, in the order of the full names.
func TestNames(t *testing.T) {
	f := shop()
	o := prune.Options{Filter: prune.Filter{All: true}}
	if err := o.Add("label=team=b"); err != nil {
		t.Fatal(err)
	}
	if _, err := prune.Run(t.Context(), f, o); err != nil {
		t.Fatal(err)
	}
	want := []string{"two:1", "two@" + string(digest.FromString("m")), "ghcr.io/x/two:1"}
	if !slices.Equal(f.asked, want) {
		t.Errorf("asked for %q, want %q", f.asked, want)
	}
}

func TestWhatStays(t *testing.T) {
	busy := fmt.Errorf("a container: %w", store.ErrBusy)
	f := shop()
	f.held["ghcr.io/x/two:1"] = busy
	f.held["app:1"] = errors.New("a bad disk")
	o := prune.Options{Filter: prune.Filter{All: true}}
	o.InUse = func(_ context.Context, id string) error {
		if i := f.images[digest.Digest(id)]; i != nil && i.name == "old" {
			return fmt.Errorf("open: %w", store.ErrBusy)
		}
		return nil
	}
	before := f.clone()
	r, err := prune.Run(t.Context(), f, o)
	if err != nil {
		t.Fatal(err)
	}
	if got := what(r, before); got != "pulled base timeless" {
		t.Errorf("deleted %q", got)
	}
	var skipped []string
	for _, p := range r.Skipped {
		skipped = append(skipped, p.Image)
	}
	slices.Sort(skipped)
	var old, broken string
	for id, i := range before.images {
		switch i.name {
		case "old":
			old = string(id)
		case "broken":
			broken = string(id)
		}
	}
	want := []string{"ghcr.io/x/two:1", old, broken}
	slices.Sort(want)
	if !slices.Equal(skipped, want) {
		t.Errorf("skipped %q, want %q", skipped, want)
	}
	if len(r.Failed) != 1 || r.Failed[0].Image != "app:1" {
		t.Errorf("failed %v", r.Failed)
	}
	// As with Docker, the last name is the one that a container keeps.
	if _, ok := f.names.Tags["two:1"]; ok {
		t.Error("an image in use kept all its names")
	}
}

// Where something else may keep an image, it is asked between two of them.
func TestInUseOneByOne(t *testing.T) {
	b := &bulk{fake: shop()}
	asked := 0
	o := prune.Options{InUse: func(context.Context, string) error { asked++; return nil }}
	if r, err := prune.Run(t.Context(), b, o); err != nil || b.steps != 0 || asked != 3 || len(r.Removed) != 3 {
		t.Errorf("%v, %d steps, asked %d times, %v", err, b.steps, asked, r)
	}
}

// What another process names while a prune goes on stays.
func TestNamedMeanwhile(t *testing.T) {
	f := shop()
	fresh := &image{name: "fresh", created: hour(9)}
	old := digest.FromString("image old")
	o := prune.Options{Filter: prune.Filter{All: true}, Progress: func(done, of int) {
		if done == 1 {
			f.images[fresh.ID()] = fresh
			f.names.Tags["two:1"], f.names.Tags["kept:1"] = fresh.ID(), old
		}
	}}
	if _, err := prune.Run(t.Context(), f, o); err != nil {
		t.Fatal(err)
	}
	if f.images[fresh.ID()] == nil || f.images[old] == nil || f.names.Tags["two:1"] != fresh.ID() {
		t.Errorf("asked for %q, left %v", f.asked, f.names.Tags)
	}
}

func TestInterrupted(t *testing.T) {
	f := shop()
	before := f.clone()
	ctx, stop := context.WithCancel(t.Context())
	o := prune.Options{Progress: func(done, of int) {
		if of != 3 {
			t.Errorf("%d images, want 3", of)
		}
		if done == 2 {
			stop()
		}
	}}
	r, err := prune.Run(ctx, f, o)
	if !errors.Is(err, context.Canceled) || what(r, before) != "pulled old" || r.Reclaimed != 11 {
		t.Errorf("%v: deleted %q, %d bytes", err, what(r, before), r.Reclaimed)
	}
}

func TestBadFilters(t *testing.T) {
	for _, c := range []string{"label", "until=soon", "dangling=perhaps", "before=x", "=", "color=blue"} {
		var f prune.Filter
		if err := f.Add(c); !errors.Is(err, store.ErrInvalid) {
			t.Errorf("%q: %v", c, err)
		}
	}
	var f prune.Filter
	if err := errors.Join(f.Add("until=1h"), f.Add("until=2h")); !errors.Is(err, store.ErrInvalid) {
		t.Error("two times until:", err)
	}
	for _, all := range []bool{false, true} {
		o := prune.Options{Filter: prune.Filter{All: all}}
		if err := o.Add(fmt.Sprint("dangling=", all)); err != nil {
			t.Fatal(err)
		}
		if _, err := prune.Run(t.Context(), shop(), o); !errors.Is(err, store.ErrInvalid) {
			t.Errorf("all %v and dangling=%v: %v", all, all, err)
		}
	}
}

// several is a store of several.
type several struct {
	store.Store
	parts []store.Part
}

func (s several) Parts() []store.Part { return s.parts }

// readOnly hides what a store can do.
type readOnly struct{ store.Store }

func TestSeveralStores(t *testing.T) {
	one, two := shop(), shop()
	st := several{parts: []store.Part{
		{Name: "archive", Store: readOnly{shop()}}, {Name: "docker", Path: "/d", Store: two, Fixed: "name it"}, {Name: "own", Store: one},
	}}
	r, err := prune.Run(t.Context(), st, prune.Options{})
	if err != nil || what(r, two) != "pulled old timeless" || len(two.asked) > 0 {
		t.Errorf("%v: %v, the other was asked for %q", err, r, two.asked)
	}
	st.parts = st.parts[:2]
	if _, err := prune.Run(t.Context(), st, prune.Options{}); !errors.Is(err, store.ErrReadOnly) || !strings.Contains(err.Error(), "docker at /d") {
		t.Error(err)
	}
	st.parts = st.parts[:1]
	if _, err := prune.Run(t.Context(), st, prune.Options{}); !errors.Is(err, store.ErrUnsupported) {
		t.Error(err)
	}
	if _, err := prune.Run(t.Context(), readOnly{shop()}, prune.Options{}); !errors.Is(err, store.ErrUnsupported) {
		t.Error(err)
	}
}

// A store that cannot be changed ends it, and says so.
func TestReadOnly(t *testing.T) {
	f := shop()
	for ref := range f.names.Digests {
		f.held[ref] = fmt.Errorf("a daemon: %w", store.ErrReadOnly)
	}
	if _, err := prune.Run(t.Context(), f, prune.Options{}); !errors.Is(err, store.ErrReadOnly) || len(f.asked) != 1 {
		t.Errorf("%v, after %q", err, f.asked)
	}
}
