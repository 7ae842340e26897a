package ctl

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"

	digest "github.com/opencontainers/go-digest"

	"imagefs/store"
)

type fake struct {
	store.Store
	names store.Names
	gone  []string
}

func (f *fake) Root() string                               { return "/fake" }
func (f *fake) Names(context.Context) (store.Names, error) { return f.names, nil }
func (f *fake) IDs(context.Context) ([]digest.Digest, error) {
	return []digest.Digest{f.names.Tags["a:1"]}, nil
}
func (f *fake) Tag(_ context.Context, ref string, id digest.Digest) error {
	f.names.Tags[ref] = id
	return nil
}
func (f *fake) Untag(context.Context, string) error { return nil }
func (f *fake) Remove(_ context.Context, s string, force bool) (store.Removed, error) {
	if !force && strings.HasPrefix(s, "busy") {
		return store.Removed{}, store.ErrBusy
	}
	f.gone = append(f.gone, s)
	return store.Removed{Untagged: []string{s}}, nil
}

type loader struct{}

func (loader) Load(_ context.Context, r io.Reader) ([]store.Loaded, error) {
	b, err := io.ReadAll(r)
	if string(b) != "good" {
		return nil, errors.Join(store.ErrCorrupt, err)
	}
	return []store.Loaded{{ID: digest.FromBytes(b), Names: []string{"good:1"}}}, nil
}
func (loader) LoadPath(context.Context, string) ([]store.Loaded, error) {
	return nil, store.ErrNotFound
}

func TestCommands(t *testing.T) {
	id := digest.FromString("x")
	f := &fake{names: store.Names{Tags: map[string]digest.Digest{"a:1": id}}}
	changed := 0
	c := New(f, Options{Loader: loader{}, Changed: func() { changed++ }})
	ctx := context.Background()
	for _, test := range []struct {
		op   func(context.Context, uint32, []byte) error
		in   string
		want error
	}{
		{c.Tag, "a:1 docker.io/library/b:2\n", nil},
		{c.Tag, "a:1 b:3", nil},
		{c.Tag, id.Encoded()[:12] + " b:4", nil},
		{c.Tag, "a:1", store.ErrInvalid},
		{c.Tag, "a:1 b:2 c:3", store.ErrInvalid},
		{c.Tag, "a:1 B", store.ErrInvalid},
		{c.Tag, "a:1 b:5\na:1 b:6\n", store.ErrInvalid},
		{c.Tag, "a:1 b@" + string(id), store.ErrInvalid},
		{c.Tag, "nope:1 b:7", store.ErrNotFound},
		{c.Tag, "", store.ErrInvalid},
		{c.Tag, strings.Repeat("x", MaxCommand+1), store.ErrInvalid},
		{c.Tag, "a:1\x00 b:2", store.ErrInvalid},
		{c.Rmi, "a:1", nil},
		{c.Rmi, "busy:1", store.ErrBusy},
		{c.Rmi, "-f busy:1\n", nil},
		{c.Rmi, "-x a:1", store.ErrInvalid},
		{c.Rmi, "a:1 a:2", store.ErrInvalid},
		{c.LoadPath, "/x\n", store.ErrNotFound},
		{c.LoadPath, "x\n", store.ErrInvalid},
	} {
		before := changed
		err := test.op(ctx, 7, []byte(test.in))
		if !errors.Is(err, test.want) || (err == nil) != (test.want == nil) {
			t.Errorf("%.60q: %v, want %v", test.in, err, test.want)
		}
		if (changed > before) != (err == nil) {
			t.Errorf("%.60q: told of a change: %v, error %v", test.in, changed > before, err)
		}
		var r Result
		if e := json.Unmarshal(c.Last(7), &r); e != nil || r.OK != (err == nil) || (r.Error == "") != (err == nil) {
			t.Errorf("%.60q: last is %s", test.in, c.Last(7))
		}
	}
	for _, ref := range []string{"b:2", "b:3", "b:4"} {
		if f.names.Tags[ref] != id {
			t.Errorf("%s is not tagged", ref)
		}
	}
	if len(c.Last(8)) != 0 {
		t.Error("another user sees a result that is not theirs")
	}
}

func TestLoad(t *testing.T) {
	c := New(&fake{}, Options{Loader: loader{}})
	if err := c.Load(context.Background(), 0, strings.NewReader("good")); err != nil {
		t.Fatal(err)
	}
	if s := string(c.Last(0)); !strings.Contains(s, `"tags":["good:1"]`) || !strings.Contains(s, `"ok":true`) {
		t.Errorf("last: %s", s)
	}
	if err := c.Load(context.Background(), 0, strings.NewReader("bad")); !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("bad archive: %v", err)
	}
	if err := New(&fake{}, Options{}).Load(context.Background(), 0, nil); !errors.Is(err, store.ErrUnsupported) {
		t.Errorf("no loader: %v", err)
	}
}

func TestErrorsAreBounded(t *testing.T) {
	c := New(&fake{}, Options{})
	for range 3 * keepErrors {
		c.Note("read", "x", errors.New("two\nlines"))
	}
	b := string(c.Errors())
	if n := strings.Count(b, "\n"); n != keepErrors {
		t.Errorf("%d lines, want %d", n, keepErrors)
	}
	if !strings.Contains(b, "two; lines") {
		t.Errorf("a newline was not folded: %.200s", b)
	}
}
