package fusefs

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"

	"imagefs/store/docker"
)

// benchFS is an image of two layers with a merged directory of n files.
func benchFS(tb testing.TB, n int) (*fsys, nodeID) {
	tb.Helper()
	s, err := docker.Open(filepath.Join(tb.TempDir(), "store"), docker.Options{Create: true})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { s.Close() })
	var low, top []string
	for i := range n {
		if f := fmt.Sprintf("d/file%05d", i); i%2 == 0 {
			low = append(low, f)
		} else {
			top = append(top, f)
		}
	}
	id := loadLayers(tb, s, "a:1", low, top)
	f, err := newFS(tb.Context(), s, Options{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		tb.Fatal(err)
	}
	im, err := f.image(id)
	if err != nil {
		tb.Fatal(err)
	}
	img, err := s.Image(context.Background(), id)
	if err != nil {
		tb.Fatal(err)
	}
	root, err := f.rootfs(context.Background(), im, img)
	if err != nil {
		tb.Fatal(err)
	}
	var out fuse.EntryOut
	if st := f.viewLookup(root, "d", &out); !st.Ok() {
		tb.Fatal(st)
	}
	return f, nodeID(out.NodeId)
}

func header(id nodeID) *fuse.InHeader { return &fuse.InHeader{NodeId: uint64(id)} }

func BenchmarkLookup(b *testing.B) {
	f, dir := benchFS(b, 1000)
	h := header(dir)
	var out fuse.EntryOut
	b.ReportAllocs()
	for b.Loop() {
		if st := f.Lookup(nil, h, "file00777", &out); !st.Ok() || out.NodeId == 0 {
			b.Fatal(st)
		}
	}
}

func BenchmarkGetAttr(b *testing.B) {
	f, dir := benchFS(b, 1000)
	in := &fuse.GetAttrIn{InHeader: *header(dir)}
	var out fuse.AttrOut
	b.ReportAllocs()
	for b.Loop() {
		if st := f.GetAttr(nil, in, &out); !st.Ok() {
			b.Fatal(st)
		}
	}
}

func BenchmarkReadDirPlus(b *testing.B) {
	f, dir := benchFS(b, 1000)
	in := &fuse.ReadIn{InHeader: *header(dir)}
	list := fuse.NewDirEntryList(make([]byte, 1<<20), 0)
	empty := *list
	b.ReportAllocs()
	for b.Loop() {
		*list = empty
		if st := f.ReadDirPlus(nil, in, list); !st.Ok() || list.Offset != 1002 {
			b.Fatal(st, list.Offset)
		}
	}
}

// The hot path allocates nothing: not per request, and not per entry.
func TestHotPathAllocatesNothing(t *testing.T) {
	f, dir := benchFS(t, 1000)
	h, attrIn, readIn := header(dir), &fuse.GetAttrIn{InHeader: *header(dir)}, &fuse.ReadIn{InHeader: *header(dir)}
	var entry fuse.EntryOut
	var attr fuse.AttrOut
	list := fuse.NewDirEntryList(make([]byte, 1<<20), 0)
	empty := *list
	for what, do := range map[string]func(){
		"LOOKUP":            func() { f.Lookup(nil, h, "file00777", &entry) },
		"LOOKUP of nothing": func() { f.Lookup(nil, h, "nothing", &entry) },
		"GETATTR":           func() { f.GetAttr(nil, attrIn, &attr) },
		"READDIRPLUS":       func() { *list = empty; f.ReadDirPlus(nil, readIn, list) },
	} {
		do()
		if n := testing.AllocsPerRun(100, do); n != 0 {
			t.Errorf("%s: %v allocations", what, n)
		}
	}
}
