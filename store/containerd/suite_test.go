package containerd

import (
	"os"
	"testing"

	digest "github.com/opencontainers/go-digest"

	"imagefs/store"
	"imagefs/store/storetest"
)

// TestSuite runs the suite of every kind of store.
func TestSuite(t *testing.T) {
	held := storetest.Odd()
	for _, c := range []struct {
		name     string
		compress storetest.Compress
		unpacked func(n int) bool
		noBlobs  bool
		options  Options
	}{
		{"unpacked", storetest.Plain, func(int) bool { return true }, false, Options{}},
		{"unpacked, blobs collected", storetest.Plain, func(int) bool { return true }, true, Options{Lazy: true, Cache: t.TempDir()}},
		{"not unpacked", storetest.Plain, func(int) bool { return false }, false, Options{}},
		{"not unpacked, gzip", storetest.Gzip, func(int) bool { return false }, false, Options{Lazy: true, Cache: t.TempDir()}},
		{"some unpacked, zstd", storetest.Zstd, func(n int) bool { return n%2 == 0 }, false, Options{Lazy: true}},
	} {
		if c.noBlobs && os.Geteuid() != 0 {
			continue // what an ordinary user unpacks has lost owners and whiteouts
		}
		t.Run(c.name, func(t *testing.T) {
			r := newRoot(t)
			for n, h := range held {
				r.image("default", h.Image, c.compress)
				if c.unpacked(n) {
					r.unpack("default", h.Image)
				}
				if c.noBlobs {
					for _, l := range h.Layers {
						r.drop(digest.FromBytes(c.compress(l)))
					}
				}
			}
			dir := r.write()
			want := storetest.Contents{Images: held, NoTar: c.noBlobs}
			storetest.Run(t, func(t testing.TB) store.Store { return open(t, dir, c.options) }, want)
		})
	}
}

// TestSuiteOfABrokenStore has images without a layer, a config, a manifest, and all others.
func TestSuiteOfABrokenStore(t *testing.T) {
	r := newRoot(t)
	want := storetest.Contents{Broken: map[digest.Digest]string{}}
	for n, h := range storetest.Odd() {
		d := r.image("default", h.Image, storetest.Plain)
		switch n {
		case 8:
			r.drop(h.DiffIDs()[0])
			want.Broken[h.ID()] = "its blob " + string(h.DiffIDs()[0]) + " is missing"
		case 5:
			r.drop(h.ID())
			want.Broken[h.ID()] = "config: blob " + string(h.ID()) + " is missing"
		case 6:
			r.drop(d.Digest)
			want.Broken[d.Digest] = "blob " + string(d.Digest) + " is missing"
		case 7:
			r.layout.Set("blobs/sha256/"+d.Digest.Encoded(), []byte(`{"config":{"digest":"sha256:no"}}`))
			want.Broken[d.Digest] = "hashes to"
		default:
			r.unpack("default", h.Image)
			want.Images = append(want.Images, h)
		}
	}
	dir := r.write()
	storetest.Run(t, func(t testing.TB) store.Store { return open(t, dir, Options{}) }, want)
}
