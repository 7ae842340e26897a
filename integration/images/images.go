// Package images assembles small container images without an engine.
package images

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"time"
)

// Layer is one layer's uncompressed tar.
type Layer []byte

// DiffID returns the layer's diff ID.
func (l Layer) DiffID() string {
	sum := sha256.Sum256(l)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// Step is a layer with what its history says, or, with a nil Layer, history alone.
type Step struct {
	By    string
	Layer Layer
}

// Image is an image to write.
type Image struct {
	Tags    []string
	Created time.Time
	Steps   []Step // oldest first
	Config  map[string]any
}

// raw returns the image's config, whose SHA-256 is its ID.
func (i Image) raw() ([]byte, error) {
	type history struct {
		Created    time.Time `json:"created"`
		CreatedBy  string    `json:"created_by"`
		EmptyLayer bool      `json:"empty_layer,omitempty"`
	}
	var hs []history
	diffIDs := []string{}
	for n, s := range i.Steps {
		hs = append(hs, history{i.Created.Add(time.Duration(n-len(i.Steps)) * time.Minute), s.By, s.Layer == nil})
		if s.Layer != nil {
			diffIDs = append(diffIDs, s.Layer.DiffID())
		}
	}
	return json.Marshal(map[string]any{
		"architecture": "amd64", "os": "linux", "created": i.Created, "config": i.Config, "history": hs,
		"rootfs": map[string]any{"type": "layers", "diff_ids": diffIDs},
	})
}

// Write writes the images as one archive, as `docker save` did from Docker 1.10 to 24.
func Write(w io.Writer, images ...Image) error {
	type entry struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	var manifest []entry
	out := tar.NewWriter(w)
	written := map[string]bool{}
	put := func(name string, content []byte) error {
		if written[name] {
			return nil
		}
		written[name] = true
		if err := out.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content))}); err != nil {
			return err
		}
		_, err := out.Write(content)
		return err
	}
	for _, i := range images {
		raw, err := i.raw()
		if err != nil {
			return fmt.Errorf("image config: %w", err)
		}
		e := entry{Config: fmt.Sprintf("%x.json", sha256.Sum256(raw)), RepoTags: i.Tags}
		if err := put(e.Config, raw); err != nil {
			return err
		}
		for _, s := range i.Steps {
			if s.Layer == nil {
				continue
			}
			name := s.Layer.DiffID()[len("sha256:"):] + "/layer.tar"
			if err := put(name, s.Layer); err != nil {
				return err
			}
			e.Layers = append(e.Layers, name)
		}
		manifest = append(manifest, e)
	}
	b, err := json.Marshal(manifest)
	if err != nil {
		return err
	}
	if err := put("manifest.json", b); err != nil {
		return err
	}
	return out.Close()
}

// Tar collects the entries of a layer. Its methods keep the first error for Layer.
type Tar struct {
	Time time.Time // of entries that have none of their own

	b   bytes.Buffer
	w   *tar.Writer
	err error
}

// Add adds an entry.
func (t *Tar) Add(h tar.Header, content []byte) *Tar {
	if t.w == nil {
		t.w = tar.NewWriter(&t.b)
	}
	if t.err != nil {
		return t
	}
	h.Size = int64(len(content))
	if h.ModTime.IsZero() {
		h.ModTime = t.Time
	}
	if t.err = t.w.WriteHeader(&h); t.err == nil {
		_, t.err = t.w.Write(content)
	}
	return t
}

// Dir adds a directory.
func (t *Tar) Dir(name string, mode int64) *Tar {
	return t.Add(tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: mode}, nil)
}

// File adds a regular file.
func (t *Tar) File(name string, mode int64, content []byte) *Tar {
	return t.Add(tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode}, content)
}

// Symlink adds a symbolic link.
func (t *Tar) Symlink(name, target string) *Tar {
	return t.Add(tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777}, nil)
}

// Link adds a hard link.
func (t *Tar) Link(name, target string) *Tar {
	return t.Add(tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target, Mode: 0o755}, nil)
}

// Layer closes the tar and returns it.
func (t *Tar) Layer() (Layer, error) {
	if t.w == nil {
		t.w = tar.NewWriter(&t.b)
	}
	if t.err == nil {
		t.err = t.w.Close()
	}
	return t.b.Bytes(), t.err
}
