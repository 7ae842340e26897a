package archive

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"

	digest "github.com/opencontainers/go-digest"

	"imagefs/store"
	"imagefs/store/platform"
)

// content is what an archive has, by cleaned name, links followed.
type content interface {
	// size returns a file's size; false if it is not there. An error if a link to it is bad.
	size(name string) (int64, bool, error)
	// bytes returns a file's content, at most limit bytes. errMissing if it is
	// not there, store.ErrTooLarge beyond.
	bytes(name string, limit int64) ([]byte, error)
	// layer unpacks a layer, once. What is wrong with the blob is in the blob.
	// Where lazy is true, it may be called by several goroutines.
	layer(name string) (*blob, error)
	// legacy lists the image IDs of an archive of Docker before 1.10, sorted.
	legacy() ([]string, error)
	// lazy tells whether layer reads, as opposed to having read.
	lazy() bool
}

var errMissing = errors.New("not in the archive")

// load is one load under way.
type load struct {
	ctx      context.Context
	dst      store.Ingester
	log      *slog.Logger
	lim      Limits
	want     platform.Platform
	explicit bool // the user chose the platform
	survey   bool // broken images are wanted too, with what is wrong with them
	meter    *meter
	in       store.Ingest // nil before begin
	held     int64        // bytes of small files of a stream
	configs  int64        // bytes of the configs of all images
	workers  sync.WaitGroup
	cleanup  []func() // to be done, the last first, when ctx has ended
}

// image is one image to be loaded.
type image struct {
	id     digest.Digest
	config []byte
	cfg    store.Config
	names  []string
	parent digest.Digest
	layers []layerRef

	// Of a survey only.
	digests []digest.Digest // of what the names stand for in an index
	err     error           // what is wrong with it
}

// layerRef is where an image's layer is in the archive.
type layerRef struct {
	name      string
	digest    digest.Digest // of the blob, "" if the archive does not say
	size      int64         // of the blob, -1 if the archive does not say
	elsewhere string        // where else it can be had, "" for nowhere: it may be missing
	blob      *blob         // if it was unpacked already
}

// String names the image in messages.
func (i *image) String() string {
	if len(i.names) > 0 {
		return i.names[0]
	}
	return string(i.id)
}

// host is this machine's platform, but in tests.
var host = platform.Host()

// run loads what open reads.
func (l *Loader) run(ctx context.Context, open func(*load) (content, error)) (out []store.Loaded, err error) {
	err = l.session(ctx, l.opts.Platform, func(ld *load) error {
		out, err = ld.all(open)
		return err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// session is one load for a platform, "" for this machine's: do commits it, or it is taken back.
func (l *Loader) session(ctx context.Context, want string, do func(*load) error) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	ld := &load{ctx: ctx, dst: l.dst, log: l.opts.Log, lim: l.opts.Limits, meter: newMeter(l.opts.Progress), want: host}
	defer func() {
		cancel()
		for _, f := range slices.Backward(ld.cleanup) {
			f()
		}
		if ld.in != nil {
			ld.in.Abort()
		}
		ld.meter.stop()
	}()
	if ld.explicit = want != ""; ld.explicit {
		if ld.want, err = platform.Parse(want); err != nil {
			return err
		}
	}
	if err := do(ld); err != nil {
		return ld.final(err)
	}
	return nil
}

// final gives an error of the input as it is.
func (l *load) final(err error) error {
	var in *inputError
	if errors.As(err, &in) {
		return in.err
	}
	if cerr := l.ctx.Err(); cerr != nil {
		return cerr
	}
	return err
}

// begin starts taking in.
func (l *load) begin() (err error) {
	if l.in == nil {
		l.in, err = l.dst.Ingest(l.ctx)
	}
	return err
}

func (l *load) all(open func(*load) (content, error)) ([]store.Loaded, error) {
	c, err := open(l)
	if err != nil {
		return nil, err
	}
	images, err := l.images(c)
	if err != nil {
		return nil, err
	}
	images = unite(images)
	if err := l.begin(); err != nil {
		return nil, err
	}
	l.announce(c, images)
	l.ahead(c, images)
	var commit []store.NewImage
	for _, img := range images {
		n := store.NewImage{Config: img.config, Names: img.names, Parent: img.parent}
		var chain digest.Digest
		for i := range img.layers {
			chain = store.NextChainID(chain, img.cfg.DiffIDs[i])
			nl, err := l.layer(c, img, i, chain)
			if err != nil {
				return nil, err
			}
			n.Layers = append(n.Layers, nl)
		}
		commit = append(commit, n)
	}
	if err := l.ctx.Err(); err != nil {
		return nil, err
	}
	l.workers.Wait()
	l.meter.what("commit")
	if err := l.in.Commit(l.ctx, commit); err != nil {
		return nil, err
	}
	out := make([]store.Loaded, len(images))
	for i, img := range images {
		out[i] = store.Loaded{ID: img.id, Names: img.names}
	}
	return out, nil
}

// images finds out which kind of archive it is and what is to be loaded from it.
func (l *load) images(c content) ([]*image, error) {
	_, docker, err := c.size(dockerManifest)
	if err != nil {
		return nil, err
	}
	_, oci, err := c.size(ociIndex)
	if err != nil {
		return nil, err
	}
	switch {
	case docker:
		images, err := l.dockerImages(c)
		if oci && (errors.Is(err, errNoImages) || l.explicit && errors.Is(err, store.ErrNotFound)) {
			return l.ociImages(c)
		}
		return images, err
	case oci:
		return l.ociImages(c)
	}
	ids, err := c.legacy()
	if err != nil {
		return nil, err
	}
	if len(ids) > 0 {
		return l.legacyImages(c, ids)
	}
	return nil, fmt.Errorf("no image archive: it has no file manifest.json, index.json or <id>/json: %w", store.ErrCorrupt)
}

// keep bounds the memory for configs.
func (l *load) keep(img *image) error {
	if l.configs += int64(len(img.config)); l.configs > l.lim.Held {
		return fmt.Errorf("image configs of more than %d bytes together: %w", l.lim.Held, store.ErrTooLarge)
	}
	return nil
}

// unite makes one image of those with the same ID, and gives a name that several have to the last.
func unite(images []*image) []*image {
	var out []*image
	byID := map[digest.Digest]*image{}
	owner := map[string]*image{}
	for _, img := range images {
		first, ok := byID[img.id]
		if !ok {
			first = img
			byID[img.id] = img
			out = append(out, img)
		}
		if first.parent == "" {
			first.parent = img.parent
		}
		for _, n := range img.names {
			owner[n] = first
		}
	}
	for _, img := range out {
		img.names = nil
	}
	for n, img := range owner {
		img.names = append(img.names, n)
	}
	for _, img := range out {
		slices.Sort(img.names)
		if p := byID[img.parent]; p == nil || p == img || len(p.cfg.DiffIDs) > len(img.cfg.DiffIDs) ||
			!slices.Equal(p.cfg.DiffIDs, img.cfg.DiffIDs[:len(p.cfg.DiffIDs)]) {
			img.parent = ""
		}
	}
	// With equal layers two images could be each other's parent.
	for _, img := range out {
		seen := map[*image]bool{}
		for p := img; p != nil && p.parent != ""; p = byID[p.parent] {
			if seen[p] {
				p.parent = ""
			}
			seen[p] = true
		}
	}
	return out
}

// announce tells the meter how much there is to read.
func (l *load) announce(c content, images []*image) {
	if !c.lazy() {
		return
	}
	var total int64
	for _, name := range l.needed(c, images) {
		if n, ok, err := c.size(name); ok && err == nil {
			total += n
		}
	}
	if total > 0 {
		l.meter.total(total)
	}
}

// layer gives one layer of an image, unpacked or in the store already, and checked.
func (l *load) layer(c content, img *image, i int, chain digest.Digest) (store.NewLayer, error) {
	ref, diff := &img.layers[i], img.cfg.DiffIDs[i]
	out := store.NewLayer{DiffID: diff}
	fail := func(err error) (store.NewLayer, error) {
		return store.NewLayer{}, fmt.Errorf("image %s: layer %d, %.200q: %w", img, i, ref.name, err)
	}
	b := ref.blob
	if b == nil {
		if _, ok, err := c.size(ref.name); err != nil {
			return fail(err)
		} else if (!ok || c.lazy()) && l.in.HasLayer(chain) {
			return out, nil
		} else if !ok && ref.elsewhere != "" {
			return fail(fmt.Errorf("its content is not in the archive but at %.300q; pull the image instead: %w", ref.elsewhere, store.ErrNotFound))
		} else if !ok {
			return fail(fmt.Errorf("%w: %w", errMissing, store.ErrCorrupt))
		}
		var err error
		if b, err = c.layer(ref.name); err != nil {
			return fail(err)
		}
	}
	switch {
	case ref.digest != "" && b.digest != "" && ref.digest.Algorithm() != b.digest.Algorithm():
		return fail(fmt.Errorf("cannot be checked against %s: %w", ref.digest, store.ErrUnsupported))
	case ref.digest != "" && b.digest != "" && ref.digest != b.digest:
		return fail(mismatch("blob", ref.digest, b.digest))
	case b.err != nil:
		return fail(b.err)
	case ref.size >= 0 && ref.size != b.size:
		return fail(fmt.Errorf("blob %s has %d bytes, its manifest says %d: %w", ref.digest, b.size, ref.size, store.ErrCorrupt))
	case b.staged.DiffID() != diff:
		return fail(mismatch("diff ID", diff, b.staged.DiffID()))
	}
	out.Staged = b.staged
	if b.compressed {
		out.Blob = b.digest
	}
	return out, nil
}

func mismatch(what string, want, got digest.Digest) error {
	return fmt.Errorf("%s: expected %s, found %s: %w", what, want, got, store.ErrCorrupt)
}
