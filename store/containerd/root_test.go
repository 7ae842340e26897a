package containerd

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	digest "github.com/opencontainers/go-digest"
	"go.etcd.io/bbolt"

	"imagefs/overlay"
	"imagefs/store"
	"imagefs/store/layer"
	"imagefs/store/storetest"
)

// fakeRoot makes a root of containerd's with the databases that it has.
type fakeRoot struct {
	t       testing.TB
	dir     string
	layout  *storetest.Layout
	images  []fakeImage
	snaps   []fakeSnapshot
	stacks  map[digest.Digest]*fakeStack // by chain ID
	changes []func(meta, snapshots *bbolt.Tx) error
}

type fakeImage struct {
	space, name string
	target      storetest.Descriptor
	parent      digest.Digest // as Docker's classic builder says
}

type fakeSnapshot struct {
	space         string
	chain, parent digest.Digest
	id            int
	kind          byte
}

// fakeStack is an unpacked chain.
type fakeStack struct {
	id   int
	dir  *os.File
	ix   overlay.Layer
	tree *overlay.Tree
	all  []*fakeStack // this one and those below, bottom first
}

func newRoot(t testing.TB) *fakeRoot {
	t.Helper()
	return &fakeRoot{t: t, dir: t.TempDir(), layout: storetest.NewLayout(), stacks: map[digest.Digest]*fakeStack{}}
}

// image adds an image with its blobs, under each of its names as containerd has them.
func (r *fakeRoot) image(space string, img storetest.Image, c storetest.Compress) storetest.Descriptor {
	d := r.layout.Manifest(img, c)
	for _, n := range img.Names {
		full, _ := store.Canonical(n)
		r.name(space, full, d)
	}
	if len(img.Names) == 0 {
		r.name(space, "moby-dangling@"+string(d.Digest), d)
	}
	return d
}

// name adds a name.
func (r *fakeRoot) name(space, name string, d storetest.Descriptor) {
	r.images = append(r.images, fakeImage{space: space, name: name, target: d})
}

// unpack makes the snapshots of an image's layers.
func (r *fakeRoot) unpack(space string, img storetest.Image) {
	r.t.Helper()
	var parent digest.Digest
	for n := range img.Layers {
		chain := store.ChainID(img.DiffIDs()[:n+1])
		if r.stacks[chain] == nil {
			r.unpackLayer(chain, r.stacks[parent], img.Layers[n])
		}
		r.snaps = append(r.snaps, fakeSnapshot{space, chain, parent, r.stacks[chain].id, kindCommitted})
		parent = chain
	}
}

func (r *fakeRoot) unpackLayer(chain digest.Digest, below *fakeStack, tar []byte) {
	r.t.Helper()
	s := &fakeStack{id: len(r.stacks) + 1}
	dir := filepath.Join(r.dir, snapshotDir, strconv.Itoa(s.id))
	err := os.MkdirAll(filepath.Join(dir, "fs"), 0o755)
	if err == nil {
		s.dir, err = os.Open(filepath.Join(dir, "fs"))
	}
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { s.dir.Close() })
	spill, err := os.Create(filepath.Join(r.t.TempDir(), "spill"))
	if err != nil {
		r.t.Fatal(err)
	}
	defer spill.Close()
	u, err := layer.Unpack(context.Background(), bytes.NewReader(tar), layer.UnpackOptions{Dst: s.dir, Split: io.Discard, Spill: spill, Unprivileged: os.Geteuid() != 0})
	if err != nil {
		r.t.Fatal(err)
	}
	defer u.Close()
	var lower *overlay.Tree
	var open func(overlay.NodeID) (store.File, error)
	if below != nil {
		lower, s.all = below.tree, append(s.all, below.all...)
		open = func(n overlay.NodeID) (store.File, error) {
			k, ref := n.Layer(), n.Ino()
			return layer.Open(below.all[k].dir, below.all[k].ix, ref)
		}
	}
	if err := u.Settle(context.Background(), lower, open); err != nil {
		r.t.Fatal(err)
	}
	raw, err := u.Index()
	if err != nil {
		r.t.Fatal(err)
	}
	m, err := layer.ReadIndex(raw)
	if err != nil {
		r.t.Fatal(err)
	}
	s.ix = m.Index
	s.all = append(s.all, s)
	var layers []overlay.Layer
	for _, b := range s.all {
		layers = append(layers, b.ix)
	}
	if s.tree, err = overlay.Merge(layers...); err != nil {
		r.t.Fatal(err)
	}
	r.stacks[chain] = s
}

// drop takes a blob out.
func (r *fakeRoot) drop(d digest.Digest) { r.layout.Remove("blobs/sha256/" + d.Encoded()) }

// write makes the files; it may be called again after changes.
func (r *fakeRoot) write() string {
	r.t.Helper()
	content := filepath.Join(r.dir, blobDir)
	for _, m := range r.layout.Members {
		p := filepath.Join(content, strings.TrimPrefix(m.Name, "blobs/"))
		err := os.MkdirAll(filepath.Dir(p), 0o755)
		if err == nil {
			err = os.WriteFile(p, m.Body, 0o644)
		}
		if err != nil {
			r.t.Fatal(err)
		}
	}
	meta, snapshots := r.database(metaFile), r.database(snapFile)
	err := meta.Update(func(m *bbolt.Tx) error {
		return snapshots.Update(func(s *bbolt.Tx) error {
			if err := r.fill(m, s); err != nil {
				return err
			}
			for _, c := range r.changes {
				if err := c(m, s); err != nil {
					return err
				}
			}
			return nil
		})
	})
	if err := errors.Join(err, meta.Close(), snapshots.Close()); err != nil {
		r.t.Fatal(err)
	}
	return r.dir
}

func (r *fakeRoot) database(name string) *bbolt.DB {
	r.t.Helper()
	p := filepath.Join(r.dir, name)
	err := os.MkdirAll(filepath.Dir(p), 0o755)
	var db *bbolt.DB
	if err == nil {
		db, err = bbolt.Open(p, 0o644, &bbolt.Options{NoSync: true})
	}
	if err != nil {
		r.t.Fatal(err)
	}
	return db
}

func (r *fakeRoot) fill(meta, snapshots *bbolt.Tx) error {
	stamp, err := storetest.Time.MarshalBinary()
	if err != nil {
		return err
	}
	for _, i := range r.images {
		img := at(meta, version, i.space, "images", i.name)
		target := at(meta, version, i.space, "images", i.name, "target")
		if err := put(img, "updatedat", stamp, "createdat", stamp); err != nil {
			return err
		}
		if err := put(target, "digest", []byte(i.target.Digest), "mediatype", []byte(i.target.MediaType),
			"size", binary.AppendVarint(nil, i.target.Size)); err != nil {
			return err
		}
		if i.parent != "" {
			if err := put(at(meta, version, i.space, "images", i.name, "labels"), parentLabel, []byte(i.parent)); err != nil {
				return err
			}
		}
	}
	if snapshots == nil {
		return nil
	}
	for _, s := range r.snaps {
		name := func(d digest.Digest) string { return fmt.Sprintf("%s/%d/%s", s.space, 2*r.stacks[d].id, d) }
		b, in := at(meta, version, s.space, "snapshots", snapshotter, string(s.chain)), at(snapshots, version, "snapshots", name(s.chain))
		err := put(b, "name", []byte(name(s.chain)))
		if s.parent != "" {
			err = errors.Join(err, put(b, "parent", []byte(s.parent)), put(in, "parent", []byte(name(s.parent))))
		}
		err = errors.Join(err, put(in, "id", binary.AppendUvarint(nil, uint64(s.id)), "kind", []byte{s.kind}, "size", binary.AppendVarint(nil, 4096)))
		if err != nil {
			return err
		}
	}
	return nil
}

// at returns the bucket at a path, made if it is not there.
func at(tx *bbolt.Tx, path ...string) *bbolt.Bucket {
	b, err := tx.CreateBucketIfNotExists([]byte(path[0]))
	for _, p := range path[1:] {
		if err == nil {
			b, err = b.CreateBucketIfNotExists([]byte(p))
		}
	}
	if err != nil {
		panic(err) // the test asks for what no database can have
	}
	return b
}

// put sets pairs of keys and values.
func put(b *bbolt.Bucket, pairs ...any) error {
	for n := 0; n < len(pairs); n += 2 {
		if err := b.Put([]byte(pairs[n].(string)), pairs[n+1].([]byte)); err != nil {
			return err
		}
	}
	return nil
}

func open(t testing.TB, dir string, o Options) *Store {
	t.Helper()
	s, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// testLog writes to w.
func testLog(w io.Writer) *slog.Logger { return slog.New(slog.NewTextHandler(w, nil)) }
