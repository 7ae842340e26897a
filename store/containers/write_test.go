package containers

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/klauspost/compress/gzip"
	digest "github.com/opencontainers/go-digest"

	"imagefs/overlay"
	"imagefs/store"
	"imagefs/store/layer"
	"imagefs/store/storetest"
)

// writer writes stores as the engines do, image by image.
type writer struct {
	t      testing.TB
	dir    string
	driver string
	images []map[string]any
	layers []map[string]any
	known  map[digest.Digest]written // by chain ID
}

// written is a layer that was written.
type written struct {
	overlay.Layer
	diff string // its diff directory
}

func newWriter(t testing.TB, dir, driver string) *writer {
	w := &writer{t: t, dir: dir, driver: driver, known: map[digest.Digest]written{}}
	for _, d := range []string{driver + "-images", driver + "-layers", driver} {
		w.must(os.MkdirAll(filepath.Join(dir, d), 0o700))
	}
	return w
}

func (w *writer) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// add writes an image and its layers; false, and nothing of the image, if an
// engine would refuse it: their tar-split takes no path twice in a layer.
func (w *writer) add(img storetest.Image, names ...string) bool {
	var chain digest.Digest
	var stack []written
	parent := ""
	for n, raw := range img.Layers {
		chain = store.NextChainID(chain, img.DiffIDs()[n])
		ix, ok := w.known[chain]
		if !ok {
			if ix, ok = w.layer(chain, parent, raw, stack); !ok {
				return false
			}
			w.known[chain] = ix
		}
		stack = append(stack, ix)
		parent = chain.Encoded()
	}
	id := img.ID()
	manifest, err := json.Marshal(map[string]any{"schemaVersion": 2, "config": map[string]any{"digest": id}})
	w.must(err)
	md := digest.FromBytes(manifest)
	for key, b := range map[string][]byte{id.String(): img.Config(), "manifest": manifest, "manifest-" + md.String(): manifest, "signature-" + md.Encoded(): nil} {
		w.file(w.driver+"-images/"+id.Encoded()+"/"+dataName(key), b)
	}
	w.images = append(w.images, map[string]any{"id": id.Encoded(), "digest": md, "names": names, "names-history": []string{"localhost/history:old"},
		"layer": parent, "created": storetest.Time, "metadata": "{}",
		"big-data-names":   []string{id.String(), "manifest-" + md.String(), "manifest", "signature-" + md.Encoded()},
		"big-data-sizes":   map[string]int{"manifest": len(manifest)},
		"big-data-digests": map[string]digest.Digest{"manifest": md}})
	return true
}

// layer unpacks a layer; vfs has it on a copy of what is below.
func (w *writer) layer(chain digest.Digest, parent string, raw []byte, stack []written) (written, bool) {
	at := filepath.Join(w.dir, w.driver, chain.Encoded(), "diff")
	if w.driver == "vfs" {
		at = filepath.Join(w.t.TempDir(), "diff")
	}
	w.must(os.MkdirAll(at, 0o755))
	dst, err := os.Open(at)
	w.must(err)
	defer dst.Close()
	spill, err := os.CreateTemp(w.t.TempDir(), "")
	w.must(err)
	defer spill.Close()
	var split bytes.Buffer
	u, err := layer.Unpack(w.t.Context(), bytes.NewReader(raw), layer.UnpackOptions{Dst: dst, Split: &split, Spill: spill, Unprivileged: os.Geteuid() != 0})
	w.must(err)
	defer u.Close()
	var lower *overlay.Tree
	if len(stack) > 0 {
		lower = merge(w.t, stack)
	}
	w.must(u.Settle(w.t.Context(), lower, func(n overlay.NodeID) (store.File, error) { return stack[n.Layer()].open(n.Ino()) }))
	b, err := u.Index()
	w.must(err)
	ix, err := layer.ReadIndex(b)
	w.must(err)
	if u.Spilled {
		w.must(os.RemoveAll(filepath.Dir(at)))
		return written{}, false
	}
	this := written{ix, at}
	if w.driver == "vfs" {
		materialise(w.t, append(stack[:len(stack):len(stack)], this), filepath.Join(w.dir, "vfs/dir", chain.Encoded()))
	}
	var z bytes.Buffer
	g := gzip.NewWriter(&z)
	_, err = io.Copy(g, &split)
	w.must(err)
	w.must(g.Close())
	w.file(w.driver+"-layers/"+chain.Encoded()+".tar-split.gz", z.Bytes())
	rec := map[string]any{"id": chain.Encoded(), "created": storetest.Time, "diff-digest": digest.FromBytes(raw), "diff-size": len(raw),
		"compressed-diff-digest": digest.FromString("compressed " + chain.String()), "compressed-size": 1, "uidset": []int{0}, "gidset": []int{0}}
	if parent != "" {
		rec["parent"] = parent
	}
	w.layers = append(w.layers, rec)
	return this, true
}

// open opens a regular file of the layer.
func (l written) open(i overlay.Ino) (store.File, error) {
	d, err := os.Open(l.diff)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return layer.Open(d, l.Layer, i)
}

func merge(t testing.TB, stack []written) *overlay.Tree {
	t.Helper()
	var layers []overlay.Layer
	for _, l := range stack {
		layers = append(layers, l.Layer)
	}
	tree, err := overlay.Merge(layers...)
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

func (w *writer) file(name string, b []byte) {
	w.t.Helper()
	p := filepath.Join(w.dir, name)
	w.must(os.MkdirAll(filepath.Dir(p), 0o700))
	w.must(os.WriteFile(p, b, 0o600))
}

// done writes what the store has.
func (w *writer) done() {
	w.t.Helper()
	for name, v := range map[string]any{w.driver + "-images/images.json": w.images, w.driver + "-layers/layers.json": w.layers} {
		b, err := json.Marshal(v)
		w.must(err)
		w.file(name, b)
	}
}
