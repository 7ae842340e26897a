package save

import (
	"encoding/json"
	"fmt"
	"time"

	digest "github.com/opencontainers/go-digest"

	"imagefs/store"
)

// v1Image is an image as Docker before 1.10 described it, with the fields and
// in the order in which dockerd writes them.
type v1Image struct {
	ID              string                 `json:"id,omitempty"`
	Parent          string                 `json:"parent,omitempty"`
	Comment         string                 `json:"comment,omitempty"`
	Created         time.Time              `json:"created"`
	Container       string                 `json:"container,omitempty"`
	ContainerConfig store.ContainerConfig  `json:"container_config"`
	DockerVersion   string                 `json:"docker_version,omitempty"`
	Author          string                 `json:"author,omitempty"`
	Config          *store.ContainerConfig `json:"config,omitempty"`
	Architecture    string                 `json:"architecture,omitempty"`
	Variant         string                 `json:"variant,omitempty"`
	OS              string                 `json:"os,omitempty"`
	Size            int64                  `json:",omitempty"`
}

// v1Layer is a layer's directory in a Docker archive.
type v1Layer struct {
	id   string // hex
	json []byte
}

// v1Layers describes the layers of an image, bottom first. The last one carries
// the image's config, those below only what they are built on.
func v1Layers(raw []byte, diffIDs []digest.Digest) ([]v1Layer, error) {
	var image v1Image
	// After an UnmarshalTypeError all other fields are filled in.
	_ = json.Unmarshal(raw, &image)
	for _, c := range []*store.ContainerConfig{&image.ContainerConfig, image.Config} {
		if c != nil && c.Healthcheck != nil {
			c.Healthcheck.StartInterval = 0 // the versions that write this form do not know it
		}
	}
	os := image.OS
	if os == "" {
		os = "linux"
	}
	var out []v1Layer
	var parent, chain digest.Digest
	for n, diff := range diffIDs {
		chain = store.NextChainID(chain, diff)
		v1 := v1Image{Created: time.Unix(0, 0).UTC()}
		if n == len(diffIDs)-1 {
			v1 = image
		}
		id, err := v1ID(v1, chain, parent)
		if err != nil {
			return nil, err
		}
		v1.ID, v1.OS = id.Encoded(), os
		if parent != "" {
			v1.Parent = parent.Encoded()
		}
		b, err := json.Marshal(v1)
		if err != nil {
			return nil, fmt.Errorf("describe layer %d: %w", n, err)
		}
		out = append(out, v1Layer{v1.ID, b})
		parent = id
	}
	return out, nil
}

// v1ID is the digest of an image's JSON with its layer and its parent.
func v1ID(v1 v1Image, chain, parent digest.Digest) (digest.Digest, error) {
	v1.ID = ""
	b, err := json.Marshal(v1)
	if err != nil {
		return "", fmt.Errorf("describe layer %s: %w", chain, err)
	}
	var fields map[string]any
	var raw map[string]json.RawMessage
	if err := json.Unmarshal(b, &raw); err != nil {
		return "", err
	}
	fields = make(map[string]any, len(raw)+2)
	for k, v := range raw {
		fields[k] = v
	}
	fields["layer_id"] = chain
	if parent != "" {
		fields["parent"] = parent
	}
	if b, err = json.Marshal(fields); err != nil {
		return "", err
	}
	return digest.FromBytes(b), nil
}
