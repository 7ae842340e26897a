package fusefs

import (
	"testing"
	"time"

	"imagefs/store/docker"
)

// Where nothing tells which files are open, one that was read is kept for a while
// and then closed, the last one too; with it the timer ends.
func TestIdleReadersAreClosed(t *testing.T) {
	f, s := newTestFS(t)
	f.o.ReadOnly = true
	im, node := layerTarOf(t, f, s)
	buf := make([]byte, 10)
	f.readers.idle = time.Hour
	if _, err := f.read(node, buf, 0, true); err != nil {
		t.Fatal(err)
	}
	f.readers.sweep(f)
	if im.open.Load() != 1 || !f.readers.sweeping {
		t.Error("it is not kept, or no timer runs")
	}
	f.readers.drop(f, func(nodeID) bool { return true })
	f.readers.sweep(f)
	f.readers.idle = time.Millisecond
	for range 2 {
		if _, err := f.read(node, buf, 0, true); err != nil {
			t.Fatal(err)
		}
		until(t, "it is closed", func() bool { return im.open.Load() == 0 })
		f.readers.mu.Lock()
		if len(f.readers.files) != 0 || f.readers.sweeping {
			t.Errorf("%d are kept, a timer runs: %v", len(f.readers.files), f.readers.sweeping)
		}
		f.readers.mu.Unlock()
	}
	// One that is in use stays.
	r, err := f.reader(node)
	if err != nil {
		t.Fatal(err)
	}
	f.readers.sweep(f)
	if im.open.Load() != 1 || f.readers.sweeping {
		t.Error("it was closed while it is used, or a timer runs for it")
	}
	f.readers.put(f, r)
	until(t, "it is closed", func() bool { return im.open.Load() == 0 })
}

// layerTarOf loads an image and returns the node of a layer.tar of it.
func layerTarOf(t *testing.T, f *fsys, s *docker.Store) (*image, nodeID) {
	t.Helper()
	id := loadLayers(t, s, "a:1", []string{"f"})
	f.refresh()
	im, err := f.image(id)
	if err != nil {
		t.Fatal(err)
	}
	node := layerID(im.slot, 0, layerTar)
	if _, err := f.synthNode(t.Context(), node); err != nil {
		t.Fatal(err)
	}
	return im, node
}
