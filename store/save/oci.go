package save

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"strings"
	"sync"

	digest "github.com/opencontainers/go-digest"

	"imagefs/store"
	"imagefs/store/guard"
)

// The files of an OCI image layout, and its media types.
const (
	blobDir        = "blobs/sha256/"
	ociLayout      = "oci-layout"
	ociIndex       = "index.json"
	dockerManifest = "manifest.json"
	typeIndex      = "application/vnd.oci.image.index.v1+json"
	typeManifest   = "application/vnd.oci.image.manifest.v1+json"
	typeConfig     = "application/vnd.oci.image.config.v1+json"
	layoutFile     = `{"imageLayoutVersion":"1.0.0"}`
)

// The annotations of an entry of index.json that give it a name.
const (
	nameKey = "io.containerd.image.name"
	refKey  = "org.opencontainers.image.ref.name"
)

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      digest.Digest     `json:"digest"`
	Size        int64             `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Platform    *platform         `json:"platform,omitempty"`
}

type platform struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
	OSVersion    string `json:"os.version,omitempty"`
	Variant      string `json:"variant,omitempty"`
}

type manifest struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	Config        descriptor   `json:"config"`
	Layers        []descriptor `json:"layers"`
}

type index struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	Manifests     []descriptor `json:"manifests"`
}

// OCIOptions of OCI, OCIDir and AddToOCIDir.
type OCIOptions struct {
	Compress Compression // of the layers
	// Temp makes an empty file without a name, or one that goes by itself, for a
	// compressed layer: its digest and size stand before it in an archive. Calls may
	// overlap.
	Temp     func() (*os.File, error)
	Progress func(Progress) // of compressing; nil: silent; calls do not overlap
}

// layout is an OCI layout in the making.
type layout struct {
	o       OCIOptions
	members []member
	blobs   map[digest.Digest]bool
	layers  map[digest.Digest]descriptor // by diff ID
	made    map[digest.Digest]*part      // layers compressed ahead, by diff ID
	index   []descriptor                 // of the manifests, one for each name
	docker  []dockerImage
	total   int64

	mu    sync.Mutex // guards what follows, and calls of Progress, while layers are compressed
	temps []*os.File
	done  int64
}

// OCI makes an OCI archive of images. Compressed layers are made and kept in
// temporary files until Close, uncompressed ones are only asked for their size.
// Errors are those of Docker.
func OCI(ctx context.Context, items []Item, o OCIOptions) (a *Archive, err error) {
	l, err := newLayout(ctx, items, o, nil)
	if err != nil {
		return nil, err
	}
	if err := l.finish(); err != nil {
		l.close()
		return nil, err
	}
	if a, err = pack(directories(l.members, epoch)); err != nil {
		l.close()
		return nil, err
	}
	a.close = l.close
	return a, nil
}

// newLayout makes a layout of images, but for what finish adds. Layers that
// there are already, by diff ID, are not asked for anything.
func newLayout(ctx context.Context, items []Item, o OCIOptions, there map[digest.Digest]descriptor) (_ *layout, err error) {
	l := &layout{o: o, blobs: map[digest.Digest]bool{}, layers: map[digest.Digest]descriptor{}}
	maps.Copy(l.layers, there)
	defer func() {
		if err != nil {
			l.close()
		}
	}()
	if o.Compress != None {
		all, err := l.toCompress(ctx, items)
		if err != nil {
			return nil, err
		}
		if err := l.compressAhead(ctx, all); err != nil {
			return nil, err
		}
	}
	for _, it := range items {
		m, d, err := l.image(ctx, it)
		if err != nil {
			return nil, fmt.Errorf("image %s: %w", it.Image.ID(), err)
		}
		l.index = append(l.index, named(m, it.Names)...)
		l.docker = append(l.docker, d)
	}
	return l, nil
}

// finish adds the files of a layout of its own: what is in it, and that it is one.
func (l *layout) finish() error {
	all := index{SchemaVersion: 2, MediaType: typeIndex, Manifests: append([]descriptor{}, l.index...)}
	for name, v := range map[string]any{ociIndex: all, dockerManifest: l.docker} {
		b, err := json.Marshal(v)
		if err != nil {
			return err
		}
		l.members = append(l.members, member{name: name, mtime: epoch, body: b})
	}
	l.members = append(l.members, member{name: ociLayout, mtime: epoch, body: []byte(layoutFile)})
	return nil
}

// work is a layer that is to be compressed.
type work struct {
	layer store.Layer
	of    digest.Digest // image
}

// toCompress returns the layers that are not there yet, each once, and finds out
// how many bytes they have. An image that is not whole is refused.
func (l *layout) toCompress(ctx context.Context, items []Item) (all []work, err error) {
	seen := map[digest.Digest]bool{}
	for _, it := range items {
		layers, err := Whole(it.Image)
		if err != nil {
			return nil, fmt.Errorf("image %s: %w", it.Image.ID(), err)
		}
		for _, layer := range layers {
			if _, there := l.layers[layer.DiffID()]; there || seen[layer.DiffID()] {
				continue
			}
			seen[layer.DiffID()] = true
			n, err := layer.TarSize(ctx)
			if err != nil {
				return nil, fmt.Errorf("image %s: %w", it.Image.ID(), err)
			}
			l.total += n
			all = append(all, work{layer, it.Image.ID()})
		}
	}
	return all, nil
}

func (l *layout) image(ctx context.Context, it Item) (descriptor, dockerImage, error) {
	layers, err := Whole(it.Image)
	if err != nil {
		return descriptor{}, dockerImage{}, err
	}
	m := manifest{SchemaVersion: 2, MediaType: typeManifest, Layers: []descriptor{},
		Config: l.blob(typeConfig, it.Image.RawConfig())}
	d := dockerImage{Config: blobDir + m.Config.Digest.Encoded(), RepoTags: it.Names}
	for _, layer := range layers {
		ld, err := l.layer(ctx, layer)
		if err != nil {
			return descriptor{}, dockerImage{}, err
		}
		m.Layers = append(m.Layers, ld)
		d.Layers = append(d.Layers, blobDir+ld.Digest.Encoded())
	}
	b, err := json.Marshal(m)
	if err != nil {
		return descriptor{}, dockerImage{}, err
	}
	out := l.blob(typeManifest, b)
	c := it.Image.Config()
	out.Platform = &platform{c.Architecture, c.OS, c.OSVersion, c.Variant}
	return out, d, nil
}

func (l *layout) blob(mediaType string, b []byte) descriptor {
	d := descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
	l.add(d.Digest, member{body: b})
	return d
}

func (l *layout) add(d digest.Digest, m member) {
	if !l.blobs[d] {
		l.blobs[d] = true
		m.name, m.mtime = blobDir+d.Encoded(), epoch
		l.members = append(l.members, m)
	}
}

func (l *layout) layer(ctx context.Context, layer store.Layer) (descriptor, error) {
	if d, ok := l.layers[layer.DiffID()]; ok {
		return d, nil
	}
	p := l.made[layer.DiffID()]
	if p == nil {
		var err error
		if p, err = l.part(ctx, layer); err != nil {
			return descriptor{}, err
		}
	}
	d := descriptor{MediaType: l.o.Compress.layerType(), Digest: p.sum, Size: p.size}
	l.layers[layer.DiffID()] = d
	l.add(d.Digest, member{part: p})
	return d, nil
}

// part is a layer as the layout has it.
func (l *layout) part(ctx context.Context, layer store.Layer) (*part, error) {
	p, err := layerPart(ctx, layer)
	if err == nil && l.o.Compress != None {
		p, err = l.compress(ctx, p)
	}
	return p, err
}

// compressAhead compresses layers, as many at a time as the compression does not
// make parallel by itself.
func (l *layout) compressAhead(ctx context.Context, all []work) error {
	workers := min(l.o.Compress.atOnce(), len(all))
	if workers < 2 {
		return nil
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	l.made = map[digest.Digest]*part{}
	todo := make(chan work)
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for w := range todo {
				var p *part
				err := guard.Run(func() (err error) {
					p, err = l.part(ctx, w.layer)
					return err
				})
				if err != nil {
					cancel(fmt.Errorf("image %s: %w", w.of, err)) // only the first counts
					continue
				}
				l.mu.Lock()
				l.made[w.layer.DiffID()] = p
				l.mu.Unlock()
			}
		})
	}
	for _, w := range all {
		select {
		case todo <- w:
		case <-ctx.Done():
		}
	}
	close(todo)
	wg.Wait()
	return context.Cause(ctx)
}

// compress compresses a layer into a temporary file.
func (l *layout) compress(ctx context.Context, p *part) (*part, error) {
	f, err := l.o.Temp()
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	l.temps = append(l.temps, f)
	l.mu.Unlock()
	sum := sha256.New()
	count := &counter{w: io.MultiWriter(f, sum)}
	z, err := l.o.Compress.NewWriter(count)
	if err != nil {
		return nil, err
	}
	one := &Archive{}
	one.add(section{part: p})
	var last int64
	err = one.Write(ctx, z, func(now Progress) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.done += now.Done - last
		last = now.Done
		if l.o.Progress != nil {
			l.o.Progress(Progress{l.done, l.total, "compress " + p.what})
		}
	})
	if err == nil {
		err = z.Close()
	} else {
		_ = z.Close() // ends its goroutines
	}
	if err != nil {
		return nil, err
	}
	size := count.n
	return &part{open: func(context.Context) (store.File, error) { return tempFile{f, size}, nil },
		size: size, sum: digest.NewDigest(digest.SHA256, sum), what: p.what}, nil
}

func (l *layout) close() {
	for _, f := range l.temps {
		f.Close()
	}
	l.temps = nil
}

// tempFile is a file that the layout closes.
type tempFile struct {
	io.ReaderAt
	size int64
}

func (t tempFile) Size() int64 { return t.size }
func (tempFile) Close() error  { return nil }

type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// named repeats a manifest's descriptor for each name of its image, annotated as
// containerd, BuildKit and Docker do.
func named(d descriptor, names []string) []descriptor {
	var out []descriptor
	for _, n := range names {
		full, ok := store.Canonical(n)
		if !ok {
			continue
		}
		c := d
		c.Annotations = map[string]string{
			nameKey: full,
			refKey:  full[strings.LastIndexByte(full, ':')+1:],
		}
		out = append(out, c)
	}
	if len(out) == 0 {
		return []descriptor{d}
	}
	return out
}
