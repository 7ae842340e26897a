package containerd

import (
	_ "crypto/sha512" // blobs may have digests of this kind
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	digest "github.com/opencontainers/go-digest"

	"imagefs/store"
	"imagefs/store/platform"
)

const (
	// maxDocument bounds an index or a manifest in bytes; containerd's own limit is 8 MiB.
	maxDocument = 8 << 20
	// maxValues bounds the values in one, each of which takes far more memory once it is decoded.
	maxValues = 1 << 16
	// maxNesting bounds indexes in indexes.
	maxNesting = 8
	// maxPlatforms bounds the manifests that one name leads to.
	maxPlatforms = 1024
	// maxDocuments bounds the bytes of all that the names of a store lead to.
	maxDocuments = 512 << 20
	// maxText bounds a string that is kept.
	maxText = 256
)

// descriptor points to a blob (OCI image spec, descriptor.md).
type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      digest.Digest     `json:"digest"`
	Size        int64             `json:"size"`
	URLs        []string          `json:"urls"`
	Annotations map[string]string `json:"annotations"`
	Platform    *runsOn           `json:"platform"`

	elsewhere   bool // a layer that need not be in the store
	attestation bool // a statement of BuildKit's about another manifest
}

// runsOn is the platform of a descriptor (OCI image spec, image-index.md).
type runsOn struct {
	OS           string `json:"os"`
	Architecture string `json:"architecture"`
	Variant      string `json:"variant"`
}

func (r *runsOn) platform() platform.Platform {
	return platform.Of(r.OS, r.Architecture, r.Variant)
}

func (r *runsOn) String() string { return r.platform().String() }

// condense leaves only what is used later: a store has thousands of them.
func (d *descriptor) condense() error {
	if d.Digest.Validate() != nil {
		return fmt.Errorf("%.100q is no digest: %w", string(d.Digest), store.ErrCorrupt)
	}
	texts := []string{d.MediaType, string(d.Digest)}
	if p := d.Platform; p != nil {
		texts = append(texts, p.OS, p.Architecture, p.Variant)
	}
	for _, t := range texts {
		if len(t) > maxText {
			return fmt.Errorf("descriptor of %.100s: %.100q…: %w", d.Digest, t, store.ErrTooLarge)
		}
	}
	d.elsewhere = len(d.URLs) > 0 || strings.Contains(d.MediaType, "nondistributable") || strings.Contains(d.MediaType, ".foreign.")
	d.attestation = d.Annotations["vnd.docker.reference.type"] != ""
	d.URLs, d.Annotations = nil, nil
	return nil
}

// document is what an index or a manifest can hold, of OCI or of Docker.
type document struct {
	Manifests *[]descriptor `json:"manifests"`
	Config    *descriptor   `json:"config"`
	Layers    []descriptor  `json:"layers"`

	size int64 // bytes of its text
}

// parseDocument reads an index or a manifest, and checks the digests in it.
func parseDocument(b []byte) (*document, error) {
	if err := store.FewValues(b, maxValues); err != nil {
		return nil, err
	}
	var d document
	if err := json.Unmarshal(b, &d); err != nil {
		return nil, fmt.Errorf("%w: %w", store.ErrCorrupt, err)
	}
	if len(d.Layers) > store.MaxLayers {
		return nil, fmt.Errorf("%d layers: %w", len(d.Layers), store.ErrTooLarge)
	}
	if d.Manifests != nil && len(*d.Manifests) > maxPlatforms {
		return nil, fmt.Errorf("%d manifests: %w", len(*d.Manifests), store.ErrTooLarge)
	}
	d.size = int64(len(b))
	all := []*descriptor{}
	if d.Config != nil {
		all = append(all, d.Config)
	}
	for i := range d.Layers {
		all = append(all, &d.Layers[i])
	}
	if d.Manifests != nil {
		for i := range *d.Manifests {
			all = append(all, &(*d.Manifests)[i])
		}
	}
	for _, e := range all {
		if err := e.condense(); err != nil {
			return nil, err
		}
	}
	return &d, nil
}

// isImage tells whether a manifest is an image's, and not some artifact's.
func (d *document) isImage() bool {
	if d.Config == nil {
		return false
	}
	switch d.Config.MediaType {
	case "application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json",
		"application/octet-stream", "": // Docker 1.10's
	default:
		return false
	}
	for _, l := range d.Layers {
		if l.MediaType != "" && !strings.HasPrefix(l.MediaType, "application/vnd.oci.image.layer.") &&
			!strings.HasPrefix(l.MediaType, "application/vnd.docker.image.rootfs.") {
			return false
		}
	}
	return true
}

// errMissing is a blob that the store does not have.
var errMissing = fmt.Errorf("is missing: %w", store.ErrCorrupt)

// blobPath is where a blob lies. The digest is valid, and so has no separators in it.
func blobPath(d digest.Digest) string {
	return blobDir + "/" + d.Algorithm().String() + "/" + d.Encoded()
}

// hasBlob tells whether a blob is here.
func (s *Store) hasBlob(d digest.Digest) bool {
	return d.Validate() == nil && s.root.Exists(blobPath(d))
}

// readBlob reads a blob and verifies it. errMissing, or what else is wrong with it.
func (s *Store) readBlob(d digest.Digest, limit int64) ([]byte, error) {
	if d.Validate() != nil {
		return nil, fmt.Errorf("%.100q is no digest: %w", string(d), store.ErrCorrupt)
	}
	b, err := s.root.Read(blobPath(d), limit)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("blob %s %w", d, errMissing)
	}
	if err != nil {
		return nil, fmt.Errorf("blob %s: %w: %w", d, store.ErrCorrupt, err)
	}
	if got := d.Algorithm().FromBytes(b); got != d {
		return nil, fmt.Errorf("blob %s hashes to %s: %w", d, got, store.ErrCorrupt)
	}
	return b, nil
}

// document reads an index or a manifest, once as long as something refers to
// it; s.build is held.
func (s *Store) document(d digest.Digest) (*document, error) {
	if doc := s.parsed[d]; doc != nil && s.hasBlob(d) {
		return doc, nil
	}
	b, err := s.readBlob(d, maxDocument)
	if err != nil {
		return nil, err
	}
	doc, err := parseDocument(b)
	if err != nil {
		return nil, fmt.Errorf("blob %s: %w", d, err)
	}
	s.parsed[d] = doc
	return doc, nil
}
