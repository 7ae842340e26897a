package save

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"

	digest "github.com/opencontainers/go-digest"
)

// dockerImage is one image of a manifest.json.
type dockerImage struct {
	Config   string
	RepoTags []string
	Layers   []string
	Parent   digest.Digest `json:",omitempty"`
}

// Docker makes the archive that `docker save` makes of images. The layers'
// sizes are asked for and nothing is read. Errors wrap store.ErrUnsupported if a
// layer's tar is not to be had, store.ErrCorrupt if an image is not whole.
//
// A layer that several images share carries the time of the first one of them.
func Docker(ctx context.Context, items []Item) (*Archive, error) {
	var members []member
	var manifest []dockerImage
	repos := map[string]map[string]string{}
	saved := map[string]bool{}          // v1 IDs
	tars := map[digest.Digest]string{}  // diff ID → v1 ID of the directory that has the tar
	parents := map[digest.Digest]bool{} // IDs in this archive
	for _, it := range items {
		parents[it.Image.ID()] = true
	}
	for _, it := range items {
		img := it.Image
		layers, err := Whole(img)
		if err != nil {
			return nil, err
		}
		v1, err := v1Layers(img.RawConfig(), img.Config().DiffIDs)
		if err != nil {
			return nil, fmt.Errorf("image %s: %w", img.ID(), err)
		}
		t := created(img)
		d := dockerImage{Config: img.ID().Encoded() + ".json", RepoTags: it.Names}
		for n, l := range layers {
			dir := v1[n].id + "/"
			d.Layers = append(d.Layers, dir+"layer.tar")
			if saved[v1[n].id] {
				continue
			}
			saved[v1[n].id] = true
			tar := member{name: dir + "layer.tar", mtime: t}
			if first, ok := tars[l.DiffID()]; ok {
				tar.link = "../" + first + "/layer.tar"
			} else {
				tars[l.DiffID()] = v1[n].id
				if tar.part, err = layerPart(ctx, l); err != nil {
					return nil, fmt.Errorf("image %s: %w", img.ID(), err)
				}
			}
			members = append(members, tar,
				member{name: dir, mtime: t},
				member{name: dir + "VERSION", mtime: t, body: []byte("1.0")},
				member{name: dir + "json", mtime: t, body: v1[n].json})
		}
		members = append(members, member{name: d.Config, mtime: t, body: img.RawConfig()})
		if p := img.Parent(); p != img.ID() && parents[p] {
			d.Parent = p
		}
		manifest = append(manifest, d)
		if len(v1) > 0 {
			nameIn(repos, it.Names, v1[len(v1)-1].id)
		}
	}
	b, err := jsonLine(manifest)
	if err != nil {
		return nil, err
	}
	members = append(members, member{name: dockerManifest, mtime: epoch, body: b})
	if len(repos) > 0 {
		if b, err = jsonLine(repos); err != nil {
			return nil, err
		}
		members = append(members, member{name: "repositories", mtime: epoch, body: b})
	}
	return pack(members)
}

// nameIn adds names to what becomes the file repositories.
func nameIn(repos map[string]map[string]string, names []string, id string) {
	for _, n := range names {
		i := strings.LastIndexByte(n, ':')
		if i < 0 {
			continue
		}
		if repos[n[:i]] == nil {
			repos[n[:i]] = map[string]string{}
		}
		repos[n[:i]][n[i+1:]] = id
	}
}

func jsonLine(v any) ([]byte, error) {
	var b bytes.Buffer
	err := json.NewEncoder(&b).Encode(v)
	return b.Bytes(), err
}
