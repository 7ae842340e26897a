package save

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"imagefs/store"
	"imagefs/store/storetest"
)

// manyLayers is an image of layers that take a while to compress.
func manyLayers(names ...string) storetest.Image {
	img := storetest.Image{Names: names}
	for n := range 8 {
		img.Layers = append(img.Layers, storetest.Files(fmt.Sprintf("f%d=%s", n, strings.Repeat(fmt.Sprint("content ", n, "\n"), 50_000*(n%3+1)))))
	}
	return img
}

// Layers that are compressed at the same time make the archive that they make one
// after the other, and their progress is that of one work.
func TestLayersAreCompressedTogether(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	s := openNew(t)
	load(t, s, storetest.Docker(manyLayers("many:1")).Tar())
	alone := ociTar(t, s, Gzip, "many:1")
	runtime.GOMAXPROCS(4)
	var in atomic.Int32
	var last, total int64
	a, err := OCI(ctx, selected(t, s, "many:1"), OCIOptions{Compress: Gzip, Temp: temp, Progress: func(p Progress) {
		if in.Add(1) != 1 {
			t.Error("calls overlap")
		}
		if p.Done < last || p.Done > p.Total {
			t.Errorf("%d after %d, of %d", p.Done, last, p.Total)
		}
		last, total = p.Done, p.Total
		in.Add(-1)
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if last != total || total == 0 {
		t.Errorf("it ended at %d of %d", last, total)
	}
	if !bytes.Equal(written(t, a), alone) {
		t.Error("another archive")
	}
}

// The first error ends the others' work, and all temporary files are closed.
func TestCompressingTogetherFails(t *testing.T) {
	s := openNew(t)
	load(t, s, storetest.Docker(manyLayers("many:1")).Tar())
	full := errors.New("no room")
	for fails := range 8 {
		var made []*os.File
		var mu = make(chan struct{}, 1)
		n := 0
		_, err := OCI(ctx, selected(t, s, "many:1"), OCIOptions{Compress: Gzip, Temp: func() (*os.File, error) {
			mu <- struct{}{}
			defer func() { <-mu }()
			if n++; n > fails {
				return nil, full
			}
			f, err := temp()
			made = append(made, f)
			return f, err
		}})
		if !errors.Is(err, full) || !strings.Contains(err.Error(), "image sha256:") {
			t.Errorf("%d files: %v", fails, err)
		}
		for _, f := range made {
			if err := f.Close(); !errors.Is(err, os.ErrClosed) {
				t.Errorf("%d files: one is left open: %v", fails, err)
			}
		}
	}
	cancelled, cancel := context.WithCancel(ctx)
	defer cancel()
	_, err := OCI(cancelled, selected(t, s, "many:1"), OCIOptions{Compress: Gzip, Temp: temp, Progress: func(Progress) { cancel() }})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// An image that is not whole is refused as ever.
func TestCompressingAheadOfAnImageThatIsNotWhole(t *testing.T) {
	s := openNew(t)
	load(t, s, storetest.Docker(manyLayers("many:1")).Tar())
	items := selected(t, s, "many:1")
	items[0].Image = cut{items[0].Image}
	if _, err := OCI(ctx, items, OCIOptions{Compress: Gzip, Temp: temp}); !errors.Is(err, store.ErrCorrupt) {
		t.Error(err)
	}
}

// cut is an image without its last layer.
type cut struct{ store.Image }

func (c cut) Layers() []store.Layer { return c.Image.Layers()[:7] }
