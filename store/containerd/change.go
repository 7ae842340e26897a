package containerd

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/distribution/reference"
	digest "github.com/opencontainers/go-digest"

	"imagefs/store"
	"imagefs/store/daemon"
)

// Changes that the Docker daemon makes which has its images here. It has written
// its databases when it answers, so that the store shows them when these return.

var (
	_ store.Tagger  = (*Store)(nil)
	_ store.Renamer = (*Store)(nil)
)

// isDangling tells whether a record is what Docker keeps an image by that has no name.
func (r record) isDangling() bool { return r.name == dangling+"@"+string(r.target.Digest) }

// readName reads a record's name as Docker does: ok is false for what is no name
// to it, as others write them.
func (r record) readName() (repo, tag string, ok bool) {
	n, err := reference.ParseNamed(r.name)
	if err != nil || r.isDangling() {
		return "", "", false
	}
	if t, is := n.(reference.Tagged); is {
		tag = t.Tag()
	}
	return n.Name(), tag, true
}

// own returns the record of a reference as it is shown. It fails if that is not
// the daemon's, or nothing that the daemon could be told of.
func (d *dockerd) own(ref string) (record, error) {
	i, ok := d.c.of[ref]
	if !ok || d.gone[i] {
		return record{}, fmt.Errorf("no such image: %s: %w", ref, store.ErrNotFound)
	}
	r := d.c.records[i]
	if r.space != d.space {
		return record{}, d.foreign(ref, r.space)
	}
	_, tag, ok := r.readName()
	if !ok || tag == "" && !strings.Contains(r.name, "@") || r.target.Digest.Validate() != nil {
		return record{}, fmt.Errorf("%s is %.300q of %.100q in containerd's namespace %s, which Docker does not know as an image's name; use nerdctl or ctr: %w", ref, r.name, string(r.target.Digest), r.space, store.ErrUnsupported)
	}
	return r, nil
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

// known is a digest by which the daemon knows an image: of an index or a manifest.
type known struct {
	digest digest.Digest
	named  bool // it has a name
	group  int  // how many images of ours it stands for
}

// targets returns the digests by which the daemon knows an image.
func (d *dockerd) targets(id digest.Digest) ([]known, error) {
	var out []known
	var other error
	for i, r := range d.c.records {
		t := d.c.found[i]
		switch {
		case t == nil, d.gone[i], r.target.Digest.Validate() != nil:
		case t.chosen == id && r.space != d.space:
			other = d.foreign("image "+string(id), r.space)
		case t.chosen == id:
			n := slices.IndexFunc(out, func(k known) bool { return k.digest == r.target.Digest })
			if n < 0 {
				n = len(out)
				out = append(out, known{digest: r.target.Digest, group: len(t.all())})
			}
			out[n].named = out[n].named || !r.isDangling()
		case r.space == d.space && slices.Contains(t.all(), id):
			other = fmt.Errorf("image %s is none of Docker's own: it is a platform of %s, and goes with that: %w", id, r.target.Digest, store.ErrNotFound)
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

// Tag implements store.Tagger. Of an image that Docker knows by several digests
// the one is named that stands for most platforms.
func (s *Store) Tag(ctx context.Context, ref string, id digest.Digest) error {
	d, err := s.dockerd(ctx, "name images")
	if err != nil {
		return err
	}
	of, err := d.targets(id)
	if err != nil {
		return err
	}
	best := of[0]
	for _, k := range of {
		if k.group > best.group || k.group == best.group && k.named && !best.named {
			best = k
		}
	}
	return d.tag(ctx, ref, best.digest)
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

// Untag implements store.Tagger. Digests of a repository, where somebody made
// names of them, go with its last tag, as with docker rmi.
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
// not take away with the record's: with the last tag of a repository go its
// digests, and all that is no name to the daemon.
func (d *dockerd) hasOther(r record) bool {
	mine, _, _ := r.readName()
	return slices.ContainsFunc(d.c.records, func(o record) bool {
		if o.space != r.space || o.name == r.name || o.target.Digest != r.target.Digest {
			return false
		}
		repo, tag, ok := o.readName()
		return ok && (tag != "" || repo != mine)
	})
}

// untagLast takes the last name of an image away, which stays. The daemon has no
// call for that; but it keeps, without a name, what loses its name to another. A
// new image without layers gets it, and goes with it, by its own ID.
func (s *Store) untagLast(ctx context.Context, d *dockerd, ref string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	ctx = context.WithoutCancel(ctx) // half of this is worse than none
	// To load it by that name would be simpler, but before Docker 28.1 the old image was lost.
	id, err := daemon.LoadEmpty(ctx, d.Client, "")
	if err != nil {
		return err
	}
	if err := s.refresh(ctx, d); err != nil {
		return err
	}
	of, err := d.targets(id)
	if err != nil {
		return fmt.Errorf("%s keeps its name: Docker took in an empty image for it, which is not there: %w", ref, err)
	}
	empty := string(of[0].digest)
	err = d.tag(ctx, ref, of[0].digest)
	_, rerr := d.Client.Remove(ctx, empty, true, false)
	switch {
	case err != nil:
		return err
	case rerr != nil && !errors.Is(rerr, store.ErrNotFound):
		return fmt.Errorf("%s names an empty image now; docker rmi removes it: %w", ref, rerr)
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
