package storetest

import (
	"path"
	"strings"

	digest "github.com/opencontainers/go-digest"
)

// Media types of an OCI layout.
const (
	TypeIndex    = "application/vnd.oci.image.index.v1+json"
	TypeManifest = "application/vnd.oci.image.manifest.v1+json"
	TypeConfig   = "application/vnd.oci.image.config.v1+json"
	TypeLayer    = "application/vnd.oci.image.layer.v1.tar"
)

// Descriptor points to a blob.
type Descriptor struct {
	MediaType    string            `json:"mediaType"`
	Digest       digest.Digest     `json:"digest"`
	Size         int64             `json:"size"`
	URLs         []string          `json:"urls,omitempty"`
	Annotations  map[string]string `json:"annotations,omitempty"`
	Platform     map[string]string `json:"platform,omitempty"`
	ArtifactType string            `json:"artifactType,omitempty"`
}

// With returns the descriptor with one annotation more.
func (d Descriptor) With(key, value string) Descriptor {
	a := map[string]string{key: value}
	for k, v := range d.Annotations {
		if k != key {
			a[k] = v
		}
	}
	d.Annotations = a
	return d
}

// For returns the descriptor with a platform, "os/arch[/variant]".
func (d Descriptor) For(platform string) Descriptor {
	d.Platform = platformJSON(platform)
	return d
}

// Manifest is an image manifest.
type Manifest struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	ArtifactType  string       `json:"artifactType,omitempty"`
	Config        Descriptor   `json:"config"`
	Layers        []Descriptor `json:"layers"`
}

// Layout is an OCI layout in the making. Index comes last.
type Layout struct{ Archive }

// NewLayout starts a layout.
func NewLayout() *Layout { return &Layout{} }

// Blob adds a blob.
func (l *Layout) Blob(mediaType string, body []byte) Descriptor {
	d := digest.FromBytes(body)
	l.Set("blobs/sha256/"+d.Encoded(), body)
	return Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(body))}
}

// JSON adds a blob of JSON.
func (l *Layout) JSON(mediaType string, v any) Descriptor { return l.Blob(mediaType, toJSON(v)) }

// Manifest adds an image with its config and layers.
func (l *Layout) Manifest(img Image, c Compress) Descriptor {
	m := Manifest{SchemaVersion: 2, MediaType: TypeManifest, Config: l.Blob(TypeConfig, img.Config()), Layers: []Descriptor{}}
	for _, tar := range img.Layers {
		m.Layers = append(m.Layers, l.Blob(TypeLayer, c(tar)))
	}
	return l.JSON(TypeManifest, m)
}

// SubIndex adds an index as a blob.
func (l *Layout) SubIndex(of ...Descriptor) Descriptor {
	return l.JSON(TypeIndex, map[string]any{"schemaVersion": 2, "mediaType": TypeIndex, "manifests": of})
}

// Index sets index.json and oci-layout.
func (l *Layout) Index(of ...Descriptor) {
	l.SetJSON("index.json", map[string]any{"schemaVersion": 2, "mediaType": TypeIndex, "manifests": of})
	l.SetJSON("oci-layout", map[string]string{"imageLayoutVersion": "1.0.0"})
}

// OCI makes an OCI archive or layout of images whose layers are compressed by c,
// each with its names as containerd annotates them.
func OCI(c Compress, images ...Image) *Archive {
	l := NewLayout()
	var index []Descriptor
	for _, img := range images {
		index = append(index, named(l.Manifest(img, c), img.Names)...)
	}
	l.Index(index...)
	return &l.Archive
}

// named repeats a descriptor for each name of an image.
func named(d Descriptor, names []string) []Descriptor {
	if len(names) == 0 {
		return []Descriptor{d}
	}
	var all []Descriptor
	for _, n := range names {
		full := n
		if !strings.Contains(n, "/") {
			full = path.Join("docker.io/library", n)
		}
		all = append(all, d.With("io.containerd.image.name", full).With("org.opencontainers.image.ref.name", n[strings.LastIndexByte(n, ':')+1:]))
	}
	return all
}
