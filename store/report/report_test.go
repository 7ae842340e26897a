package report

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	digest "github.com/opencontainers/go-digest"

	"imagefs/store"
)

func TestMain(m *testing.M) {
	time.Local = time.UTC
	os.Exit(m.Run())
}

// now is the time at which the tests look.
var now = time.Date(2024, 1, 1, 12, 0, 0, 0, time.UTC)

// fakeStore is a store in memory.
type fakeStore struct {
	store.Store
	images []*fakeImage
	names  store.Names
}

func (s *fakeStore) Names(context.Context) (store.Names, error) { return s.names, nil }

func (s *fakeStore) IDs(context.Context) ([]digest.Digest, error) {
	var ids []digest.Digest
	for _, i := range s.images {
		ids = append(ids, i.ID())
	}
	return ids, nil
}

func (s *fakeStore) Image(_ context.Context, id digest.Digest) (store.Image, error) {
	for _, i := range s.images {
		if i.ID() == id {
			return i, nil
		}
	}
	return nil, store.ErrNotFound
}

// fakeImage is an image in memory.
type fakeImage struct {
	store.Image
	raw    []byte
	parent digest.Digest
	sizes  []int64
	tagged time.Time
	err    error
}

func (i *fakeImage) ID() digest.Digest     { return digest.FromBytes(i.raw) }
func (i *fakeImage) Parent() digest.Digest { return i.parent }
func (i *fakeImage) LastTagged() time.Time { return i.tagged }
func (i *fakeImage) Err() error            { return i.err }

func (i *fakeImage) RawConfig() []byte {
	if i.err != nil {
		return nil
	}
	return i.raw
}

func (i *fakeImage) Config() store.Config {
	c, _ := store.ParseConfig(i.RawConfig())
	return c
}

func (i *fakeImage) Layers() []store.Layer {
	var out []store.Layer
	for _, s := range i.sizes {
		out = append(out, fakeLayer{size: s})
	}
	return out
}

type fakeLayer struct {
	store.Layer
	size int64
}

func (l fakeLayer) Size() int64 { return l.size }

// image makes an image of a config.
func image(config string, sizes ...int64) *fakeImage {
	return &fakeImage{raw: []byte(config), sizes: sizes}
}

func text(t *testing.T, write func(w *bytes.Buffer) error) string {
	t.Helper()
	var b bytes.Buffer
	if err := write(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func want(t *testing.T, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

const twoSteps = `{"created":"2024-01-01T10:00:00Z","history":[
	{"created":"2024-01-01T09:00:00Z","created_by":"ADD rootfs.tar /"},
	{"created":"2024-01-01T10:00:00Z","created_by":"CMD [\"sh\"]","comment":"last","empty_layer":true}]}`

func history(t *testing.T, st *fakeStore, img store.Image, o HistoryOptions) string {
	t.Helper()
	o.Now = now
	return text(t, func(w *bytes.Buffer) error {
		return WriteHistory(w, History(t.Context(), st, img, NewRefs(st.names)), o)
	})
}

func TestHistory(t *testing.T) {
	img := image(twoSteps, 1234567)
	id := string(img.ID())
	st := &fakeStore{images: []*fakeImage{img}}
	for name, c := range map[string]struct {
		o    HistoryOptions
		want string
	}{
		"human": {HistoryOptions{Human: true}, "" +
			"IMAGE          CREATED       CREATED BY         SIZE      COMMENT\n" +
			id[7:19] + "   2 hours ago   CMD [\"sh\"]         0B        last\n" +
			"<missing>      3 hours ago   ADD rootfs.tar /   1.23MB    \n"},
		"plain": {HistoryOptions{}, "" +
			"IMAGE          CREATED AT             CREATED BY         SIZE      COMMENT\n" +
			id[7:19] + "   2024-01-01T10:00:00Z   CMD [\"sh\"]         0         last\n" +
			"<missing>      2024-01-01T09:00:00Z   ADD rootfs.tar /   1234567   \n"},
		"quiet":    {HistoryOptions{Quiet: true, NoTrunc: true}, id + "\n<missing>\n"},
		"template": {HistoryOptions{Format: `{{.Size}}\t{{upper .Comment}}`}, "0\tLAST\n1234567\t\n"},
		"table":    {HistoryOptions{Format: `table {{.Size}}\t{{.CreatedAt}}`}, "SIZE      CREATED AT\n0         2024-01-01T10:00:00Z\n1234567   2024-01-01T09:00:00Z\n"},
	} {
		t.Run(name, func(t *testing.T) { want(t, history(t, st, img, c.o), c.want) })
	}
}

// The classic builder's parents give the earlier steps their IDs, as far as they are there.
func TestHistoryParents(t *testing.T) {
	step := func(n int) string {
		return `{"history":[` + strings.TrimSuffix(strings.Repeat(`{"empty_layer":true},`, n), ",") + `]}`
	}
	one, two, three, four := image(step(1)), image(step(2)), image(step(3)), image(step(4))
	two.parent, three.parent, four.parent = one.ID(), two.ID(), three.ID()
	st := &fakeStore{images: []*fakeImage{two, three, four}, names: store.Names{
		Tags: map[string]digest.Digest{"x:3": three.ID(), "x:also": three.ID(), "x:4": four.ID()}}}
	h := History(t.Context(), st, four, NewRefs(st.names))
	got := ""
	for _, e := range h {
		got += fmt.Sprintln(e.ID, e.Tags)
	}
	want(t, got, fmt.Sprintln(four.ID(), "[x:4]")+fmt.Sprintln(three.ID(), "[x:3 x:also]")+fmt.Sprintln(two.ID(), "[]")+fmt.Sprintln("<missing> []"))

	t.Run("loop", func(t *testing.T) {
		one.parent = four.ID()
		st.images = append(st.images, one)
		if h := History(t.Context(), st, four, nil); len(h) != 4 || h[3].ID != string(one.ID()) {
			t.Errorf("got %v", h)
		}
	})
}

func TestHistoryJSON(t *testing.T) {
	img := image(twoSteps, 5)
	st := &fakeStore{names: store.Names{Tags: map[string]digest.Digest{"a:1": img.ID()}}}
	got := text(t, func(w *bytes.Buffer) error {
		return HistoryJSON(w, History(t.Context(), st, img, NewRefs(st.names)))
	})
	want(t, got, `[{"Comment":"last","Created":1704103200,"CreatedBy":"CMD [\"sh\"]","Id":"`+string(img.ID())+`","Size":0,"Tags":["a:1"]},`+
		`{"Comment":"","Created":1704099600,"CreatedBy":"ADD rootfs.tar /","Id":"<missing>","Size":5,"Tags":null}]`+"\n")
	want(t, text(t, func(w *bytes.Buffer) error { return HistoryJSON(w, nil) }), "[]\n")
}

// What a stranger wrote stays in its cell.
func TestHostileHistory(t *testing.T) {
	steps := []map[string]any{
		{"created_by": "RUN <<EOF\n\tmkdir /a\r\nEOF", "comment": "\x1b[2J\u202eevil\u2028", "created": "0001-01-01T00:00:00Z"},
		{"created_by": "a\x00b\u0085\u009b31m\u007f", "created": "9999-12-31T23:59:59Z"},
		{"created_by": strings.Repeat("界", 40), "created": "1970-01-01T00:00:00Z"},
	}
	raw, err := json.Marshal(map[string]any{"history": steps})
	if err != nil {
		t.Fatal(err)
	}
	raw = append(raw[:len(raw)-1], []byte(",\"comment\":\"\xff\"}")...)
	img := image(string(raw), 1, -1)
	got := history(t, &fakeStore{}, img, HistoryOptions{Human: true, NoTrunc: true})
	lines := strings.Split(strings.TrimSuffix(got, "\n"), "\n")
	if len(lines) != 4 {
		t.Fatalf("%d lines:\n%s", len(lines), got)
	}
	for _, hidden := range []string{"\x1b", "\r", "\t", "\x00", "\u009b", "\u202e", "\u2028", "\u007f"} {
		if strings.Contains(got, hidden) {
			t.Errorf("%q reaches the terminal", hidden)
		}
	}
	for n, part := range []string{"COMMENT", "N/A", "a\\x00b\\u0085\\u009b31m\\x7f", `RUN <<EOF\n mkdir /a\r\nEOF`} {
		if !strings.Contains(lines[n], part) {
			t.Errorf("line %d is %q, want it to have %q", n, lines[n], part)
		}
	}
	// The layer that the store does not have, and the one whose size it does not know.
	if !strings.Contains(lines[1], "N/A") || !strings.Contains(lines[2], "N/A") || !strings.Contains(lines[3], "1B") {
		t.Errorf("sizes:\n%s", got)
	}
	cut := history(t, &fakeStore{}, img, HistoryOptions{Human: true})
	if !strings.Contains(cut, strings.Repeat("界", 22)+"…") || strings.Contains(cut, strings.Repeat("界", 23)) {
		t.Errorf("not cut to 45 columns:\n%s", cut)
	}
}

func TestPrintable(t *testing.T) {
	for in, out := range map[string]string{
		"":                        "",
		"plain, ünïcode – 界":      "plain, ünïcode – 界",
		"a\tb":                    "a b",
		"a\nb\r":                  `a\nb\r`,
		"\x1b]0;title\a":          `\x1b]0;title\x07`,
		"bad \xff\xfe utf-8 \xc3": `bad \xff\xfe utf-8 \xc3`,
		"\u2066x\u2069":           `\u2066x\u2069`,
		"\ufffd is itself":        "\ufffd is itself",
	} {
		if got := Printable(in); got != out {
			t.Errorf("Printable(%q) = %q, want %q", in, got, out)
		}
	}
}

// From a line it can be told which path it is of.
func TestPath(t *testing.T) {
	seen := map[string]string{}
	for _, p := range []string{"/", "/a b", "/a\tb", `/a\tb`, "/a\nb", `/a\nb`, `/"a\nb"`, "/a\x01", `/a\x01`, "/\xff", `/\xff`, "/\u00ff", "/\ufffd",
		"/\u2066", `/\u2066`, "/usr/lib/system-systemd\\x2dcryptsetup.slice"} {
		got := Path(p)
		if other, ok := seen[got]; ok {
			t.Errorf("%q and %q are both %s", other, p, got)
		}
		seen[got] = p
		back := got
		if got[0] == '"' {
			back, _ = strconv.Unquote(got)
		}
		if back != p || Printable(got) != got {
			t.Errorf("%q is %s, which is %q", p, got, back)
		}
	}
}

// A table of many rows with one endless cell stays small.
func TestEndlessCell(t *testing.T) {
	var entries []HistoryEntry
	for range 20000 {
		entries = append(entries, HistoryEntry{ID: missing})
	}
	entries[7].CreatedBy = strings.Repeat("x", 1<<20)
	got := text(t, func(w *bytes.Buffer) error { return WriteHistory(w, entries, HistoryOptions{NoTrunc: true, Now: now}) })
	if len(got) > 64<<20 {
		t.Errorf("%d bytes", len(got))
	}
	if n := strings.Count(got, "\n"); n != 20001 {
		t.Errorf("%d lines", n)
	}
}

func TestRefs(t *testing.T) {
	a, b := digest.FromString("a"), digest.FromString("b")
	d := "@sha256:" + strings.Repeat("0", 64)
	refs := NewRefs(store.Names{
		Tags:    map[string]digest.Digest{"zz:1": a, "ghcr.io/x:1": a, "aa:2": a, "aa:1": b},
		Digests: map[string]digest.Digest{"aa" + d: a},
	})
	want(t, fmt.Sprint(refs[a].Tags, refs[a].Digests, refs[b].Tags), "[aa:2 zz:1 ghcr.io/x:1] [aa"+d+"] [aa:1]")
}

func TestErrTemplate(t *testing.T) {
	for _, format := range []string{"{{", "{{.Nothing}}", "table {{nothing}}", "{{join .ID}}", `{{pad .ID -1 -1}}`} {
		err := WriteHistory(&bytes.Buffer{}, []HistoryEntry{{ID: "x"}}, HistoryOptions{Format: format})
		if !errors.Is(err, ErrTemplate) {
			t.Errorf("%s: %v", format, err)
		}
	}
}
