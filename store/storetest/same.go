package storetest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"
	"testing"

	digest "github.com/opencontainers/go-digest"

	"imagefs/overlay"
	"imagefs/store"
)

// SameImage compares an image with the same one in another store: its config,
// the tree and the content of each layer, the tar of each.
func SameImage(t testing.TB, what string, got, want store.Image) {
	t.Helper()
	if got.ID() != want.ID() || !bytes.Equal(got.RawConfig(), want.RawConfig()) || got.Err() != nil || len(got.Layers()) != len(want.Layers()) {
		t.Errorf("%s: image %s with %d layers, %v; want %s with %d", what, got.ID(), len(got.Layers()), got.Err(), want.ID(), len(want.Layers()))
		return
	}
	for i, l := range got.Layers() {
		SameLayer(t, fmt.Sprintf("%s: layer %d", what, i), l, want.Layers()[i])
	}
}

// SameLayer compares a layer with the same one in another store.
func SameLayer(t testing.TB, what string, got, want store.Layer) {
	t.Helper()
	ctx := context.Background()
	if got.DiffID() != want.DiffID() || got.ChainID() != want.ChainID() {
		t.Errorf("%s: %s, %s", what, got.DiffID(), got.ChainID())
	}
	g, err := got.Index(ctx)
	if err != nil {
		t.Errorf("%s: %v", what, err)
		return
	}
	w, err := want.Index(ctx)
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	gl, wl := entries(g), entries(w)
	for i := range max(len(gl), len(wl)) {
		if i >= len(gl) || i >= len(wl) || gl[i].line != wl[i].line {
			t.Errorf("%s: entry %d\n got %+v\nwant %+v", what, i, gl[i:min(i+1, len(gl))], wl[i:min(i+1, len(wl))])
			return
		}
		if !gl[i].file {
			continue
		}
		gb, gerr := content(got, gl[i].ino)
		wb, werr := content(want, wl[i].ino)
		if gerr != nil || werr != nil || !bytes.Equal(gb, wb) {
			t.Errorf("%s: %s: %d bytes, %v; want %d bytes, %v", what, gl[i].line, len(gb), gerr, len(wb), werr)
			return
		}
	}
	f, err := got.Tar(ctx)
	if err != nil {
		t.Errorf("%s: tar: %v", what, err)
		return
	}
	defer f.Close()
	sum, err := digest.FromReader(io.NewSectionReader(f, 0, f.Size()))
	if n, serr := got.TarSize(ctx); err != nil || serr != nil || n != f.Size() || sum != got.DiffID() {
		t.Errorf("%s: the tar hashes to %s, %v; %d of %d bytes, %v", what, sum, err, f.Size(), n, serr)
	}
}

type layerEntry struct {
	line string
	ino  overlay.Ino
	file bool
}

// entries describes a layer, in the order of its tree. Room on disk is not compared.
func entries(l overlay.Layer) []layerEntry {
	var out []layerEntry
	var walk func(p string, i overlay.Ino, f overlay.EntFlags)
	walk = func(p string, i overlay.Ino, f overlay.EntFlags) {
		a := l.Stat(i)
		a.Blocks, a.Flags = 0, a.Flags&^overlay.FlagImplied
		var xs []string
		l.Xattrs(i, func(n string, v []byte) bool { xs = append(xs, fmt.Sprintf("%s=%x", n, v)); return true })
		if f&overlay.EntWhiteout != 0 {
			a, xs = overlay.Attr{}, nil
		}
		out = append(out, layerEntry{fmt.Sprintf("%s %d %+v %s %v", p, f, a, l.Readlink(i), xs), i, a.Mode&0o170000 == 0o100000})
		if f != 0 {
			return
		}
		lo, hi, err := l.Children(i)
		if err != nil {
			out = append(out, layerEntry{line: err.Error()})
		}
		for e := lo; e < hi; e++ {
			name, c, f := l.Entry(e)
			walk(p+"/"+name, c, f)
		}
	}
	walk("", 0, 0)
	return slices.Clip(out)
}

func content(l store.Layer, i overlay.Ino) ([]byte, error) {
	f, err := l.Open(context.Background(), i)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.NewSectionReader(f, 0, f.Size()))
}
