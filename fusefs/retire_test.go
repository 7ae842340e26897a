package fusefs

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	digest "github.com/opencontainers/go-digest"

	"imagefs/store"
	"imagefs/store/docker"
)

// loadLayers puts an image into a store: a layer for each list of files.
func loadLayers(t testing.TB, s *docker.Store, name string, layers ...[]string) digest.Digest {
	t.Helper()
	in, err := s.Ingest(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	defer in.Abort()
	img := store.NewImage{Names: []string{name}}
	ids := ""
	for _, files := range layers {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, file := range files {
			if err := w.WriteHeader(&tar.Header{Name: file, Typeflag: tar.TypeReg, Mode: 0o644, Size: 1}); err != nil {
				t.Fatal(err)
			}
			if _, err := w.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
		}
		w.Close()
		st, err := in.Unpack(context.Background(), &b)
		if err != nil {
			t.Fatal(err)
		}
		img.Layers = append(img.Layers, store.NewLayer{DiffID: st.DiffID(), Staged: st})
		ids += fmt.Sprintf(",%q", st.DiffID())
	}
	img.Config = fmt.Appendf(nil, `{"comment":%q,"rootfs":{"type":"layers","diff_ids":[%s]}}`, name, ids[1:])
	if err := in.Commit(context.Background(), []store.NewImage{img}); err != nil {
		t.Fatal(err)
	}
	return digest.FromBytes(img.Config)
}

// What belonged to a removed image is let go, but what another image has stays.
func TestRetire(t *testing.T) {
	s, err := docker.Open(filepath.Join(t.TempDir(), "store"), docker.Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	loadLayers(t, s, "a:1", []string{"shared"}, []string{"own"})
	loadLayers(t, s, "b:1", []string{"shared"}, []string{"other"})
	life, stop := context.WithCancel(context.Background())
	f, err := newFS(life, s, Options{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	// As when a mount ends: what is done later is waited for before the store is closed.
	defer func() { stop(); f.close() }()
	f.retireAfter = time.Millisecond
	look := func(id digest.Digest) (root nodeID, own nodeID) {
		t.Helper()
		im, err := f.image(id)
		if err != nil {
			t.Fatal(err)
		}
		_, img, err := f.imageOf(context.Background(), synthID(typeImage, im.slot, 0))
		if err != nil {
			t.Fatal(err)
		}
		if root, err = f.rootfs(context.Background(), im, img); err != nil {
			t.Fatal(err)
		}
		v := f.views.get(root.view())
		return root, fileID(v.layers[1].slot, 1)
	}
	names, _ := s.Names(context.Background())
	a, aFile := look(names.Tags["a:1"])
	b, _ := look(names.Tags["b:1"])
	shared := fileID(f.views.get(a.view()).layers[0].slot, 1)
	of, err := f.open(aFile, f.layers.get(aFile.layer()))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Remove(context.Background(), "a:1", false); err != nil {
		t.Fatal(err)
	}
	f.refresh()
	if f.letGo([]nodeID{a}) || f.views.get(a.view()) == nil || f.layers.get(aFile.layer()) == nil {
		t.Error("let go while a file is open")
	}
	f.release(of)
	for end := time.Now().Add(5 * time.Second); f.layers.get(aFile.layer()) != nil; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("never let go")
		}
	}
	if _, st := f.layerAttr(aFile); st.Ok() {
		t.Error("a file of the removed image has attributes")
	}
	if _, st := f.layerAttr(a); st.Ok() {
		t.Error("a directory of the removed image has attributes")
	}
	if _, st := f.layerAttr(shared); !st.Ok() {
		t.Errorf("a file of a shared layer: %v", st)
	}
	var out fuse.EntryOut
	if st := f.viewLookup(b, "shared", &out); !st.Ok() || out.NodeId != uint64(shared) {
		t.Errorf("the other image finds node %#x, %v", out.NodeId, st)
	}
	of, err = f.open(shared, f.layers.get(shared.layer()))
	if err != nil {
		t.Fatal(err)
	}
	f.release(of)
}
