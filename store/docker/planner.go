package docker

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	digest "github.com/opencontainers/go-digest"

	"imagefs/store"
)

// container is what matters of a container.
type container struct {
	ID    string
	Image digest.Digest
	State struct{ Running bool }
}

// planner decides what goes.
type planner struct {
	s          *Store
	names      store.Names
	images     map[digest.Digest][]digest.Digest // ID → chain IDs, bottom first
	broken     map[digest.Digest]bool
	parents    map[digest.Digest]digest.Digest
	containers []container
	rec        record
	untagged   []string                          // names that go, in the order in which Docker tells of them
	gone       []digest.Digest                   // images, each with its layers from the top, as Docker tells of them
	uses       map[digest.Digest]int             // chain ID → images and containers that stand on it
	above      map[digest.Digest][]digest.Digest // chain ID → layers that stand directly on it
	done       map[digest.Digest]bool            // images that go, layers that were looked at
}

func (s *Store) planner(ctx context.Context) (*planner, error) {
	r, err := s.readRepos()
	if err != nil {
		return nil, err
	}
	p := &planner{s: s, names: r.names(nil), images: map[digest.Digest][]digest.Digest{}, broken: map[digest.Digest]bool{}, parents: map[digest.Digest]digest.Digest{}, done: map[digest.Digest]bool{}, rec: record{Op: opRemove, Untag: map[string]digest.Digest{}}}
	ids, err := s.IDs(ctx)
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		p.images[id] = nil
		p.parents[id] = s.parentOf(id)
		if p.images[id], err = s.chains(id); err != nil && !isBroken(err) {
			return nil, fmt.Errorf("which layers are needed cannot be told: %w", err)
		}
		if err != nil {
			p.broken[id] = true // it keeps no layers, and can be removed
		}
	}
	if p.containers, err = s.containers(); err != nil {
		return nil, err
	}
	return p, p.count()
}

func (s *Store) containers() ([]container, error) {
	names, err := s.list("containers") // there are none in the embedded store
	if err != nil {
		return nil, err
	}
	var out []container
	for _, n := range names {
		if !store.IsHex64(n) {
			continue
		}
		b, err := s.root.Read("containers/"+n+"/config.v2.json", 16<<20)
		if errors.Is(err, fs.ErrNotExist) {
			continue // Docker does not know it either
		}
		c := container{}
		if err == nil {
			if err = json.Unmarshal(b, &c); err != nil {
				err = fmt.Errorf("%w: %w", store.ErrCorrupt, err)
			}
		}
		if err != nil {
			return nil, fmt.Errorf("which image the container %s uses cannot be told: %w", n, err)
		}
		c.ID = n
		out = append(out, c)
	}
	return out, nil
}

// step adds one removal to the plan, and tells what it adds.
func (p *planner) step(id digest.Digest, ref, given string, force bool) (store.Removed, error) {
	untagged, gone, images := len(p.untagged), len(p.gone), len(p.rec.Images)
	if err := p.remove(id, ref, given, force); err != nil {
		return store.Removed{}, err
	}
	if len(p.rec.Images) > images && p.sweeps() {
		for _, c := range p.s.byDepth() {
			if p.uses[c] == 0 && !p.carries(c) {
				p.layer(c)
			}
		}
	}
	return store.Removed{Untagged: slices.Clone(p.untagged[untagged:]), Deleted: slices.Clone(p.gone[gone:])}, nil
}

// untag adds names to those that go.
func (p *planner) untag(refs ...string) {
	p.untagged = append(p.untagged, refs...)
	for _, r := range refs {
		p.rec.Untag[r] = cmp.Or(p.names.Tags[r], p.names.Digests[r])
		delete(p.names.Tags, r)
		delete(p.names.Digests, r)
	}
}

// refs returns all references of an image, sorted.
func (p *planner) refs(id digest.Digest) []string {
	var out []string
	for _, m := range []map[string]digest.Digest{p.names.Tags, p.names.Digests} {
		for ref, i := range m {
			if i == id {
				out = append(out, ref)
			}
		}
	}
	slices.Sort(out)
	return out
}

// single tells whether references name one repository with one tag at most.
func single(refs []string) bool {
	tags := 0
	for _, r := range refs {
		if repoOf(r) != repoOf(refs[0]) {
			return false
		}
		if !strings.Contains(r, "@") {
			tags++
		}
	}
	return tags <= 1
}

// withDigests returns ref, and the digest references of its repository if it is its last tag for the image.
func withDigests(names store.Names, id digest.Digest, ref string) []string {
	out := []string{ref}
	if strings.Contains(ref, "@") {
		return out
	}
	for r, i := range names.Tags {
		if i == id && r != ref && repoOf(r) == repoOf(ref) {
			return out
		}
	}
	for r, i := range names.Digests {
		if i == id && repoOf(r) == repoOf(ref) {
			out = append(out, r)
		}
	}
	slices.Sort(out[1:])
	return out
}

func (p *planner) user(id digest.Digest, running bool) *container {
	for i := range p.containers {
		if c := &p.containers[i]; c.Image == id && (c.State.Running || !running) {
			return c
		}
	}
	return nil
}

func conflict(what, why, remedy string) error {
	return fmt.Errorf("conflict: unable to delete %s (%s) - %s: %w", what, remedy, why, store.ErrBusy)
}

const (
	mustForce  = "must be forced"
	cannotEven = "cannot be forced"
)

func (p *planner) remove(id digest.Digest, ref, given string, force bool) error {
	if ref != "" {
		if c := p.user(id, false); c != nil && !force && single(p.refs(id)) {
			return conflict(given, "container "+short(c.ID)+" is using its referenced image "+short(id.Encoded()), mustForce)
		}
		p.untag(withDigests(p.names, id, ref)...)
		if len(p.refs(id)) > 0 {
			return nil
		}
		return p.delete(id, given, force, true)
	}
	if refs := p.refs(id); single(refs) {
		if err := p.conflicts(id, given, force); err != nil {
			return err
		}
		p.untag(refs...)
	}
	return p.delete(id, given, force, false)
}

// conflicts tells what forbids to delete an image, its names aside.
func (p *planner) conflicts(id digest.Digest, given string, force bool) error {
	for child, parent := range p.parents {
		if parent == id && p.live(child) {
			return conflict(given, "image has dependent child images", cannotEven)
		}
	}
	if c := p.user(id, true); c != nil {
		return conflict(given, "image is being used by running container "+short(c.ID), cannotEven)
	}
	if c := p.user(id, false); c != nil && !force {
		return conflict(given, "image is being used by stopped container "+short(c.ID), mustForce)
	}
	return nil
}

// live tells whether an image stays.
func (p *planner) live(id digest.Digest) bool { return !p.done[id] }

// delete takes an image with all its names, then the parents that only it
// needed. With quiet, because a name was given and is gone, an image that must
// stay is no error.
func (p *planner) delete(id digest.Digest, given string, force, quiet bool) error {
	if err := p.conflicts(id, given, force); err != nil {
		if quiet && errors.Is(err, store.ErrBusy) {
			return nil
		}
		return err
	}
	if refs := p.refs(id); len(refs) > 0 {
		if !force {
			return conflict(given, "image is referenced in multiple repositories", mustForce)
		}
		p.untag(refs...)
	}
	p.rec.Images = append(p.rec.Images, recordImage{ID: id})
	p.gone = append(p.gone, id)
	p.done[id] = true
	for _, c := range p.images[id] {
		p.uses[c]--
	}
	for _, c := range slices.Backward(p.images[id]) {
		if p.uses[c] > 0 || p.carries(c) {
			break
		}
		p.layer(c)
	}
	parent := p.parents[id]
	if _, ok := p.images[parent]; !ok || !p.live(parent) || len(p.refs(parent)) > 0 || p.hasChildren(parent) || p.user(parent, false) != nil {
		return nil
	}
	return p.delete(parent, string(parent), false, true)
}

func (p *planner) hasChildren(id digest.Digest) bool {
	for child, parent := range p.parents {
		if parent == id && p.live(child) {
			return true
		}
	}
	return false
}

// count counts what stands on each layer.
func (p *planner) count() error {
	mounted, err := p.s.mounted()
	if err != nil {
		return err
	}
	if p.above, err = p.s.above(); err != nil {
		return err
	}
	p.uses = map[digest.Digest]int{}
	for _, c := range mounted {
		p.uses[c]++
	}
	for _, chains := range p.images {
		for _, c := range chains {
			p.uses[c]++
		}
	}
	return nil
}

// carries tells whether a layer that stays stands on this one.
func (p *planner) carries(c digest.Digest) bool {
	return slices.ContainsFunc(p.above[c], func(on digest.Digest) bool { return !p.done[on] })
}

// sweeps tells whether the layers that belong to no image go, too: with a
// broken image, whose config does not tell them any more. They may be those of
// another image that is broken, and could be mended; then they stay.
func (p *planner) sweeps() bool {
	gone := slices.ContainsFunc(p.rec.Images, func(r recordImage) bool { return p.broken[r.ID] })
	for id := range p.broken {
		if p.live(id) {
			return false
		}
	}
	return gone && p.s.own()
}

// layer adds a layer once.
func (p *planner) layer(c digest.Digest) {
	if p.done[c] {
		return
	}
	p.done[c] = true
	cache, err := p.s.root.Read(overlay2.layers+"/"+c.Encoded()+"/cache-id", maxSmall)
	if err != nil || !isCacheID(cache) || string(cache) == "l" {
		return // broken: nothing tells what belongs to it
	}
	l := recordLayer{Chain: c, Cache: string(cache)}
	if b, err := p.s.root.Read(overlay2.home+"/"+l.Cache+"/link", maxSmall); err == nil && isLinkName(b) {
		l.Link = string(b)
	}
	p.rec.Layers = append(p.rec.Layers, l)
	p.gone = append(p.gone, c)
}

func short(hex string) string { return hex[:min(12, len(hex))] }
