package copy

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync/atomic"
	"testing"

	digest "github.com/opencontainers/go-digest"

	"imagefs/store"
	"imagefs/store/save"
	"imagefs/store/storetest"
)

// fakeImage is an image whose layers are counted when they are opened.
type fakeImage struct {
	store.Image
	img    storetest.Image
	layers []store.Layer
}

func (i *fakeImage) ID() digest.Digest     { return i.img.ID() }
func (i *fakeImage) RawConfig() []byte     { return i.img.Config() }
func (i *fakeImage) Parent() digest.Digest { return "" }
func (i *fakeImage) Layers() []store.Layer { return i.layers }
func (i *fakeImage) Err() error            { return nil }
func (i *fakeImage) Config() store.Config {
	c, _ := store.ParseConfig(i.RawConfig())
	return c
}

type fakeLayer struct {
	store.Layer
	id    digest.Digest
	tar   string
	opens *atomic.Int32
	err   error // of everything that has to do with the tar
}

type fakeFile struct{ *strings.Reader }

func (fakeFile) Close() error { return nil }

func (l *fakeLayer) DiffID() digest.Digest                  { return l.id }
func (l *fakeLayer) Digest() digest.Digest                  { return "" }
func (l *fakeLayer) TarSize(context.Context) (int64, error) { return int64(len(l.tar)), l.err }
func (l *fakeLayer) Tar(context.Context) (store.File, error) {
	if l.opens.Add(1); l.err != nil {
		return nil, l.err
	}
	return fakeFile{strings.NewReader(l.tar)}, nil
}

// item makes an image; errs are those of its layers.
func item(opens *atomic.Int32, img storetest.Image, errs ...error) save.Item {
	f := &fakeImage{img: img}
	for n, b := range img.Layers {
		l := &fakeLayer{id: digest.FromBytes(b), tar: string(b), opens: opens}
		if n < len(errs) {
			l.err = errs[n]
		}
		f.layers = append(f.layers, l)
	}
	return save.Item{Image: f, Names: img.Names}
}

var (
	base = storetest.Files("etc/", "etc/os-release=ID=test\n")
	top  = storetest.Files("etc/version=1\n")
	next = storetest.Files("etc/version=2\n")
	one  = storetest.Image{Names: []string{"app:1"}, Layers: [][]byte{base, top}}
	two  = storetest.Image{Names: []string{"app:2"}, Layers: [][]byte{base, next, base}}

	errUnreadable = errors.New("unreadable")
)

// A layer that is there is not touched, one that several have is read once.
func TestLayersAreReadOnce(t *testing.T) {
	for _, c := range []struct {
		name          string
		has           map[digest.Digest]bool
		errs          []error // of each image's layers
		copied, there int
	}{
		{"nothing is there", nil, nil, 3, 0},
		{"the base is there, and cannot be read", map[digest.Digest]bool{digest.FromBytes(base): true}, []error{errUnreadable}, 3, 1},
		{"all of one is there, and cannot be read", map[digest.Digest]bool{digest.FromBytes(base): true, store.ChainID(one.DiffIDs()): true,
			store.ChainID(two.DiffIDs()[:2]): true, store.ChainID(two.DiffIDs()): true}, []error{errUnreadable, errUnreadable, errUnreadable}, 0, 4},
	} {
		t.Run(c.name, func(t *testing.T) {
			var opens atomic.Int32
			sink := &storetest.Sink{Has: c.has}
			var last save.Progress
			r, err := Into(context.Background(), sink, []save.Item{item(&opens, one, c.errs...), item(&opens, two, c.errs...)},
				Options{Progress: func(p save.Progress) {
					if p.Done < last.Done || p.Done > p.Total {
						t.Errorf("progress %v after %v", p, last)
					}
					last = p
				}})
			if err != nil {
				t.Fatal(err)
			}
			if r.Copied != c.copied || r.There != c.there || opens.Load() != int32(c.copied) || sink.Unpacked() != c.copied || last.Done != last.Total {
				t.Errorf("%d copied, %d there, %d opened, %d unpacked, %v; want %d and %d", r.Copied, r.There, opens.Load(), sink.Unpacked(), last, c.copied, c.there)
			}
			if len(r.Images) != 2 || r.Images[1].ID != two.ID() || r.Images[1].Names[0] != "app:2" || len(sink.Images()) != 2 || sink.Open() != 0 {
				t.Errorf("%v, %d images, %d loads open", r, len(sink.Images()), sink.Open())
			}
		})
	}
}

// An error leaves nothing, and says what it was.
func TestFailures(t *testing.T) {
	var opens atomic.Int32
	lying := item(&opens, one)
	lying.Image.(*fakeImage).layers[1].(*fakeLayer).tar = string(next)
	short := item(&opens, one)
	short.Image.(*fakeImage).layers = short.Image.Layers()[:1]
	full := func(r io.Reader) error { return errUnreadable }
	cancelled, cancel := context.WithCancel(context.Background())
	cancel()
	for _, c := range []struct {
		name     string
		ctx      context.Context
		item     save.Item
		onUnpack func(io.Reader) error
		want     error
		says     string
	}{
		{"no tar", nil, item(&opens, one, nil, store.ErrUnsupported), nil, store.ErrUnsupported, "image app:1: the tar of layer sha256:"},
		{"cannot be read", nil, item(&opens, one, errUnreadable), nil, errUnreadable, "app:1"},
		{"another layer", nil, lying, nil, store.ErrCorrupt, "hashes to"},
		{"a layer too few", nil, short, nil, store.ErrCorrupt, "1 of 2 layers"},
		{"the target is full", nil, item(&opens, one), full, errUnreadable, "layer sha256:"},
		{"interrupted", cancelled, item(&opens, one), nil, context.Canceled, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.ctx == nil {
				c.ctx = context.Background()
			}
			sink := &storetest.Sink{OnUnpack: c.onUnpack}
			_, err := Into(c.ctx, sink, []save.Item{c.item}, Options{})
			if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("error %v, want %v", err, c.want)
			}
			if len(sink.Images()) > 0 || sink.Open() > 0 {
				t.Errorf("%d images, %d loads open", len(sink.Images()), sink.Open())
			}
		})
	}
}

// Interrupted in the middle of a layer.
func TestInterrupted(t *testing.T) {
	var opens atomic.Int32
	ctx, cancel := context.WithCancel(context.Background())
	sink := &storetest.Sink{OnUnpack: func(io.Reader) error { cancel(); return nil }}
	if _, err := Into(ctx, sink, []save.Item{item(&opens, one)}, Options{}); !errors.Is(err, context.Canceled) || len(sink.Images()) > 0 || sink.Open() > 0 {
		t.Errorf("%v, %d images, %d loads open", err, len(sink.Images()), sink.Open())
	}
}
