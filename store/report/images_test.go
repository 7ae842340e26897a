package report

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	digest "github.com/opencontainers/go-digest"

	"imagefs/store"
)

// at is the config of an image of 2024-01-01 at that hour.
func at(hour int, labels string) string {
	return fmt.Sprintf(`{"created":"2024-01-01T%02d:00:00Z","config":{"Labels":{%s}}}`, hour, labels)
}

// gallery is a store with an image of every sort.
func gallery() (st *fakeStore, name func(digest.Digest) string) {
	images := map[string]*fakeImage{
		"base":     image(at(1, ""), 100),
		"step":     image(at(2, ""), 100, 20),
		"app":      image(at(3, `"version":"1","team":"a"`), 100, 20, 3000),
		"new":      image(at(4, `"version":"2"`), 5_000_000_000),
		"dangling": image(at(5, ""), 7),
		"pulled":   image(at(6, ""), 8),
		"old":      image(`{"created":"1970-01-01T00:00:00Z"}`, 9),
		"undated":  image(`{}`, 10),
		"broken":   image("gone"),
	}
	images["step"].parent = images["base"].ID()
	images["app"].parent = images["step"].ID()
	images["broken"].err = store.ErrCorrupt
	d := "@sha256:" + strings.Repeat("ab", 32)
	st = &fakeStore{names: store.Names{
		Tags: map[string]digest.Digest{
			"base:1": images["base"].ID(), "app:1": images["app"].ID(), "team/app:live": images["app"].ID(), "app:2": images["new"].ID(),
			"old:1": images["old"].ID(), "undated:1": images["undated"].ID(), "broken:1": images["broken"].ID(),
		},
		Digests: map[string]digest.Digest{"app" + d: images["new"].ID(), "pulled" + d: images["pulled"].ID()},
	}}
	for _, i := range images {
		st.images = append(st.images, i)
	}
	slices.SortFunc(st.images, func(a, b *fakeImage) int { return strings.Compare(string(a.ID()), string(b.ID())) })
	return st, func(id digest.Digest) string {
		for n, i := range images {
			if i.ID() == id {
				return n
			}
		}
		return "?"
	}
}

func TestImages(t *testing.T) {
	st, name := gallery()
	for _, c := range []struct {
		conditions string
		all        bool
		want       string
	}{
		{"", false, "pulled dangling new app base old broken undated"},
		{"", true, "pulled dangling new app step base old broken undated"},
		{"dangling=true", false, "pulled dangling"},
		{"dangling=1", true, "pulled dangling"},
		{"dangling=false", true, "pulled new app base old broken undated"},
		{"reference=app", false, "new app"},
		{"reference=app:1 reference=old", false, "app old"},
		{"reference=team/*", false, "app"},
		{"reference=*", false, "pulled new app base old broken undated"},
		{"reference=a?p:[12]", true, "new app"},
		{"label=version", false, "new app"},
		{"label=version=1", false, "app"},
		{"label=version label=team=a", false, "app"},
		{"label=version=", false, ""},
		{"before=app:1", true, "step base old broken undated"},
		{"since=app:1", false, "pulled dangling new"},
		{"since=base:1 before=app:2", true, "app step"},
	} {
		f := Filter{All: c.all}
		for _, s := range strings.Fields(c.conditions) {
			if err := f.Add(s); err != nil {
				t.Fatal(err)
			}
		}
		list, err := Images(t.Context(), st, f)
		if err != nil {
			t.Errorf("%s: %v", c.conditions, err)
			continue
		}
		var got []string
		for _, s := range list {
			got = append(got, name(s.ID))
		}
		if s := strings.Join(got, " "); s != c.want {
			t.Errorf("%q, all %v: got %s, want %s", c.conditions, c.all, s, c.want)
		}
	}
}

func TestBadFilters(t *testing.T) {
	for _, s := range []string{"", "dangling", "dangling=maybe", "colour=blue", "reference=[", "=x"} {
		if err := new(Filter).Add(s); !errors.Is(err, store.ErrInvalid) {
			t.Errorf("%q: %v", s, err)
		}
	}
	st, _ := gallery()
	var f Filter
	if err := f.Add("before=nothing"); err != nil {
		t.Fatal(err)
	}
	if _, err := Images(t.Context(), st, f); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("before=nothing: %v", err)
	}
}

func TestWriteImages(t *testing.T) {
	st, _ := gallery()
	var f Filter
	list, err := Images(t.Context(), st, f)
	if err != nil {
		t.Fatal(err)
	}
	write := func(o ImagesOptions) string {
		o.Now = now
		return text(t, func(w *bytes.Buffer) error { return WriteImages(w, list, o) })
	}
	short := func(s string) string {
		id, _, err := store.Resolve(t.Context(), st, s)
		if err != nil {
			t.Fatal(err)
		}
		return id.Encoded()[:12]
	}
	d := "sha256:" + strings.Repeat("ab", 32)
	dangling := list[1].ID.Encoded()[:12]
	want(t, write(ImagesOptions{}), ""+
		"REPOSITORY   TAG       IMAGE ID       CREATED        SIZE\n"+
		"pulled       <none>    "+list[0].ID.Encoded()[:12]+"   6 hours ago    8B\n"+
		"<none>       <none>    "+dangling+"   7 hours ago    7B\n"+
		"app          2         "+short("app:2")+"   8 hours ago    5GB\n"+
		"app          1         "+short("app:1")+"   9 hours ago    3.12kB\n"+
		"team/app     live      "+short("app:1")+"   9 hours ago    3.12kB\n"+
		"base         1         "+short("base:1")+"   11 hours ago   100B\n"+
		"old          1         "+short("old:1")+"   54 years ago   9B\n"+
		"broken       1         "+short("broken:1")+"   N/A            N/A\n"+
		"undated      1         "+short("undated:1")+"   N/A            10B\n")
	list = list[:3]
	want(t, write(ImagesOptions{Digests: true, Format: "{{.Repository}} {{.Tag}} {{.Digest}}"}),
		"pulled <none> "+d+"\n<none> <none> <none>\napp 2 "+d+"\n")
	want(t, write(ImagesOptions{Digests: true, Format: "table {{.Tag}}"}),
		"TAG       DIGEST\n<none>    "+d+"\n<none>    <none>\n2         "+d+"\n")
	want(t, write(ImagesOptions{Quiet: true, NoTrunc: true}),
		string(list[0].ID)+"\n"+string(list[1].ID)+"\n"+string(list[2].ID)+"\n")
	list = list[1:2]
	want(t, write(ImagesOptions{Format: "json"}),
		`{"Containers":"N/A","CreatedAt":"2024-01-01 05:00:00 +0000 UTC","CreatedSince":"7 hours ago","Digest":"\u003cnone\u003e","ID":"`+dangling+
			`","Repository":"\u003cnone\u003e","SharedSize":"N/A","Size":"7B","Tag":"\u003cnone\u003e","UniqueSize":"N/A","VirtualSize":"7B"}`+"\n")
	list = nil
	want(t, write(ImagesOptions{}), "REPOSITORY   TAG       IMAGE ID   CREATED   SIZE\n")
}
