package archive

import (
	"errors"
	"fmt"
	"strings"

	digest "github.com/opencontainers/go-digest"

	"imagefs/store"
)

// surveyImages finds all images of an archive, for whatever platform, broken
// ones with what is wrong with them. An error if there is none at all.
func (l *load) surveyImages(c content, n *snapshot) ([]*image, error) {
	var images []*image
	var first error
	add := func(what []*image, err error) {
		images = append(images, what...)
		if err != nil && first == nil {
			first = err
		}
	}
	_, docker, err := c.size(dockerManifest)
	if err != nil {
		return nil, err
	}
	_, oci, err := c.size(ociIndex)
	if err != nil {
		return nil, err
	}
	if docker {
		add(l.surveyDocker(c, n))
	}
	if oci {
		add(l.surveyOCI(c))
	}
	if !docker && !oci {
		add(l.images(c))
	}
	if len(images) == 0 {
		return nil, first
	}
	if first != nil {
		n.problems = append(n.problems, first)
		l.log.Warn("a part of the archive cannot be read", "err", first)
	}
	var whole int64
	for _, img := range images {
		if whole += int64(len(img.config)); whole > l.lim.Held {
			return nil, fmt.Errorf("image configs of more than %d bytes together: %w", l.lim.Held, store.ErrTooLarge)
		}
	}
	digests := map[digest.Digest][]digest.Digest{}
	for _, img := range images {
		digests[img.id] = append(digests[img.id], img.digests...)
	}
	images = unite(images)
	for _, img := range images {
		img.digests = digests[img.id]
	}
	return images, nil
}

// surveyDocker finds the images of a manifest.json.
func (l *load) surveyDocker(c content, n *snapshot) ([]*image, error) {
	list, err := l.dockerList(c)
	if err != nil {
		return nil, err
	}
	var images []*image
	for _, d := range list {
		var tags []string
		for _, t := range d.RepoTags {
			if ref, err := store.FamiliarTag(t); err != nil {
				l.log.Warn("a name in the archive is none", "name", printable(t))
			} else {
				tags = append(tags, ref)
			}
		}
		d.RepoTags = tags
		img, err := l.dockerImage(c, d)
		if err != nil {
			if l.ctx.Err() != nil {
				return nil, err
			}
			img.names, img.err = tags, err
			if img.id == "" {
				img.id = claimedID(d.Config)
			}
			if img.id == "" {
				n.problems = append(n.problems, err)
				continue
			}
			l.distrust(img)
		}
		images = append(images, img)
	}
	if len(images) == 0 {
		return nil, n.problems[0]
	}
	return images, nil
}

// claimedID is the image ID that a config's name claims, "" if it claims none.
func claimedID(name string) digest.Digest {
	if d := digestOf(name); d != "" {
		return d
	}
	d := digest.Digest("sha256:" + strings.TrimSuffix(name, ".json"))
	if d.Validate() != nil {
		return ""
	}
	return d
}

// distrust takes away a config that is not the one of the image's ID.
func (l *load) distrust(img *image) {
	if img.config != nil && digest.FromBytes(img.config) != img.id {
		img.config, img.cfg = nil, store.Config{}
	}
}

// surveyOCI finds the images of an index.json, in the order in which they stand there.
func (l *load) surveyOCI(c content) ([]*image, error) {
	manifests, err := l.ociManifests(c)
	if err != nil {
		return nil, err
	}
	s := &selection{load: l, c: c, nodes: map[digest.Digest]*node{}}
	groups, err := s.groups(manifests)
	if err != nil {
		return nil, err
	}
	var images []*image
	for _, g := range groups {
		of, err := s.surveyGroup(g)
		if err != nil {
			return nil, err
		}
		if images = append(images, of...); len(images) > l.lim.Images {
			return nil, fmt.Errorf("more than %d images in one archive: %w", l.lim.Images, store.ErrTooLarge)
		}
	}
	if len(images) == 0 {
		return nil, s.nothing(nil)
	}
	return images, nil
}

// surveyGroup makes the images of a group. Its names go to the one that suits
// this machine, else to the first. What is not in the archive of an image for
// several platforms is nobody's fault, unless nothing of it is.
func (s *selection) surveyGroup(g *group) ([]*image, error) {
	best := g.pick(s.want, false)
	chosen := -1
	some := false
	for i, c := range g.of {
		some = some || !c.missing
		if len(best) > 0 && c.desc.Digest == best[len(best)-1].desc.Digest {
			chosen = i
		}
	}
	var images []*image
	for i, c := range g.of {
		if c.missing && some {
			continue
		}
		var img *image
		err := c.err
		if c.missing {
			err = fmt.Errorf("manifest %s for %s or its config is %w: %w", c.desc.Digest, c.platform, errMissing, store.ErrCorrupt)
		}
		if err == nil {
			img, err = s.ociImage(s.c, &pick{desc: c.desc})
		}
		if s.ctx.Err() != nil {
			return nil, s.ctx.Err()
		}
		if img == nil {
			img = &image{}
		}
		if img.id == "" {
			img.id = c.desc.Digest // it has no other name
		}
		if err != nil && errors.Is(err, errSteps) {
			return nil, err
		}
		img.err = err
		s.distrust(img)
		if chosen < 0 {
			chosen = i
		}
		if i == chosen {
			img.names = g.names
			img.digests = []digest.Digest{g.top}
		}
		images = append(images, img)
	}
	return images, nil
}
