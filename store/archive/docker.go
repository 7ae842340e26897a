package archive

import (
	"fmt"
	"slices"
	"strings"

	digest "github.com/opencontainers/go-digest"

	"imagefs/store"
	"imagefs/store/platform"
)

const dockerManifest = "manifest.json"

// dockerImage is one image of a manifest.json.
type dockerImage struct {
	Config       string
	RepoTags     []string
	Layers       []string
	Parent       digest.Digest
	LayerSources map[digest.Digest]descriptor // by diff ID: of a layer that may be elsewhere
}

// errNoImages: a manifest.json that lists none.
var errNoImages = fmt.Errorf("manifest.json lists no images: %w", store.ErrCorrupt)

// parseDockerManifest reads a manifest.json.
func parseDockerManifest(b []byte, lim Limits) ([]dockerImage, error) {
	var list []dockerImage
	if err := decode(dockerManifest, b, &list); err != nil {
		return nil, err
	}
	if len(list) == 0 {
		return nil, errNoImages
	}
	if len(list) > lim.Images {
		return nil, fmt.Errorf("%d images in one archive: %w", len(list), store.ErrTooLarge)
	}
	for _, d := range list {
		if len(d.Layers) > store.MaxLayers {
			return nil, fmt.Errorf("image with %d layers: %w", len(d.Layers), store.ErrTooLarge)
		}
	}
	return list, nil
}

// dockerList reads the manifest.json of an archive.
func (l *load) dockerList(c content) ([]dockerImage, error) {
	b, err := c.bytes(dockerManifest, l.lim.JSON)
	if err != nil {
		return nil, present(dockerManifest, err)
	}
	return parseDockerManifest(b, l.lim)
}

// dockerImages plans the images of a manifest.json.
func (l *load) dockerImages(c content) ([]*image, error) {
	list, err := l.dockerList(c)
	if err != nil {
		return nil, err
	}
	var images []*image
	var others []platform.Platform
	for _, d := range list {
		img, err := l.dockerImage(c, d)
		if err != nil {
			return nil, err
		}
		p := platform.Of(img.cfg.OS, img.cfg.Architecture, img.cfg.Variant)
		if _, ok := l.want.Rank(p); l.explicit && !ok {
			others = append(others, p)
			continue
		}
		if err := l.keep(img); err != nil {
			return nil, err
		}
		images = append(images, img)
	}
	if len(images) == 0 {
		return nil, l.noneFor(others)
	}
	for _, p := range others {
		l.log.Warn("an image of the archive is for another platform and is not loaded", "platform", p, "wanted", l.want)
	}
	return images, nil
}

// noneFor is the error for an archive with images for other platforms only.
func (l *load) noneFor(have []platform.Platform) error {
	var names []string
	for _, p := range have {
		if s := fmt.Sprintf("%.60s", printable(p.String())); !slices.Contains(names, s) {
			names = append(names, s)
		}
	}
	slices.Sort(names)
	if len(names) > 20 {
		names = append(names[:20], "more")
	}
	return fmt.Errorf("no image for %s in the archive, which has %s: %w", l.want, strings.Join(names, ", "), store.ErrNotFound)
}

// dockerImage plans one image. With an error comes what is known of it.
func (l *load) dockerImage(c content, d dockerImage) (*image, error) {
	if d.Config == "" {
		return &image{}, fmt.Errorf("manifest.json: image without a config: %w", store.ErrCorrupt)
	}
	img := &image{parent: d.Parent}
	var err error
	if img.config, img.cfg, err = l.config(c, d.Config); err != nil {
		return img, err
	}
	img.id = digest.FromBytes(img.config)
	if want := digestOf(d.Config); want != "" {
		if got := want.Algorithm().FromBytes(img.config); got != want {
			img.id = want
			return img, mismatch(fmt.Sprintf("config %.200q", d.Config), want, got)
		}
	}
	if hex, ok := strings.CutSuffix(d.Config, ".json"); ok && len(hex) == 64 && hex != img.id.Encoded() {
		l.log.Warn("a config's name is not its digest", "name", d.Config, "id", img.id)
	}
	for _, t := range d.RepoTags {
		ref, err := store.NewTag(t)
		if err != nil {
			return img, fmt.Errorf("manifest.json: RepoTags: %w", err)
		}
		img.names = append(img.names, ref)
	}
	for i, name := range d.Layers {
		ref := layerRef{name: name, digest: digestOf(name), size: -1}
		if i < len(img.cfg.DiffIDs) {
			if src, ok := d.LayerSources[img.cfg.DiffIDs[i]]; ok {
				ref.elsewhere = src.elsewhere()
			}
		}
		img.layers = append(img.layers, ref)
	}
	if len(d.Layers) != len(img.cfg.DiffIDs) {
		return img, fmt.Errorf("image %s: manifest.json lists %d layers, its config %d: %w", img, len(d.Layers), len(img.cfg.DiffIDs), store.ErrCorrupt)
	}
	return img, nil
}

// printable makes text from an archive fit for a message.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
}
