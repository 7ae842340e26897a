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

// stock is a fake with images that can be looked at: one with a name, one without.
type stock struct{ *fake }

type bare struct {
	store.Image
	id digest.Digest
}

func (b bare) ID() digest.Digest     { return b.id }
func (b bare) RawConfig() []byte     { return []byte(`{"config":{"Labels":{"a":"1"}}}`) }
func (b bare) Config() store.Config  { return store.Config{} }
func (b bare) Parent() digest.Digest { return "" }
func (b bare) Layers() []store.Layer { return nil }
func (b bare) Err() error            { return nil }

func (s stock) IDs(context.Context) ([]digest.Digest, error) {
	return []digest.Digest{digest.FromString("named"), digest.FromString("loose")}, nil
}
func (s stock) Image(_ context.Context, id digest.Digest) (store.Image, error) {
	return bare{id: id}, nil
}
func (s stock) Preview(_ context.Context, list ...store.Removal) ([]store.Removed, []error, error) {
	out := make([]store.Removed, len(list))
	for i, r := range list {
		out[i].Deleted = []digest.Digest{digest.Digest(r.Ref)}
	}
	return out, make([]error, len(list)), nil
}

func TestPrune(t *testing.T) {
	loose := digest.FromString("loose")
	for _, c := range []struct {
		cmd  string
		gone string // references that were removed
		last string // in Last
		want error
	}{
		{"dangling\n", string(loose), `"tags":["` + string(loose) + `"],"reclaimed":0}`, nil},
		{"dangling dry-run", "", `"deleted":["` + string(loose) + `"],"dry_run":true,"reclaimed":0}`, nil},
		{"dry-run", "", `"dry_run":true`, nil},
		{"all", "a:1 " + string(loose), "", nil},
		{"label=a=1 all", "a:1 " + string(loose), "", nil},
		{"dangling label=b", "", `"reclaimed":0`, nil},
		{"label!=a", "", "", nil},
		{"until=24h all", "", "", nil}, // nobody knows when they were made
		{"", "", "want dangling or all", store.ErrInvalid},
		{"everything", "", "none of dangling, all", store.ErrInvalid},
		{"all dangling", "", "want one of them", store.ErrInvalid},
		{"color=blue", "", "", store.ErrInvalid},
		{"until=1h until=2h", "", "", store.ErrInvalid},
		{"dangling=false", "", "", store.ErrInvalid},
		{"all\nall", "", "", store.ErrInvalid},
	} {
		f := &fake{names: store.Names{Tags: map[string]digest.Digest{"a:1": digest.FromString("named")}}}
		x := New(stock{f}, Options{})
		err := x.Prune(t.Context(), 7, []byte(c.cmd))
		if !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
			t.Errorf("%q: %v, want %v", c.cmd, err, c.want)
		}
		if got := strings.Join(f.gone, " "); got != c.gone {
			t.Errorf("%q removed %q, want %q", c.cmd, got, c.gone)
		}
		if last := string(x.Last(7)); !strings.Contains(last, c.last) || !json.Valid([]byte(last)) || !strings.Contains(last, `"op":"prune"`) {
			t.Errorf("%q: last is %s", c.cmd, last)
		}
	}
}

// What is open stays; that is told, and no error.
func TestPruneInUse(t *testing.T) {
	f := &fake{}
	x := New(stock{f}, Options{InUse: func(context.Context, string) error { return store.ErrBusy }})
	if err := x.Prune(t.Context(), 0, []byte("dangling")); err != nil || len(f.gone) > 0 {
		t.Errorf("%v, removed %q", err, f.gone)
	}
	if last := string(x.Last(0)); !strings.Contains(last, `"skipped":["sha256:`) || !strings.Contains(last, "in use") {
		t.Errorf("last: %s", last)
	}
}

// An interrupt comes between two images; what was done is told.
func TestPruneInterrupted(t *testing.T) {
	f := &fake{names: store.Names{Tags: map[string]digest.Digest{"a:1": digest.FromString("named")}}}
	ctx, stop := context.WithCancel(t.Context())
	asked, changed := 0, 0
	x := New(stock{f}, Options{Changed: func() { changed++ }, InUse: func(context.Context, string) error {
		if asked++; asked == 2 {
			stop()
		}
		return nil
	}})
	if err := x.Prune(ctx, 0, []byte("all")); !errors.Is(err, context.Canceled) || strings.Join(f.gone, " ") != "a:1" || changed != 1 {
		t.Errorf("%v, removed %q, told of %d changes", err, f.gone, changed)
	}
	if last := string(x.Last(0)); !strings.Contains(last, `"ok":false`) || !strings.Contains(last, `"tags":["a:1"]`) || !strings.Contains(last, `"error":"interrupted"`) {
		t.Errorf("last: %s", last)
	}
}

// A removal that fails fails the command, and those before it count.
func TestPruneFails(t *testing.T) {
	x := New(struct{ store.Store }{&fake{}}, Options{})
	if err := x.Prune(t.Context(), 0, []byte("all")); !errors.Is(err, store.ErrUnsupported) {
		t.Error(err)
	}
}

type importer struct{ got *store.ImportOptions }

func (i importer) Import(_ context.Context, r io.Reader, o store.ImportOptions) (store.Loaded, error) {
	b, err := io.ReadAll(r)
	*i.got = o
	return store.Loaded{ID: digest.FromBytes(b)}, err
}

func (i importer) ImportPath(_ context.Context, path string, o store.ImportOptions) (store.Loaded, error) {
	*i.got = o
	if path != "/root.tar" {
		return store.Loaded{}, store.ErrNotFound
	}
	l := store.Loaded{ID: digest.FromString(path)}
	if o.Name != "" {
		l.Names = []string{o.Name}
	}
	return l, nil
}

func TestImport(t *testing.T) {
	var got store.ImportOptions
	x := New(&fake{}, Options{Importer: importer{&got}})
	for cmd, want := range map[string]error{
		"/root.tar me/app:v1\n": nil, "/root.tar": nil, "  /root.tar   me/app:v1": nil,
		"/none x:1": store.ErrNotFound, "root.tar x:1": store.ErrInvalid, "": store.ErrInvalid, "/my root.tar x:1": store.ErrInvalid,
	} {
		if err := x.ImportPath(t.Context(), 0, []byte(cmd)); !errors.Is(err, want) || (err == nil) != (want == nil) {
			t.Errorf("%q: %v, want %v", cmd, err, want)
		}
		if want == nil && got.Name != "" != strings.Contains(cmd, "me/app:v1") {
			t.Errorf("%q: named %q", cmd, got.Name)
		}
	}
	if err := x.Import(t.Context(), 0, strings.NewReader("tar")); err != nil {
		t.Error(err)
	}
	if last := string(x.Last(0)); last != `{"ok":true,"op":"import","id":"`+string(digest.FromString("tar"))+`"}`+"\n" {
		t.Errorf("last: %s", last)
	}
	none := New(&fake{}, Options{})
	if err := errors.Join(none.Import(t.Context(), 0, nil), none.ImportPath(t.Context(), 0, []byte("/x"))); !errors.Is(err, store.ErrUnsupported) {
		t.Error(err)
	}
}
