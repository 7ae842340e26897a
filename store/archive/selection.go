package archive

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	digest "github.com/opencontainers/go-digest"

	"imagefs/store"
	"imagefs/store/platform"
)

// maxSteps bounds the descriptors that are looked at in an archive.
const maxSteps = 100_000

var errSteps = fmt.Errorf("index.json: more than %d descriptors: %w", maxSteps, store.ErrTooLarge)

// selection finds the images to load in an index: the best one for the platform
// of each multi-platform image, and no attestations and artifacts.
type selection struct {
	*load
	c     content
	nodes map[digest.Digest]*node
	steps int
	kinds []string // artifacts that were passed over, by type
}

// node is what a descriptor in an index points to, looked at once.
type node struct {
	children []descriptor // of an index
	index    bool
	missing  bool  // it, or its config, is not in the archive
	err      error // of a survey: it cannot be read
	artifact string
	platform platform.Platform // by its config
}

// candidate is an image that can be chosen.
type candidate struct {
	desc     descriptor
	platform platform.Platform
	missing  bool
	err      error
}

// pick is an image that was chosen.
type pick struct {
	desc  descriptor
	names []string
}

// group is one image for several platforms: an index in index.json, or the
// manifests in it that carry the same name, or none.
type group struct {
	names []string
	key   string
	one   bool          // at most one is taken
	top   digest.Digest // of the first entry of index.json
	of    []candidate
}

// choose returns what is to be loaded, in the order of the index.
func (s *selection) choose(top []descriptor) ([]*pick, error) {
	groups, err := s.groups(top)
	if err != nil {
		return nil, err
	}
	var picks []*pick
	byDigest := map[digest.Digest]*pick{}
	var skipped []*group
	for _, g := range groups {
		chosen := g.pick(s.want, s.explicit)
		if len(chosen) == 0 && len(g.of) > 0 {
			skipped = append(skipped, g)
		}
		for _, c := range chosen {
			p := byDigest[c.desc.Digest]
			if p == nil {
				p = &pick{desc: c.desc}
				byDigest[c.desc.Digest] = p
				picks = append(picks, p)
			}
			p.names = append(p.names, g.names...)
		}
	}
	if len(picks) > s.lim.Images {
		return nil, fmt.Errorf("%d images in one archive: %w", len(picks), store.ErrTooLarge)
	}
	if len(picks) == 0 {
		return nil, s.nothing(skipped)
	}
	for _, g := range skipped {
		s.log.Warn("an image of the archive has nothing for the platform and is not loaded", "name", printable(g.key), "wanted", s.want)
	}
	return picks, nil
}

// nothing is the error for an index of which nothing can be loaded.
func (s *selection) nothing(skipped []*group) error {
	var have []platform.Platform
	for _, g := range skipped {
		for _, c := range g.of {
			if _, ok := s.want.Rank(c.platform); ok && c.missing {
				return fmt.Errorf("manifest %s for %s or its config is %w: %w", c.desc.Digest, c.platform, errMissing, store.ErrCorrupt)
			}
			have = append(have, c.platform)
		}
	}
	if len(have) > 0 {
		return s.noneFor(have)
	}
	return fmt.Errorf("no container image in the archive, only %.300s: %w", strings.Join(s.kinds, ", "), store.ErrNotFound)
}

// groups sorts the entries of index.json by image.
func (s *selection) groups(top []descriptor) ([]*group, error) {
	var groups []*group
	flat := map[string]*group{}
	for _, d := range top {
		n, err := s.look(d)
		if err != nil {
			return nil, err
		}
		key := d.Annotations[annotationContainerd] + "\x00" + d.Annotations[annotationRef]
		g := flat[key]
		if g == nil || n.index {
			g = &group{key: strings.Trim(key, "\x00"), one: n.index, top: d.Digest}
			if ref := s.refName(d.Annotations); ref != "" {
				g.names = []string{ref}
			}
			groups = append(groups, g)
			if !n.index {
				flat[key] = g
			}
		}
		if err := s.flatten(d, n, g, map[digest.Digest]bool{}, 0); err != nil {
			return nil, err
		}
	}
	return groups, nil
}

// flatten adds the images below a descriptor to a group.
func (s *selection) flatten(d descriptor, n *node, g *group, seen map[digest.Digest]bool, depth int) error {
	if seen[d.Digest] {
		return nil // an index that refers back, or twice to the same
	}
	seen[d.Digest] = true
	switch {
	case n.artifact != "":
		if k := fmt.Sprintf("%.80s", printable(n.artifact)); !slices.Contains(s.kinds, k) && len(s.kinds) < 20 {
			s.kinds = append(s.kinds, k)
		}
		return nil
	case !n.index:
		c := candidate{desc: d, platform: d.platform(), missing: n.missing, err: n.err}
		if c.platform == (platform.Platform{}) {
			c.platform = n.platform
		}
		g.of = append(g.of, c)
		return nil
	case depth == s.lim.Depth:
		return fmt.Errorf("index.json: more than %d indexes in one another: %w", depth, store.ErrTooLarge)
	}
	for _, child := range n.children {
		cn, err := s.look(child)
		if err != nil {
			return err
		}
		if err := s.flatten(child, cn, g, seen, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// pick chooses from a group: what fits best, or the only image there is.
func (g *group) pick(want platform.Platform, explicit bool) []candidate {
	var best, real []candidate
	bestRank := 0
	for _, c := range g.of {
		if c.missing || c.err != nil {
			continue
		}
		real = append(real, c)
		r, ok := want.Rank(c.platform)
		if !ok || len(best) > 0 && r > bestRank {
			continue
		}
		if len(best) == 0 || r < bestRank {
			best, bestRank = nil, r
		}
		best = append(best, c)
	}
	if len(best) == 0 && len(real) == 1 && !explicit {
		return real
	}
	if g.one && len(best) > 1 {
		best = best[:1]
	}
	return best
}

// look finds out what a descriptor points to.
func (s *selection) look(d descriptor) (*node, error) {
	if s.steps++; s.steps > maxSteps {
		return nil, errSteps
	}
	if t := d.Annotations[annotationReferrer]; t != "" {
		return &node{artifact: "attestation"}, nil
	}
	if p := d.platform(); p.OS == "unknown" && p.Arch == "unknown" {
		return &node{artifact: "attestation"}, nil
	}
	if n := s.nodes[d.Digest]; n != nil {
		return n, nil
	}
	n, err := s.read(d)
	if err != nil && (!s.survey || errors.Is(err, errSteps)) {
		return nil, err
	}
	if err != nil {
		n = &node{err: err}
	}
	s.nodes[d.Digest] = n
	return n, nil
}

func (s *selection) read(d descriptor) (*node, error) {
	b, err := s.blob(s.c, d, s.lim.JSON)
	if errors.Is(err, errMissing) {
		return &node{missing: true}, nil
	}
	if err != nil {
		return nil, err
	}
	doc, err := parseDocument("manifest "+string(d.Digest), b)
	if err != nil {
		return nil, err
	}
	if doc.Manifests != nil {
		if s.steps += len(*doc.Manifests); s.steps > maxSteps {
			return nil, errSteps
		}
		return &node{index: true, children: *doc.Manifests}, nil
	}
	if kind := doc.artifact(); kind != "" {
		return &node{artifact: kind}, nil
	}
	_, cfg, err := s.ociConfig(s.c, *doc.Config)
	if errors.Is(err, errMissing) {
		return &node{missing: true}, nil
	}
	if err != nil {
		return nil, err
	}
	switch {
	case cfg.OS == "unknown" && cfg.Architecture == "unknown":
		return &node{artifact: "attestation"}, nil
	case len(cfg.DiffIDs) == 0 && len(doc.Layers) > 0:
		kind := doc.ArtifactType
		if kind == "" {
			kind = "files of type " + doc.Layers[0].MediaType
		}
		return &node{artifact: kind}, nil
	}
	return &node{platform: platform.Of(cfg.OS, cfg.Architecture, cfg.Variant)}, nil
}
