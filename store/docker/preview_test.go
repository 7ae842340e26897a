package docker

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	digest "github.com/opencontainers/go-digest"

	"imagefs/store"
)

// previewed is a store with images that share layers, stand on each other, are
// used by containers, and have names in one and in several repositories.
func previewed(t *testing.T) (*Store, map[string]digest.Digest) {
	t.Helper()
	s := openNew(t)
	base, mid, top, other := layerTar(t, "a=1"), layerTar(t, "b=22"), layerTar(t, "c=333"), layerTar(t, "d=4444")
	ids := map[string]digest.Digest{
		"base":  load(t, s, "base", nil, base),
		"mid":   load(t, s, "mid", nil, base, mid),
		"top":   load(t, s, "top", []string{"top:1"}, base, mid, top),
		"twin":  load(t, s, "twin", []string{"twin:1", "twin:2", "zoo/twin:1"}, base, other),
		"loose": load(t, s, "loose", nil, other),
		"used":  load(t, s, "used", []string{"used:1", "used:2"}, layerTar(t, "e=5")),
	}
	for child, parent := range map[string]string{"mid": "base", "top": "mid"} {
		dir := filepath.Join(s.path, overlay2.metadata, ids[child].Encoded())
		if err := errors.Join(os.MkdirAll(dir, 0o700), os.WriteFile(filepath.Join(dir, "parent"), []byte(ids[parent]), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	dir := filepath.Join(s.path, "containers", digest.FromString("c").Encoded())
	b, _ := json.Marshal(map[string]any{"Image": ids["used"], "State": map[string]bool{"Running": false}})
	if err := errors.Join(os.MkdirAll(dir, 0o700), os.WriteFile(filepath.Join(dir, "config.v2.json"), b, 0o600)); err != nil {
		t.Fatal(err)
	}
	return s, ids
}

// fingerprint is a hash of everything in a directory but what reading makes.
func fingerprint(t *testing.T, dir string) string {
	t.Helper()
	h := sha256.New()
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		fmt.Fprintln(h, p, info.Mode(), info.ModTime())
		if d.Type().IsRegular() {
			b, _ := os.ReadFile(p)
			h.Write(b)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}

// A preview says what removals then do, and changes nothing.
func TestPreview(t *testing.T) {
	for name, plan := range map[string][]string{
		"nothing":                    nil,
		"a chain of parents":         {"top:1"},
		"names one by one":           {"twin:1", "twin:2", "zoo/twin:1"},
		"an ID with several names":   {"ID twin"},
		"an ID with a child":         {"ID mid", "top:1", "ID mid"},
		"a shared layer, first last": {"ID loose", "twin:1", "twin:2", "zoo/twin:1"},
		"a container":                {"used:1", "used:2", "ID used"},
		"what is not there":          {"nix:1", "top:1", "top:1", "ID top"},
		"everything":                 {"top:1", "twin:1", "twin:2", "zoo/twin:1", "ID loose", "used:1", "used:2", "ID base"},
	} {
		t.Run(name, func(t *testing.T) {
			s, ids := previewed(t)
			refs := slices.Clone(plan)
			for i, r := range refs {
				if n, ok := cutID(r); ok {
					refs[i] = string(ids[n])
				}
			}
			before := fingerprint(t, s.path)
			want, errs, err := s.Preview(ctx, removals(refs)...)
			if err != nil {
				t.Fatal(err)
			}
			if fingerprint(t, s.path) != before {
				t.Error("the preview changed the store")
			}
			for i, ref := range refs {
				got, err := s.Remove(ctx, ref, false)
				if fmt.Sprint(got) != fmt.Sprint(want[i]) {
					t.Errorf("%s: %v, foretold %v", plan[i], got, want[i])
				}
				for _, class := range []error{store.ErrNotFound, store.ErrBusy} {
					if errors.Is(err, class) != errors.Is(errs[i], class) {
						t.Errorf("%s: %v, foretold %v", plan[i], err, errs[i])
					}
				}
				if (err == nil) != (errs[i] == nil) {
					t.Errorf("%s: %v, foretold %v", plan[i], err, errs[i])
				}
			}
			clean(t, s)

			// All in one step, in a store that is equal but for its random names.
			each, _ := previewed(t)
			got, errs2, err := each.RemoveEach(ctx, removals(refs)...)
			if err != nil || fmt.Sprint(got) != fmt.Sprint(want) || fmt.Sprint(errs2) != fmt.Sprint(errs) {
				t.Errorf("in one step: %v, %v, %v\nforetold %v, %v", got, errs2, err, want, errs)
			}
			clean(t, each)
			for _, dir := range []string{overlay2.content, overlay2.layers} {
				a, _ := s.root.List(dir)
				b, _ := each.root.List(dir)
				slices.Sort(a)
				slices.Sort(b)
				if !slices.Equal(a, b) {
					t.Errorf("%s: one by one leaves %q, in one step %q", dir, a, b)
				}
			}
			na, _ := s.Names(ctx)
			nb, _ := each.Names(ctx)
			if fmt.Sprint(na) != fmt.Sprint(nb) {
				t.Errorf("one by one leaves %v, in one step %v", na, nb)
			}
		})
	}
}

func removals(refs []string) (out []store.Removal) {
	for _, r := range refs {
		out = append(out, store.Removal{Ref: r})
	}
	return out
}

// What was named otherwise since a removal was decided on stays.
func TestRemovedOnlyIfStill(t *testing.T) {
	s, ids := previewed(t)
	bare := ids["loose"]
	old := store.Removal{Ref: "top:1", Still: ids["top"]}
	if err := s.Tag(ctx, "kept:1", bare); err != nil {
		t.Fatal(err)
	}
	if err := s.Tag(ctx, "top:1", ids["twin"]); err != nil {
		t.Fatal(err)
	}
	before := fingerprint(t, s.path)
	list := []store.Removal{{Ref: string(bare), Still: bare}, old}
	out, errs, err := s.RemoveEach(ctx, list...)
	if err != nil || !errors.Is(errs[0], store.ErrBusy) || !errors.Is(errs[1], store.ErrNotFound) {
		t.Errorf("%v, %v, %v", out, errs, err)
	}
	if fingerprint(t, s.path) != before {
		t.Error("something was removed")
	}
}

func cutID(s string) (string, bool) {
	if len(s) > 3 && s[:3] == "ID " {
		return s[3:], true
	}
	return s, false
}

// Images that stand on each other go one after the other, each with its own layers, as Docker tells of them.
func TestRemovedInOrder(t *testing.T) {
	s, ids := previewed(t)
	var want []digest.Digest
	for _, n := range []string{"top", "mid"} {
		img, err := s.Image(ctx, ids[n])
		if err != nil {
			t.Fatal(err)
		}
		layers := img.Layers()
		want = append(want, ids[n], layers[len(layers)-1].ChainID())
	}
	want = append(want, ids["base"]) // its layer is twin's, too
	got, err := s.Remove(ctx, "top:1", false)
	if err != nil || !slices.Equal(got.Deleted, want) {
		t.Errorf("%v\n%v, want\n%v", err, got.Deleted, want)
	}
}

func TestPreviewOfWhatCannotBeWritten(t *testing.T) {
	s, _ := previewed(t)
	r, err := Open(s.path, Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, _, err := r.Preview(ctx, store.Removal{Ref: "top:1"}); !errors.Is(err, store.ErrReadOnly) {
		t.Error(err)
	}
}
