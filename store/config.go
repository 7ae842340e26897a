package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	digest "github.com/opencontainers/go-digest"
)

// MaxConfigSize bounds an image config in bytes; Docker's own limit for a config blob is 4 MiB.
const MaxConfigSize = 16 << 20

// MaxHistory bounds the steps of an image's history. Each layer is a step, and
// so is each instruction that made none.
const MaxHistory = 10_000

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
			Type    string                 `json:"type"`
			DiffIDs bounded[digest.Digest] `json:"diff_ids"`
		} `json:"rootfs"`
		History bounded[History] `json:"history"`
	}
	err := json.Unmarshal(raw, &j)
	if errors.Is(err, ErrTooLarge) {
		return Config{}, fmt.Errorf("image config: %w", err)
	}
	if err != nil {
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

// bounded is an array that is not decoded past what any image has: a few bytes
// of JSON can stand for a hundred times as many in memory.
type bounded[T any] []T

// UnmarshalJSON implements json.Unmarshaler.
func (b *bounded[T]) UnmarshalJSON(raw []byte) error {
	d := json.NewDecoder(bytes.NewReader(raw))
	t, err := d.Token()
	if err != nil || t == nil {
		return err
	}
	if t != json.Delim('[') {
		return fmt.Errorf("%v where an array is needed", t)
	}
	*b = nil
	for d.More() {
		if len(*b) == MaxHistory {
			return fmt.Errorf("an array of more than %d: %w", MaxHistory, ErrTooLarge)
		}
		var v T
		if err := d.Decode(&v); err != nil {
			return err
		}
		*b = append(*b, v)
	}
	return nil
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
