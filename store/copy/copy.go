package copy

import (
	"context"
	"fmt"
	"slices"

	digest "github.com/opencontainers/go-digest"

	"imagefs/store"
	"imagefs/store/save"
)

// Options of Into.
type Options struct {
	// Progress, if not nil, is told how many bytes of layers have been read, out
	// of those that the target lacks. Calls do not overlap; they come from any
	// goroutine.
	Progress func(save.Progress)
}

// Result is what a copy did.
type Result struct {
	Images []store.Loaded // in the order of the items
	Copied int            // layers that were read and written
	There  int            // layers that the target had already
}

// Into copies images into a store. Errors wrap *save.NoTarError, store.ErrCorrupt for
// an image that is not what its digests say, or what the target's Ingest, Unpack
// and Commit return. After an error the target is as it was.
func Into(ctx context.Context, dst store.Ingester, items []save.Item, o Options) (Result, error) {
	in, err := dst.Ingest(ctx)
	if err != nil {
		return Result{}, err
	}
	defer in.Abort()
	p := plan{in: in, layers: map[digest.Digest]*transfer{}, chains: map[digest.Digest]bool{}}
	for _, it := range items {
		if err := p.add(ctx, it); err != nil {
			return Result{}, fmt.Errorf("image %s: %w", called(it), err)
		}
	}
	t := &transport{in: in, total: p.total, tell: o.Progress}
	if err := t.run(ctx, p.order); err != nil {
		return Result{}, err
	}
	out := Result{Copied: len(p.order), There: p.there}
	var images []store.NewImage
	for _, img := range p.images {
		images = append(images, img.made())
		out.Images = append(out.Images, store.Loaded{ID: digest.FromBytes(img.config), Names: img.names})
	}
	return out, in.Commit(ctx, images)
}

// plan is what there is to do.
type plan struct {
	in     store.Ingest
	images []image
	layers map[digest.Digest]*transfer // by diff ID, of those that the target lacks
	order  []*transfer
	chains map[digest.Digest]bool // those that were counted
	there  int
	total  int64 // bytes of the tars
}

// image is one to be committed.
type image struct {
	config []byte
	names  []string
	parent digest.Digest
	layers []store.NewLayer
	from   []*transfer // what brings each layer, nil for one that is there
}

// transfer is a layer on its way.
type transfer struct {
	layer  store.Layer
	tar    *save.Archive
	staged store.Staged
}

func (p *plan) add(ctx context.Context, it save.Item) error {
	layers, err := save.Whole(it.Image)
	if err != nil {
		return err
	}
	raw := it.Image.RawConfig()
	if got := digest.FromBytes(raw); got != it.Image.ID() {
		return fmt.Errorf("its config hashes to %s: %w", got, store.ErrCorrupt)
	}
	img := image{config: raw, names: slices.Sorted(slices.Values(it.Names)), parent: it.Image.Parent()}
	var chain digest.Digest
	for _, l := range layers {
		chain = store.NextChainID(chain, l.DiffID())
		t, err := p.layer(ctx, l, chain)
		if err != nil {
			return err
		}
		img.from = append(img.from, t)
		img.layers = append(img.layers, store.NewLayer{DiffID: l.DiffID(), Blob: blob(l)})
	}
	p.images = append(p.images, img)
	return nil
}

// layer plans one layer; nil if the target has it.
func (p *plan) layer(ctx context.Context, l store.Layer, chain digest.Digest) (*transfer, error) {
	if p.in.HasLayer(chain) {
		if !p.chains[chain] {
			p.chains[chain] = true
			p.there++
		}
		return nil, nil
	}
	if t := p.layers[l.DiffID()]; t != nil {
		return t, nil
	}
	tar, err := save.LayerTar(ctx, l)
	if err != nil {
		return nil, err
	}
	t := &transfer{layer: l, tar: tar}
	p.total += tar.Size()
	p.layers[l.DiffID()] = t
	p.order = append(p.order, t)
	return t, nil
}

// blob is the digest of the compressed blob that a layer came from.
func blob(l store.Layer) digest.Digest {
	if d := l.Digest(); d != l.DiffID() {
		return d
	}
	return ""
}

// made is the image as it is committed, with what has been brought for it.
func (i *image) made() store.NewImage {
	for n, t := range i.from {
		if t != nil {
			i.layers[n].Staged = t.staged
		}
	}
	return store.NewImage{Config: i.config, Layers: i.layers, Names: i.names, Parent: i.parent}
}

// called is how messages call an image.
func called(it save.Item) string {
	if len(it.Names) > 0 {
		return it.Names[0]
	}
	return string(it.Image.ID())
}
