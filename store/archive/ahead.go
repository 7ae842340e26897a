package archive

import (
	"runtime"
	"sync"
	"sync/atomic"

	digest "github.com/opencontainers/go-digest"

	"imagefs/store"
)

// onceBlobs unpacks each blob once, whoever asks for it first.
type onceBlobs struct {
	mu    sync.Mutex // guards blobs
	blobs map[string]*onceBlob
}

type onceBlob struct {
	once sync.Once
	b    *blob
	err  error
}

func (o *onceBlobs) get(key string, unpack func() (*blob, error)) (*blob, error) {
	o.mu.Lock()
	if o.blobs == nil {
		o.blobs = map[string]*onceBlob{}
	}
	e := o.blobs[key]
	if e == nil {
		e = &onceBlob{}
		o.blobs[key] = e
	}
	o.mu.Unlock()
	e.once.Do(func() { e.b, e.err = unpack() })
	return e.b, e.err
}

// maxWorkers bounds the layers that are unpacked at the same time, and with
// them memory: each has buffers of some megabytes.
const maxWorkers = 4

// ahead unpacks the layers that images need, several at a time, where they can
// be read at any place. What comes of it is asked for in order later; whoever
// asks for a layer that is under way waits for it.
func (l *load) ahead(c content, images []*image) {
	if !c.lazy() {
		return
	}
	names := l.needed(c, images)
	workers := min(runtime.GOMAXPROCS(0), maxWorkers, len(names))
	if workers < 2 {
		return
	}
	var next atomic.Int64
	for range workers {
		l.workers.Go(func() {
			for l.ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= len(names) {
					return
				}
				l.meter.what("layer " + shorten(names[i]))
				// The error is told to whoever asks for the layer. Those after it are not needed any more.
				if b, err := c.layer(names[i]); err != nil || b.err != nil {
					return
				}
			}
		})
	}
	l.cleanup = append(l.cleanup, l.workers.Wait)
}

// needed lists the layers to be unpacked, in the order in which they are asked for.
func (l *load) needed(c content, images []*image) []string {
	var names []string
	seen := map[string]bool{}
	for _, img := range images {
		var chain digest.Digest
		for i, ref := range img.layers {
			chain = store.NextChainID(chain, img.cfg.DiffIDs[i])
			if seen[ref.name] || ref.blob != nil || l.in.HasLayer(chain) {
				continue
			}
			seen[ref.name] = true
			if _, ok, err := c.size(ref.name); ok && err == nil {
				names = append(names, ref.name)
			}
		}
	}
	return names
}
