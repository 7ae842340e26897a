package archive

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	digest "github.com/opencontainers/go-digest"

	"imagefs/store"
	"imagefs/store/platform"
)

// Docker before 1.10 had no image configs. docker load makes them, from the
// JSON of each ancestor and the layers' diff IDs; what is made here is the same
// to the byte, because its digest is the image's ID.

const legacyNames = "repositories"

// strings1 is a list that may have been written as one string.
type strings1 []string

func (s *strings1) UnmarshalJSON(b []byte) error {
	var one string
	if json.Unmarshal(b, &one) == nil && string(b) != "null" {
		*s = []string{one}
		return nil
	}
	return json.Unmarshal(b, (*[]string)(s))
}

// v1Container is a container's config with the fields, in the order, in which docker load writes it.
type v1Container struct {
	Hostname        string
	Domainname      string
	User            string
	AttachStdin     bool
	AttachStdout    bool
	AttachStderr    bool
	ExposedPorts    map[string]struct{} `json:",omitempty"`
	Tty             bool
	OpenStdin       bool
	StdinOnce       bool
	Env             []string
	Cmd             strings1
	Healthcheck     *v1Health `json:",omitempty"`
	ArgsEscaped     bool      `json:",omitempty"`
	Image           string
	Volumes         map[string]struct{}
	WorkingDir      string
	Entrypoint      strings1
	NetworkDisabled bool   `json:",omitempty"`
	MacAddress      string `json:",omitempty"`
	OnBuild         []string
	Labels          map[string]string
	StopSignal      string   `json:",omitempty"`
	StopTimeout     *int     `json:",omitempty"`
	Shell           strings1 `json:",omitempty"`
}

type v1Health struct {
	Test          []string `json:",omitempty"`
	Interval      int64    `json:",omitempty"`
	Timeout       int64    `json:",omitempty"`
	StartPeriod   int64    `json:",omitempty"`
	StartInterval int64    `json:",omitempty"`
	Retries       int      `json:",omitempty"`
}

// v1Image is the <id>/json of an image.
type v1Image struct {
	ID              string       `json:"id,omitempty"`
	Parent          string       `json:"parent,omitempty"`
	Comment         string       `json:"comment,omitempty"`
	Created         time.Time    `json:"created"`
	Container       string       `json:"container,omitempty"`
	ContainerConfig v1Container  `json:"container_config,omitempty"`
	DockerVersion   string       `json:"docker_version,omitempty"`
	Author          string       `json:"author,omitempty"`
	Config          *v1Container `json:"config,omitempty"`
	Architecture    string       `json:"architecture,omitempty"`
	Variant         string       `json:"variant,omitempty"`
	OS              string       `json:"os,omitempty"`
	Size            int64        `json:",omitempty"`
}

// v1History is a step of a history as docker load writes it.
type v1History struct {
	Created   time.Time `json:"created"`
	Author    string    `json:"author,omitempty"`
	CreatedBy string    `json:"created_by,omitempty"`
	Comment   string    `json:"comment,omitempty"`
}

// legacyStep is one image of an archive, which is one layer.
type legacyStep struct {
	raw []byte
	v1  v1Image
}

// legacyImages plans the images of an archive of Docker before 1.10: those with
// a name and those that are nobody's parent.
func (l *load) legacyImages(c content, ids []string) ([]*image, error) {
	steps := map[string]*legacyStep{}
	parent := map[string]bool{}
	for _, id := range ids {
		b, err := c.bytes(id+"/json", l.lim.JSON)
		if err != nil {
			return nil, present(id+"/json", err)
		}
		if l.configs += int64(len(b)); l.configs > l.lim.Held {
			return nil, fmt.Errorf("more than %d bytes of image JSON: %w", l.lim.Held, store.ErrTooLarge)
		}
		s := &legacyStep{raw: b}
		if err := decode(id+"/json", b, &s.v1); err != nil {
			return nil, err
		}
		steps[id] = s
		parent[s.v1.Parent] = true
	}
	names, err := l.legacyTags(c)
	if err != nil {
		return nil, err
	}
	for _, id := range slices.Sorted(maps.Keys(names)) {
		if steps[id] == nil {
			return nil, fmt.Errorf("repositories: %s names the image %.80q, which is %w: %w", names[id][0], id, errMissing, store.ErrCorrupt)
		}
	}
	if err := l.begin(); err != nil {
		return nil, err
	}
	if c.lazy() {
		var total int64
		for _, id := range ids {
			n, _, _ := c.size(id + "/layer.tar")
			total += n
		}
		l.meter.total(total)
	}
	var images []*image
	var others []platform.Platform
	for _, id := range ids {
		if parent[id] && len(names[id]) == 0 {
			continue
		}
		if len(images) == l.lim.Images {
			return nil, fmt.Errorf("more than %d images in one archive: %w", l.lim.Images, store.ErrTooLarge)
		}
		v1 := &steps[id].v1
		p := platform.Of(v1.OS, v1.Architecture, v1.Variant)
		if _, ok := l.want.Rank(p); l.explicit && !ok {
			others = append(others, p)
			continue
		}
		img, err := l.legacyImage(c, steps, id)
		if err != nil && l.survey {
			images = append(images, &image{id: digest.Digest("sha256:" + id), names: names[id], err: err})
			continue
		}
		if err != nil {
			return nil, err
		}
		if err := l.keep(img); err != nil {
			return nil, err
		}
		img.names = names[id]
		images = append(images, img)
	}
	if len(images) == 0 {
		if len(others) > 0 {
			return nil, l.noneFor(others)
		}
		return nil, fmt.Errorf("the parents of all images go round in a circle: %w", store.ErrCorrupt)
	}
	return images, nil
}

// legacyTags reads the file repositories, if there is one: image ID → references.
func (l *load) legacyTags(c content) (map[string][]string, error) {
	names := map[string][]string{}
	if _, ok, err := c.size(legacyNames); !ok {
		return names, err
	}
	b, err := c.bytes(legacyNames, l.lim.JSON)
	if err != nil {
		return nil, present(legacyNames, err)
	}
	var repos map[string]map[string]string
	if err := decode(legacyNames, b, &repos); err != nil {
		return nil, err
	}
	for repo, tags := range repos {
		for tag, id := range tags {
			ref, err := store.NewTag(repo + ":" + tag)
			if err != nil {
				return nil, fmt.Errorf("repositories: %w", err)
			}
			names[id] = append(names[id], ref)
		}
	}
	for _, refs := range names {
		slices.Sort(refs)
	}
	return names, nil
}

// legacyImage unpacks an image's layers and makes its config.
func (l *load) legacyImage(c content, steps map[string]*legacyStep, id string) (*image, error) {
	var chain []string // the image first
	for at := id; at != ""; at = steps[at].v1.Parent {
		if steps[at] == nil {
			return nil, fmt.Errorf("image %s: its ancestor %.80q is %w: %w", id, at, errMissing, store.ErrCorrupt)
		}
		if slices.Contains(chain, at) {
			return nil, fmt.Errorf("image %s: its parents go round in a circle: %w", id, store.ErrCorrupt)
		}
		if chain = append(chain, at); len(chain) > store.MaxLayers {
			return nil, fmt.Errorf("image %s: more than %d layers: %w", id, store.MaxLayers, store.ErrTooLarge)
		}
	}
	img := &image{}
	var diffs []digest.Digest
	var history []v1History
	for _, at := range slices.Backward(chain) {
		name := at + "/layer.tar"
		l.meter.what("layer " + at[:12])
		b, err := c.layer(name)
		if err == nil {
			err = b.err
		}
		if err != nil {
			return nil, present(name, err)
		}
		v1 := &steps[at].v1
		diffs = append(diffs, b.staged.DiffID())
		history = append(history, v1History{v1.Created, v1.Author, strings.Join(v1.ContainerConfig.Cmd, " "), v1.Comment})
		img.layers = append(img.layers, layerRef{name: name, size: -1, blob: b})
	}
	var err error
	if img.config, err = legacyConfig(steps[id], diffs, history); err != nil {
		return nil, fmt.Errorf("image %s: %w", id, err)
	}
	img.id = digest.FromBytes(img.config)
	img.cfg, err = store.ParseConfig(img.config)
	return img, err
}

// legacyConfig makes an image config of an <id>/json.
func legacyConfig(s *legacyStep, diffs []digest.Digest, history []v1History) ([]byte, error) {
	raw := s.raw
	if older(s.v1.DockerVersion, 1, 8, 3) {
		// What these versions wrote is normalised first.
		var err error
		if raw, err = json.Marshal(s.v1); err != nil {
			return nil, fmt.Errorf("%w: %w", store.ErrCorrupt, err)
		}
	}
	var c map[string]any
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(raw, &fields); err != nil {
		return nil, fmt.Errorf("%w: %w", store.ErrCorrupt, err)
	}
	c = make(map[string]any, len(fields)+2)
	for k, v := range fields {
		c[k] = v
	}
	for _, k := range []string{"id", "parent", "Size", "parent_id", "layer_id", "throwaway"} {
		delete(c, k)
	}
	c["rootfs"] = struct {
		Type    string          `json:"type"`
		DiffIDs []digest.Digest `json:"diff_ids,omitempty"`
	}{"layers", diffs}
	c["history"] = history
	b, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", store.ErrCorrupt, err)
	}
	return b, nil
}

// older compares a version with another, number by number; what is no number is 0.
func older(version string, than ...int) bool {
	parts := strings.Split(version, ".")
	for i, want := range than {
		have := 0
		if i < len(parts) {
			have, _ = strconv.Atoi(parts[i])
		}
		if have != want {
			return have < want
		}
	}
	return false
}
