package containerd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	digest "github.com/opencontainers/go-digest"

	"imagefs/store"
	"imagefs/store/docker/api"
	"imagefs/store/docker/live"
)

// Changes that the Docker daemon makes which has its images here. It has written
// its databases when it answers, so that the store shows them when these return.

var (
	_ store.Tagger   = (*Store)(nil)
	_ store.Renamer  = (*Store)(nil)
	_ store.Remover  = (*Store)(nil)
	_ store.Ingester = (*Store)(nil)
)

// isDangling tells whether a record is what Docker keeps an image by that has no name.
func (r record) isDangling() bool { return strings.HasPrefix(r.name, dangling+"@") }

// own returns the record of a reference as it is shown. It fails if that is not the daemon's.
func (d *dockerd) own(ref string) (record, error) {
	i, ok := d.c.of[ref]
	if !ok || d.gone[i] {
		return record{}, fmt.Errorf("no such image: %s: %w", ref, store.ErrNotFound)
	}
	if r := d.c.records[i]; r.space != d.space {
		return record{}, d.foreign(ref, r.space)
	}
	return d.c.records[i], nil
}

// foreign is the error of what is not the daemon's.
func (d *dockerd) foreign(what, space string) error {
	return fmt.Errorf("%s is in containerd's namespace %s, Docker's is %s; use nerdctl or ctr: %w", what, space, d.space, store.ErrUnsupported)
}

// name returns what the daemon calls an image of which the name is shown as ref.
func (d *dockerd) name(ref string) (string, error) {
	name := ref
	if p := d.c.prefix[d.space]; p != "" {
		var ok bool
		if name, ok = strings.CutPrefix(ref, p+"/"); !ok {
			return "", fmt.Errorf("%.300s: the store has images of several namespaces, and names of Docker's start with %s/: %w", ref, p, store.ErrInvalid)
		}
	}
	if f, err := store.FamiliarTag(name); err != nil || f != name {
		return "", fmt.Errorf("reference %.300q: %w", name, store.ErrInvalid)
	}
	return name, nil
}

// shown returns how a name is shown that the daemon tells of.
func (d *dockerd) shown(name string) string {
	f, ok := familiarName(name)
	if !ok {
		return name
	}
	repo := under(d.c.prefix[d.space], f.repo)
	if f.tag != "" {
		return repo + ":" + f.tag
	}
	return repo + name[strings.IndexByte(name, '@'):]
}

// targets returns the digests by which the daemon knows an image, those that
// have names first: of the indexes and manifests that stand for it.
func (d *dockerd) targets(id digest.Digest) ([]digest.Digest, error) {
	var named, rest []digest.Digest
	var other error
	for i, r := range d.c.records {
		t := d.c.found[i]
		switch {
		case t == nil, d.gone[i]:
		case t.chosen == id && r.space != d.space:
			other = d.foreign("image "+string(id), r.space)
		case t.chosen == id && r.isDangling():
			rest = append(rest, r.target.Digest)
		case t.chosen == id:
			named = append(named, r.target.Digest)
		case r.space == d.space && slices.Contains(t.all(), id):
			other = fmt.Errorf("image %s is none of Docker's own: it is a platform of %s, and goes with that: %w", id, r.target.Digest, store.ErrNotFound)
		}
	}
	var out []digest.Digest
	for _, t := range append(named, rest...) {
		if !slices.Contains(out, t) {
			out = append(out, t)
		}
	}
	switch {
	case len(out) > 0:
		return out, nil
	case other != nil:
		return nil, other
	}
	return nil, fmt.Errorf("no such image: %s: %w", id, store.ErrNotFound)
}

// Tag implements store.Tagger.
func (s *Store) Tag(ctx context.Context, ref string, id digest.Digest) error {
	d, err := s.dockerd(ctx, "name images")
	if err != nil {
		return err
	}
	of, err := d.targets(id)
	if err != nil {
		return err
	}
	return d.tag(ctx, ref, of[0])
}

// tag gives what the daemon knows by a digest a name, as it is shown.
func (d *dockerd) tag(ctx context.Context, ref string, of digest.Digest) error {
	name, err := d.name(ref)
	if err != nil {
		return err
	}
	n := strings.LastIndexByte(name, ':')
	return d.Client.Tag(ctx, string(of), name[:n], name[n+1:])
}

// Untag implements store.Tagger.
func (s *Store) Untag(ctx context.Context, ref string) error {
	d, err := s.dockerd(ctx, "remove names")
	if err != nil {
		return err
	}
	return s.untag(ctx, d, ref)
}

// untag takes a name away. To take it away is to remove it, as long as the image
// has another; with the last one the daemon would delete the image too.
func (s *Store) untag(ctx context.Context, d *dockerd, ref string) error {
	r, err := d.own(ref)
	if err != nil {
		return err
	}
	if strings.Contains(ref, "@") {
		return fmt.Errorf("%s is no name that Docker could take away by itself: it goes with the tags: %w", ref, store.ErrUnsupported)
	}
	if d.hasOther(r) {
		_, err := d.Client.Remove(ctx, r.name, false, true)
		return err
	}
	return s.untagLast(ctx, d, ref)
}

// hasOther tells whether what a record leads to has a name that the daemon does
// not take away with the record's: a digest goes with its repository's last tag.
func (d *dockerd) hasOther(r record) bool {
	mine, _ := familiarName(r.name)
	return slices.ContainsFunc(d.c.records, func(o record) bool {
		if o.space != r.space || o.name == r.name || o.target.Digest != r.target.Digest || o.isDangling() {
			return false
		}
		f, ok := familiarName(o.name)
		return ok && (f.tag != "" || f.repo != mine.repo)
	})
}

// untagLast takes the last name of an image away, which stays. The daemon has no
// call for that; but it keeps, without a name, what loses its name to another.
// An image without layers gets it, and goes with it, by its own ID.
func (s *Store) untagLast(ctx context.Context, d *dockerd, ref string) error {
	name, err := d.name(ref)
	if err != nil {
		return err
	}
	id, err := live.LoadEmpty(ctx, d.Client, name)
	if err != nil {
		return err
	}
	// Half of this is worse than none: the name is an empty image's.
	ctx = context.WithoutCancel(ctx)
	err = s.refresh(ctx, d)
	var of []digest.Digest
	if err == nil {
		of, err = d.targets(id)
	}
	if err == nil {
		_, err = d.Client.Remove(ctx, string(of[0]), true, false)
	}
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("%s names an empty image now; docker rmi removes it: %w", ref, err)
	}
	return nil
}

// Rename implements store.Renamer. The daemon makes a change for each name: new
// ones first, so that no image is without a name meanwhile.
func (s *Store) Rename(ctx context.Context, moves map[string]string) error {
	d, err := s.dockerd(ctx, "rename images")
	if err != nil {
		return err
	}
	set := map[string]digest.Digest{}
	for from, to := range moves {
		r, err := d.own(from)
		if err != nil {
			return err
		}
		if _, err := d.name(to); err != nil {
			return err
		}
		set[to] = r.target.Digest
	}
	for _, to := range slices.Sorted(maps.Keys(set)) {
		if err := d.tag(ctx, to, set[to]); err != nil {
			return err
		}
	}
	for _, from := range slices.Sorted(maps.Keys(moves)) {
		if _, stays := set[from]; stays {
			continue
		}
		if err := s.refresh(ctx, d); err != nil {
			return err
		}
		if err := s.untag(ctx, d, from); err != nil {
			return err
		}
	}
	return nil
}

// Remove implements store.Remover.
func (s *Store) Remove(ctx context.Context, refOrID string, force bool) (out store.Removed, err error) {
	d, err := s.dockerd(ctx, "remove images")
	if err != nil {
		return out, err
	}
	id, ref, err := store.Resolve(ctx, s, refOrID)
	if err != nil {
		return out, err
	}
	what, known, err := d.meant(id, ref, force)
	if err != nil {
		return out, err
	}
	before := s.stacks(d.c, func(r record) bool { return r.space == d.space && slices.Contains(known, r.target.Digest) })
	deleted := map[digest.Digest]bool{}
	for _, w := range what {
		var done []api.Removed
		done, err = d.Client.Remove(ctx, w, force, false)
		for _, r := range done {
			if r.Untagged != "" {
				out.Untagged = append(out.Untagged, d.shown(r.Untagged))
			}
			deleted[digest.Digest(r.Deleted)] = true
		}
		if err != nil {
			break
		}
	}
	out.Deleted = s.lost(context.WithoutCancel(ctx), d, before, id, deleted)
	return out, err
}

// stack is what an image is made of.
type stack struct {
	id     digest.Digest
	chains []digest.Digest // bottom first
	blobs  []digest.Digest // of the layers
}

// stacks returns the images that the records lead to for which of returns true.
func (s *Store) stacks(c *catalog, of func(record) bool) []stack {
	var out []stack
	seen := map[digest.Digest]bool{}
	for i, r := range c.records {
		if c.found[i] == nil || !of(r) {
			continue
		}
		for _, id := range c.found[i].all() {
			if !seen[id] {
				seen[id] = true
				out = append(out, s.stack(c, id))
			}
		}
	}
	return out
}

// stack returns an image; of one that is broken the ID alone.
func (s *Store) stack(c *catalog, id digest.Digest) stack {
	st := stack{id: id}
	e := c.images[id]
	if e == nil || len(e.manifests) == 0 {
		return st
	}
	m := e.manifests[0]
	_, config, err := s.config(m)
	if err != nil || len(config.DiffIDs) != len(m.layers) {
		return st
	}
	st.chains = chains(config)
	for _, l := range m.layers {
		st.blobs = append(st.blobs, l.Digest)
	}
	return st
}

// lost returns which images are not there any more after the daemon deleted what
// it knows by digests, that of first before all others, each with those of its
// layers that are gone too, from the top.
func (s *Store) lost(ctx context.Context, d *dockerd, before []stack, first digest.Digest, deleted map[digest.Digest]bool) []digest.Digest {
	now, err := s.catalog(ctx)
	if err != nil {
		return nil // what there is to see is not worse for it
	}
	// Parents go with the last image that was built on them.
	parents := s.stacks(d.c, func(r record) bool { return r.space == d.space && deleted[r.target.Digest] })
	slices.SortStableFunc(before, func(a, b stack) int { return cmp.Compare(btoi(b.id == first), btoi(a.id == first)) })
	var out []digest.Digest
	for _, st := range append(before, parents...) {
		if now.images[st.id] != nil || slices.Contains(out, st.id) {
			continue
		}
		out = append(out, st.id)
		snapshots, err := s.readSnapshots(now.spaces, st.chains)
		for n, chain := range slices.Backward(st.chains) {
			if _, there := snapshots[chain]; err == nil && !there && !s.hasBlob(st.blobs[n]) && !slices.Contains(out, chain) {
				out = append(out, chain)
			}
		}
	}
	return out
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// meant returns what the daemon has to remove for a reference, or for all names
// of an ID, and the digests by which it knows that.
func (d *dockerd) meant(id digest.Digest, ref string, force bool) (what []string, known []digest.Digest, err error) {
	if ref == "" {
		if known, err = d.targets(id); err != nil {
			return nil, nil, err
		}
		if len(known) > 1 && !force {
			return nil, nil, fmt.Errorf("conflict: unable to delete %s (must be forced) - Docker has it %d times, in manifests of their own: %w", short(id), len(known), store.ErrBusy)
		}
		for _, t := range known {
			what = append(what, string(t))
		}
		return what, known, nil
	}
	r, err := d.own(ref)
	if err != nil {
		return nil, nil, err
	}
	known = []digest.Digest{r.target.Digest}
	repo, of, digested := strings.Cut(ref, "@")
	switch {
	case !digested:
		return []string{r.name}, known, nil
	case of != string(r.target.Digest):
		return nil, nil, fmt.Errorf("%s is no name of Docker's: it is a platform of %s@%s, and goes with that: %w", ref, repo, r.target.Digest, store.ErrNotFound)
	}
	f, _ := familiarName(r.name)
	return []string{f.repo + "@" + of}, known, nil
}

// short is a digest as engines name images in sentences.
func short(d digest.Digest) string { return d.Encoded()[:12] }

// Ingest implements store.Ingester.
func (s *Store) Ingest(ctx context.Context) (store.Ingest, error) {
	d, err := s.dockerd(ctx, "load images")
	if err != nil {
		return nil, err
	}
	return live.NewIngest(loads{s, d.space}), nil
}

// loads is the store as a load through the daemon needs it.
type loads struct {
	s     *Store
	space string
}

var _ live.Store = loads{}

// Daemon implements live.Store.
func (l loads) Daemon(ctx context.Context) (*api.Client, error) {
	d, err := l.s.dockerd(ctx, "load images")
	if errors.Is(err, store.ErrUnsupported) {
		return nil, fmt.Errorf("the Docker daemon that has its images in %s was stopped meanwhile; do it again: %w", l.s.path, store.ErrBusy)
	}
	if err != nil {
		return nil, err
	}
	return d.Client, nil
}

// HasImage implements live.Store.
func (l loads) HasImage(id digest.Digest) bool {
	c, err := l.s.catalog(context.Background())
	if err != nil {
		return false
	}
	for i, r := range c.records {
		if t := c.found[i]; t != nil && r.space == l.space && slices.Contains(t.all(), id) {
			return true
		}
	}
	return false
}

// HasLayer implements live.Store: the daemon takes whole archives only.
func (l loads) HasLayer(digest.Digest) bool { return false }
