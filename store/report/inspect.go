package report

import (
	"bytes"
	"encoding/json"
	"io"
	"runtime"
	"time"

	"imagefs/store"
)

// Inspection is the object that `docker image inspect` prints for an image,
// field by field and in that order. Values that no store knows are zero.
type Inspection struct {
	ID              string `json:"Id"`
	RepoTags        []string
	RepoDigests     []string
	Parent          string
	Comment         string
	Created         string
	Container       string
	ContainerConfig *store.ContainerConfig
	DockerVersion   string
	Author          string
	Config          *store.ContainerConfig
	Architecture    string
	Variant         string `json:",omitempty"`
	Os              string
	OsVersion       string `json:",omitempty"`
	Size            int64  // -1 if the store does not know it
	VirtualSize     int64
	GraphDriver     GraphDriver
	RootFS          RootFS
	Metadata        Metadata
}

// GraphDriver tells where an engine keeps an image's layers.
type GraphDriver struct {
	Data map[string]string
	Name string
}

// RootFS names an image's layers, bottom first.
type RootFS struct {
	Type   string
	Layers []string `json:",omitempty"`
}

// Metadata is what only this store knows of an image.
type Metadata struct{ LastTagTime time.Time }

// Graph is a store.Image that can tell where its layers lie on disk. Paths are
// absolute; a driver that keeps none gives nil.
type Graph interface {
	Graph() (driver string, data map[string]string)
}

// Inspect returns everything that is known of an image.
func Inspect(img store.Image, refs Refs) Inspection {
	raw, cfg := parseConfig(img.RawConfig()), img.Config()
	r := refs[img.ID()]
	out := Inspection{
		ID:              string(img.ID()),
		RepoTags:        append([]string{}, r.Tags...),
		RepoDigests:     append([]string{}, r.Digests...),
		Parent:          string(img.Parent()),
		Comment:         raw.Comment,
		Created:         cfg.Created.Format(time.RFC3339Nano),
		Container:       raw.Container,
		ContainerConfig: &raw.ContainerConfig,
		DockerVersion:   raw.DockerVersion,
		Author:          cfg.Author,
		Config:          raw.Config,
		Architecture:    cfg.Architecture,
		Variant:         cfg.Variant,
		Os:              cfg.OS,
		OsVersion:       cfg.OSVersion,
		Size:            Size(img),
		RootFS:          RootFS{Type: raw.RootFS.Type},
		Metadata:        Metadata{LastTagTime: img.LastTagged()},
	}
	out.VirtualSize = out.Size
	if out.Os == "" {
		out.Os = runtime.GOOS
	}
	if n := len(cfg.History); out.Comment == "" && n > 0 {
		out.Comment = cfg.History[n-1].Comment
	}
	for _, d := range cfg.DiffIDs {
		out.RootFS.Layers = append(out.RootFS.Layers, string(d))
	}
	if g, ok := img.(Graph); ok {
		out.GraphDriver.Name, out.GraphDriver.Data = g.Graph()
	}
	return out
}

// WriteInspect writes what `docker image inspect` prints: an indented array of
// all, with "json" the same in one line, with a template what that makes of
// each. ErrTemplate for a format that is none, or that one of them does not
// fit; the others are written then.
func WriteInspect(w io.Writer, all []Inspection, format string) error {
	if all == nil {
		all = []Inspection{}
	}
	switch format {
	case "":
		return encode(w, all, "    ")
	case jsonFormat:
		return encode(w, all, "")
	}
	t, err := parseTemplate(format)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	var bad error
	for _, i := range all {
		var one bytes.Buffer
		if t.Execute(&one, i) != nil {
			// The names of the JSON's fields work too, as with Docker.
			var fields any
			if fields, err = i.fields(); err != nil {
				return err
			}
			one.Reset()
			if err := t.Option("missingkey=error").Execute(&one, fields); err != nil {
				bad = badTemplate(err)
				continue
			}
		}
		b.Write(one.Bytes())
		b.WriteByte('\n')
	}
	if b.Len() == 0 {
		b.WriteByte('\n')
	}
	if _, err := w.Write(b.Bytes()); err != nil {
		return err
	}
	return bad
}

func (i Inspection) fields() (any, error) {
	b, err := json.Marshal(i)
	if err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var v any
	err = d.Decode(&v)
	return v, err
}
