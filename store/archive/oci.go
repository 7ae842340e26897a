package archive

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	digest "github.com/opencontainers/go-digest"

	"imagefs/store"
	"imagefs/store/platform"
)

const (
	ociIndex  = "index.json"
	ociLayout = "oci-layout"

	annotationRef        = "org.opencontainers.image.ref.name"
	annotationContainerd = "io.containerd.image.name"
	annotationReferrer   = "vnd.docker.reference.type" // of BuildKit's attestations
)

// descriptor points to a blob (OCI image spec, descriptor.md).
type descriptor struct {
	MediaType    string            `json:"mediaType"`
	Digest       digest.Digest     `json:"digest"`
	Size         int64             `json:"size"`
	URLs         []string          `json:"urls"`
	Annotations  map[string]string `json:"annotations"`
	ArtifactType string            `json:"artifactType"`
	Platform     *struct {
		Architecture string `json:"architecture"`
		OS           string `json:"os"`
		Variant      string `json:"variant"`
	} `json:"platform"`
}

// elsewhere tells where a layer is that need not be in the archive.
func (d *descriptor) elsewhere() string {
	if len(d.URLs) > 0 {
		return d.URLs[0]
	}
	if strings.Contains(d.MediaType, "nondistributable") || strings.Contains(d.MediaType, ".foreign.") {
		return "its registry"
	}
	return ""
}

func (d *descriptor) platform() platform.Platform {
	if d.Platform == nil {
		return platform.Platform{}
	}
	return platform.Of(d.Platform.OS, d.Platform.Architecture, d.Platform.Variant)
}

// document is what an index or a manifest can hold, of OCI or of Docker.
type document struct {
	MediaType    string        `json:"mediaType"`
	ArtifactType string        `json:"artifactType"`
	Manifests    *[]descriptor `json:"manifests"`
	Config       *descriptor   `json:"config"`
	Layers       []descriptor  `json:"layers"`
	FSLayers     []struct{}    `json:"fsLayers"` // of Docker's first schema
}

// parseDocument reads an index or a manifest, and checks the digests in it.
func parseDocument(what string, b []byte) (*document, error) {
	var d document
	if err := decode(what, b, &d); err != nil {
		return nil, err
	}
	if len(d.Layers) > store.MaxLayers {
		return nil, fmt.Errorf("%s: image with %d layers: %w", what, len(d.Layers), store.ErrTooLarge)
	}
	check := d.Layers
	if d.Config != nil {
		check = append(slices.Clip(check), *d.Config)
	}
	if d.Manifests != nil {
		check = append(slices.Clip(check), *d.Manifests...)
	}
	for _, e := range check {
		if e.Digest.Validate() != nil {
			return nil, fmt.Errorf("%s: %.100q is no digest: %w", what, string(e.Digest), store.ErrCorrupt)
		}
	}
	return &d, nil
}

// isImageConfig tells whether a manifest with a config of this type can be an image's.
func isImageConfig(mediaType string) bool {
	switch mediaType {
	case "application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json",
		"application/octet-stream", "": // Docker 1.10's
		return true
	}
	return false
}

func isImageLayer(mediaType string) bool {
	return mediaType == "" || strings.HasPrefix(mediaType, "application/vnd.oci.image.layer.") ||
		strings.HasPrefix(mediaType, "application/vnd.docker.image.rootfs.")
}

// artifact tells what a manifest is that is no image; "" if it is one as far as it says.
func (d *document) artifact() string {
	if d.FSLayers != nil && d.Config == nil {
		return "an image in the format of Docker before 1.10 registries"
	}
	if d.Config == nil {
		return "no manifest"
	}
	if t := d.Config.MediaType; !isImageConfig(t) {
		if d.ArtifactType != "" {
			t = d.ArtifactType
		}
		return t
	}
	for _, l := range d.Layers {
		if !isImageLayer(l.MediaType) {
			return l.MediaType
		}
	}
	return ""
}

// blob reads a blob and checks it against its descriptor.
func (l *load) blob(c content, d descriptor, limit int64) ([]byte, error) {
	name := blobName(d.Digest)
	b, err := c.bytes(name, limit)
	if err != nil {
		return nil, present(name, err)
	}
	if got := d.Digest.Algorithm().FromBytes(b); got != d.Digest {
		return nil, mismatch("blob", d.Digest, got)
	}
	if d.Size != int64(len(b)) {
		return nil, fmt.Errorf("blob %s has %d bytes, its descriptor says %d: %w", d.Digest, len(b), d.Size, store.ErrCorrupt)
	}
	return b, nil
}

// ociManifests reads what the index.json of a layout lists.
func (l *load) ociManifests(c content) ([]descriptor, error) {
	if err := layoutVersion(c); err != nil {
		return nil, err
	}
	b, err := c.bytes(ociIndex, l.lim.JSON)
	if err != nil {
		return nil, present(ociIndex, err)
	}
	idx, err := parseDocument(ociIndex, b)
	if err != nil {
		return nil, err
	}
	if idx.Manifests == nil || len(*idx.Manifests) == 0 {
		return nil, fmt.Errorf("index.json lists no images: %w", store.ErrCorrupt)
	}
	return *idx.Manifests, nil
}

// ociImages plans the images of an OCI layout.
func (l *load) ociImages(c content) ([]*image, error) {
	manifests, err := l.ociManifests(c)
	if err != nil {
		return nil, err
	}
	s := &selection{load: l, c: c, nodes: map[digest.Digest]*node{}}
	picks, err := s.choose(manifests)
	if err != nil {
		return nil, err
	}
	var images []*image
	for _, p := range picks {
		img, err := l.ociImage(c, p)
		if err != nil {
			return nil, err
		}
		if err := l.keep(img); err != nil {
			return nil, err
		}
		images = append(images, img)
	}
	return images, nil
}

// layoutVersion refuses a layout of a version to come. One without the file is taken as it is.
func layoutVersion(c content) error {
	b, err := c.bytes(ociLayout, 64<<10)
	if errors.Is(err, errMissing) {
		return nil
	}
	if err != nil {
		return present(ociLayout, err)
	}
	var v struct {
		Version string `json:"imageLayoutVersion"`
	}
	if err := decode(ociLayout, b, &v); err != nil {
		return err
	}
	if v.Version != "" && !strings.HasPrefix(v.Version, "1.") {
		return fmt.Errorf("oci-layout: version %.40q: %w", v.Version, store.ErrUnsupported)
	}
	return nil
}

// ociImage plans the image of a manifest. With an error comes what is known of it.
func (l *load) ociImage(c content, p *pick) (*image, error) {
	img := &image{names: p.names}
	b, err := l.blob(c, p.desc, l.lim.JSON)
	if err != nil {
		return img, err
	}
	doc, err := parseDocument("manifest "+string(p.desc.Digest), b)
	if err != nil {
		return img, err
	}
	img.id = doc.Config.Digest
	if img.config, img.cfg, err = l.ociConfig(c, *doc.Config); err != nil {
		return img, err
	}
	img.id = digest.FromBytes(img.config)
	if len(doc.Layers) != len(img.cfg.DiffIDs) {
		return img, fmt.Errorf("manifest %s lists %d layers, its config %d: %w", p.desc.Digest, len(doc.Layers), len(img.cfg.DiffIDs), store.ErrCorrupt)
	}
	for _, d := range doc.Layers {
		if strings.HasSuffix(d.MediaType, "+encrypted") {
			return img, fmt.Errorf("image %s: layer %s is encrypted: %w", img, d.Digest, store.ErrUnsupported)
		}
		img.layers = append(img.layers, layerRef{name: blobName(d.Digest), digest: d.Digest, size: d.Size, elsewhere: d.elsewhere()})
	}
	return img, nil
}

func (l *load) ociConfig(c content, d descriptor) ([]byte, store.Config, error) {
	b, err := l.blob(c, d, store.MaxConfigSize)
	if err != nil {
		return nil, store.Config{}, err
	}
	if err := store.FewValues(b, maxValues); err != nil {
		return nil, store.Config{}, present(blobName(d.Digest), err)
	}
	cfg, err := store.ParseConfig(b)
	return b, cfg, present(blobName(d.Digest), err)
}

// refName returns the name that an index entry gives an image, "" for none.
func (l *load) refName(a map[string]string) string {
	if n := a[annotationContainerd]; n != "" {
		if ref, err := store.NewTag(n); err == nil {
			return ref
		}
		l.log.Info("annotation is no image name", "annotation", annotationContainerd, "value", printable(n))
	}
	n := a[annotationRef]
	if !strings.ContainsAny(n, ":/") || digest.Digest(n).Validate() == nil {
		return "" // a tag without a repository
	}
	ref, err := store.NewTag(n)
	if err != nil {
		l.log.Info("annotation is no image name", "annotation", annotationRef, "value", printable(n))
		return ""
	}
	return ref
}
