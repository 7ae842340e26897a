package store

import (
	"encoding/json"
	"fmt"
	"time"

	digest "github.com/opencontainers/go-digest"
)

// MaxConfigSize bounds an image config in bytes; Docker's own limit for a config blob is 4 MiB.
const MaxConfigSize = 16 << 20

// MaxLayers bounds the layers of an image; the kernel's overlayfs takes 500.
const MaxLayers = 500

// Config is the part of an image config that imagefs itself uses.
type Config struct {
	Created      time.Time
	Author       string
	Architecture string
	Variant      string
	OS           string
	OSVersion    string
	DiffIDs      []digest.Digest // bottom first
	History      []History       // oldest first
}

// History is one step of an image's history.
type History struct {
	Created    time.Time `json:"created,omitzero"`
	CreatedBy  string    `json:"created_by,omitempty"`
	Author     string    `json:"author,omitempty"`
	Comment    string    `json:"comment,omitempty"`
	EmptyLayer bool      `json:"empty_layer,omitempty"`
}

// ParseConfig reads an image config (OCI image spec, config.md; Docker's is the
// same with more fields). It returns ErrCorrupt wrapped for what is no config,
// or names a digest that is none.
func ParseConfig(raw []byte) (Config, error) {
	if len(raw) > MaxConfigSize {
		return Config{}, fmt.Errorf("image config of %d bytes: %w", len(raw), ErrTooLarge)
	}
	var j struct {
		Created      *time.Time `json:"created"`
		Author       string     `json:"author"`
		Architecture string     `json:"architecture"`
		Variant      string     `json:"variant"`
		OS           string     `json:"os"`
		OSVersion    string     `json:"os.version"`
		RootFS       struct {
			Type    string          `json:"type"`
			DiffIDs []digest.Digest `json:"diff_ids"`
		} `json:"rootfs"`
		History []History `json:"history"`
	}
	if err := json.Unmarshal(raw, &j); err != nil {
		return Config{}, fmt.Errorf("image config: %w: %w", ErrCorrupt, err)
	}
	if len(j.RootFS.DiffIDs) > MaxLayers {
		return Config{}, fmt.Errorf("image config with %d layers: %w", len(j.RootFS.DiffIDs), ErrTooLarge)
	}
	for _, d := range j.RootFS.DiffIDs {
		if err := d.Validate(); err != nil || d.Algorithm() != digest.SHA256 {
			return Config{}, fmt.Errorf("image config: diff ID %.80q: %w", string(d), ErrCorrupt)
		}
	}
	c := Config{Author: j.Author, Architecture: j.Architecture, Variant: j.Variant, OS: j.OS,
		OSVersion: j.OSVersion, DiffIDs: j.RootFS.DiffIDs, History: j.History}
	if j.Created != nil {
		c.Created = *j.Created
	}
	return c, nil
}

// LayerHistory pairs layers with history: element n is the index in c.History
// of the step that made layer n, or -1 where the history does not say.
func (c Config) LayerHistory() []int {
	out := make([]int, len(c.DiffIDs))
	h := 0
	for n := range out {
		for h < len(c.History) && c.History[h].EmptyLayer {
			h++
		}
		if h < len(c.History) {
			out[n] = h
			h++
		} else {
			out[n] = -1
		}
	}
	return out
}
