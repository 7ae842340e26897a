package docker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	digest "github.com/opencontainers/go-digest"

	"golang.org/x/sys/unix"

	"imagefs/store"
	"imagefs/store/layer"
)

// Check implements store.Checker.
func (s *Store) Check(ctx context.Context, deep bool, found func(store.Problem)) error {
	c := checker{s: s, deep: deep, found: found, chains: map[digest.Digest]bool{}, caches: map[string]bool{}}
	c.names()
	ids, err := s.IDs(ctx)
	if err != nil {
		return err
	}
	for _, id := range ids {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := c.image(ctx, id); err != nil {
			return err
		}
	}
	if s.own() {
		c.orphans()
	}
	return nil
}

type checker struct {
	s      *Store
	deep   bool
	found  func(store.Problem)
	chains map[digest.Digest]bool
	caches map[string]bool
}

func (c *checker) say(what string, err error) { c.found(store.Problem{What: what, Err: err}) }

func (c *checker) names() {
	r, err := c.s.readRepos()
	if err != nil {
		c.say("repositories.json", err)
		return
	}
	names := r.names(func(ref string) {
		c.say("repositories.json", fmt.Errorf("bad reference %.300q: %w", ref, store.ErrCorrupt))
	})
	for _, refs := range []map[string]digest.Digest{names.Tags, names.Digests} {
		for ref, id := range refs {
			if !c.s.root.Exists(c.s.at.content + "/" + id.Encoded()) {
				c.say("repositories.json", fmt.Errorf("%s names %s, which is not there: %w", ref, id, store.ErrCorrupt))
			}
		}
	}
}

func (c *checker) image(ctx context.Context, id digest.Digest) error {
	what := "image " + string(id)
	i, err := c.s.Image(ctx, id)
	if err != nil {
		c.say(what, err)
		return nil
	}
	if i.RawConfig() == nil || len(i.Layers()) == 0 && i.Err() != nil {
		c.say(what, i.Err())
		return nil
	}
	if err := c.parents(id); err != nil {
		c.say(what, err)
	}
	for _, l := range i.Layers() {
		if c.chains[l.ChainID()] {
			continue
		}
		c.chains[l.ChainID()] = true
		if err := c.layer(ctx, l.(*layerRec)); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			c.say("layer "+string(l.ChainID()), err)
		}
	}
	return nil
}

// parents follows the parents of the classic builder, which could be a loop.
func (c *checker) parents(id digest.Digest) error {
	seen := map[digest.Digest]bool{}
	for ; id != ""; id = c.s.parentOf(id) {
		if seen[id] {
			return fmt.Errorf("its parents go round in a circle: %w", store.ErrCorrupt)
		}
		seen[id] = true
	}
	return nil
}

// layer checks one layer: its records, its links, its index, and with deep all its bytes.
func (c *checker) layer(ctx context.Context, l *layerRec) error {
	if l.broken != nil {
		return l.broken
	}
	c.caches[l.cache] = true
	switch {
	case c.s.at.linked:
		if err := c.linked(l); err != nil {
			return err
		}
	case c.s.at.form == layer.Aufs:
		if err := c.aufs(l); err != nil {
			return err
		}
	}
	return l.Check(ctx, c.deep)
}

// aufs checks that the list of a layer's parents starts with its parent.
func (c *checker) aufs(l *layerRec) error {
	file := "aufs/layers/" + l.cache
	list, err := c.s.root.Read(file, 1<<20)
	if err != nil {
		return fmt.Errorf("%w: %w", store.ErrCorrupt, err)
	}
	var want []byte
	if l.parent != "" {
		if want, err = c.s.root.Read(c.s.at.layers+"/"+l.parent.Encoded()+"/cache-id", maxSmall); err != nil {
			return err
		}
	}
	if first, _, _ := bytes.Cut(list, []byte{'\n'}); !bytes.Equal(first, want) {
		return fmt.Errorf("%s starts with %.80q, want %.80q: %w", file, first, want, store.ErrCorrupt)
	}
	return nil
}

// linked checks a layer's short name and those of the layers below.
func (c *checker) linked(l *layerRec) error {
	d := c.s.at.home + "/" + l.cache
	link, err := c.s.root.Read(d+"/link", maxSmall)
	if err != nil {
		return fmt.Errorf("%w: %w", store.ErrCorrupt, err)
	}
	if !isLinkName(link) {
		return fmt.Errorf("link %.80q: %w", link, store.ErrCorrupt)
	}
	if to, err := c.s.root.Readlink(c.s.at.links + "/" + string(link)); err != nil || to != "../"+l.cache+"/diff" {
		return fmt.Errorf("%s/%s does not lead to it: %w", c.s.at.links, link, store.ErrCorrupt)
	}
	return c.lower(l)
}

// lower checks that a layer's "lower" is its parent's link and what that has.
func (c *checker) lower(l *layerRec) error {
	lower, err := c.s.root.Read(c.s.at.home+"/"+l.cache+"/lower", maxSmall)
	if l.parent == "" {
		if err == nil && len(lower) > 0 {
			return fmt.Errorf("the lowest layer has a lower %.80q: %w", lower, store.ErrCorrupt)
		}
		return nil
	}
	if err != nil {
		return fmt.Errorf("%w: %w", store.ErrCorrupt, err)
	}
	cm := commit{in: &ingest{s: c.s}, links: map[digest.Digest]string{}}
	want, err := cm.lowerLinks(l.parent)
	if err != nil {
		return err
	}
	if string(lower) != want {
		return fmt.Errorf("lower is %.200q, want %.200q: %w", lower, want, store.ErrCorrupt)
	}
	return nil
}

// orphans looks for what belongs to no image.
func (c *checker) orphans() {
	names, err := c.s.root.List(c.s.at.layers)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		c.say("layerdb", err)
	}
	for _, n := range names {
		if !store.IsHex64(n) || !c.chains[digest.NewDigestFromEncoded(digest.SHA256, n)] {
			what := "it"
			if cache, err := c.s.root.Read(c.s.at.layers+"/"+n+"/cache-id", maxSmall); err == nil {
				if !c.caches[string(cache)] && isCacheID(cache) {
					what = "it and overlay2/" + string(cache)
				}
				c.caches[string(cache)] = true
			}
			c.say("layerdb/sha256/"+n, fmt.Errorf("belongs to no image; the removal of the last broken image removes it, or delete %s: %w", what, store.ErrCorrupt))
		}
	}
	names, _ = c.s.root.List(c.s.at.home)
	for _, n := range names {
		if n != "l" && !c.caches[n] {
			c.say("overlay2/"+n, fmt.Errorf("belongs to no layer; it can be deleted: %w", store.ErrCorrupt))
		}
	}
	names, _ = c.s.root.List(c.s.at.links)
	for _, n := range names {
		to, err := c.s.root.Readlink(c.s.at.links + "/" + n)
		cache, ok := strings.CutSuffix(strings.TrimPrefix(to, "../"), "/diff")
		if err != nil || !ok || !c.caches[cache] {
			c.say("overlay2/l/"+n, fmt.Errorf("leads to no layer: %w", store.ErrCorrupt))
		}
	}
	for _, dir := range []string{indexDir, spillDir} {
		names, _ = c.s.root.List(dir)
		for _, n := range names {
			if _, cache, ok := strings.Cut(n, "-"); !ok || !c.caches[cache] {
				c.say(dir+"/"+n, fmt.Errorf("belongs to no layer: %w", store.ErrCorrupt))
			}
		}
	}
	names, _ = c.s.root.List(journalDir)
	for _, n := range names {
		err := fmt.Errorf("an interrupted change waits to be finished by the next that writes: %w", store.ErrCorrupt)
		if strings.HasSuffix(n, damaged) {
			err = fmt.Errorf("the damaged record of an interrupted change; delete it when nothing else is reported: %w", store.ErrCorrupt)
		}
		c.say(journalDir+"/"+n, err)
	}
	c.stages()
}

// stages looks for loads of processes that are dead.
func (c *checker) stages() {
	names, _ := c.s.root.List(stageDir)
	slices.Sort(names)
	for _, n := range names {
		f, err := c.s.root.OpenFile(stageDir+"/"+n+"/lock", os.O_RDONLY, 0)
		if err == nil {
			err = flock(f, unix.LOCK_EX|unix.LOCK_NB)
			f.Close()
			if err != nil {
				continue
			}
		}
		c.say(stageDir+"/"+n, fmt.Errorf("an interrupted load waits to be cleared away: %w", store.ErrCorrupt))
	}
}
