package daemon

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"runtime"
	"slices"
	"time"

	digest "github.com/opencontainers/go-digest"

	"imagefs/store"
	"imagefs/store/beneath"
	"imagefs/store/daemon/api"
)

// archive is images in the form of docker save.
type archive struct {
	images []store.NewImage
	layers map[digest.Digest]*stagedTar // those that are in it
}

// manifestEntry is an image in manifest.json.
type manifestEntry struct {
	Config   string
	RepoTags []string
	Layers   []string
	Parent   digest.Digest `json:",omitempty"`
}

// write writes the archive:
//
//	<image ID>.json   the config
//	<diff ID>.tar     a layer
//	manifest.json     the images; layers that are not in the archive are named too
func (a archive) write(w io.Writer) error {
	t := tar.NewWriter(w)
	manifest := []manifestEntry{}
	for _, img := range a.images {
		id := digest.FromBytes(img.Config)
		m := manifestEntry{Config: id.Encoded() + ".json", RepoTags: img.Names, Layers: []string{}, Parent: img.Parent}
		for _, l := range img.Layers {
			m.Layers = append(m.Layers, l.DiffID.Encoded()+".tar")
		}
		manifest = append(manifest, m)
		if err := putBytes(t, m.Config, img.Config); err != nil {
			return err
		}
	}
	ids := make([]digest.Digest, 0, len(a.layers))
	for d := range a.layers {
		ids = append(ids, d)
	}
	slices.Sort(ids)
	for _, d := range ids {
		l := a.layers[d]
		if err := putTar(t, d.Encoded()+".tar", l.size, io.NewSectionReader(l.f, 0, l.size)); err != nil {
			return err
		}
	}
	b, err := json.Marshal(manifest)
	if err != nil {
		return err
	}
	return errors.Join(putBytes(t, "manifest.json", b), t.Close())
}

func putBytes(t *tar.Writer, name string, b []byte) error {
	return putTar(t, name, int64(len(b)), bytes.NewReader(b))
}

func putTar(t *tar.Writer, name string, size int64, r io.Reader) error {
	h := &tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: size, ModTime: time.Unix(0, 0)}
	if err := t.WriteHeader(h); err != nil {
		return err
	}
	_, err := io.Copy(t, r)
	return err
}

// LoadEmpty makes an image without layers, which nobody else has, with a name or
// with none, and returns its ID.
func LoadEmpty(ctx context.Context, c *api.Client, ref string) (digest.Digest, error) {
	config, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux", "created": time.Now().UTC(),
		"config": map[string]any{"Labels": map[string]string{"imagefs.untag": ref, "imagefs.random": beneath.Random(16)}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{}},
	})
	if err != nil {
		return "", err
	}
	img := store.NewImage{Config: config}
	if ref != "" {
		img.Names = []string{ref}
	}
	return digest.FromBytes(config), c.Load(ctx, archive{images: []store.NewImage{img}}.write)
}
