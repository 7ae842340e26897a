package docker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	digest "github.com/opencontainers/go-digest"

	"imagefs/store"
	"imagefs/store/daemon"
	"imagefs/store/daemon/api"
)

// Changes that the daemon which lives on the store makes for us. It writes its
// files before it answers, so that the store shows them when these return.

// tagLive is Tag through a daemon.
func (s *Store) tagLive(ctx context.Context, c *api.Client, ref string, id digest.Digest) error {
	if !store.IsID(id) {
		return fmt.Errorf("image ID %.80q: %w", string(id), store.ErrInvalid)
	}
	repo := repoOf(ref)
	return c.Tag(ctx, string(id), repo, strings.TrimPrefix(ref, repo+":"))
}

// untagLive is Untag through a daemon. To take a name away is to remove it, as
// long as the image has another; with the last one the daemon would delete the
// image too.
func (s *Store) untagLive(ctx context.Context, c *api.Client, ref string) error {
	names, id, err := s.named(ref)
	if err != nil {
		return err
	}
	if hasOther(names, id, withDigests(names, id, ref)) {
		_, err := c.Remove(ctx, ref, false, true)
		return err
	}
	if strings.Contains(ref, "@") {
		return fmt.Errorf("%s is the only name of its image, and a daemon takes it away with the image only; rmi does that: %w", ref, store.ErrBusy)
	}
	return s.untagLast(ctx, c, ref)
}

// hasOther tells whether an image has a name that is not one of those given.
func hasOther(names store.Names, id digest.Digest, but []string) bool {
	for _, refs := range []map[string]digest.Digest{names.Tags, names.Digests} {
		for r, i := range refs {
			if i == id && !slices.Contains(but, r) {
				return true
			}
		}
	}
	return false
}

// untagLast takes the last tag of an image away, which stays. The daemon has no
// call for that; but it lets go of a name that another image gets. An image
// without layers gets it, and goes with it, by its ID: should somebody have given
// the name to yet another image meanwhile, that one keeps it.
func (s *Store) untagLast(ctx context.Context, c *api.Client, ref string) error {
	id, err := daemon.LoadEmpty(ctx, c, ref)
	if err != nil {
		return err
	}
	// Half of this is worse than none: the name is an empty image's.
	_, err = c.Remove(context.WithoutCancel(ctx), string(id), true, false)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("%s names an empty image now; docker rmi removes it: %w", ref, err)
	}
	return nil
}

// renameLive is Rename through a daemon, which makes a change for each name: new
// names first, then those that go. Between them a reader sees both.
func (s *Store) renameLive(ctx context.Context, c *api.Client, moves map[string]string) error {
	set, _, err := s.moved(moves)
	if err != nil {
		return err
	}
	for _, to := range slices.Sorted(maps.Keys(set)) {
		if err := s.tagLive(ctx, c, to, set[to]); err != nil {
			return err
		}
	}
	for _, from := range slices.Sorted(maps.Keys(moves)) {
		if _, stays := set[from]; !stays {
			if err := s.untagLive(ctx, c, from); err != nil {
				return err
			}
		}
	}
	return nil
}

// removeLive is Remove through a daemon.
func (s *Store) removeLive(ctx context.Context, c *api.Client, refOrID string, force bool) (store.Removed, error) {
	id, ref, err := store.Resolve(ctx, s, refOrID)
	if err != nil {
		return store.Removed{}, err
	}
	if ref == "" {
		ref = string(id)
	}
	done, err := c.Remove(ctx, ref, force, false)
	var out store.Removed
	for _, r := range done {
		if r.Untagged != "" {
			out.Untagged = append(out.Untagged, r.Untagged)
		}
		if d := digest.Digest(r.Deleted); store.IsID(d) {
			out.Deleted = append(out.Deleted, d)
		}
	}
	return out, err
}

// removeEachLive is RemoveEach through a daemon. What ctx ends before is not removed.
func (s *Store) removeEachLive(ctx context.Context, c *api.Client, list []store.Removal) ([]store.Removed, []error) {
	out, errs := make([]store.Removed, len(list)), make([]error, len(list))
	for i, r := range list {
		if errs[i] = ctx.Err(); errs[i] == nil {
			out[i], errs[i] = s.removalLive(ctx, c, r)
		}
	}
	return out, errs
}

// removalLive looks at the names right before it asks the daemon, which knows no conditions.
func (s *Store) removalLive(ctx context.Context, c *api.Client, r store.Removal) (store.Removed, error) {
	repos, err := s.readRepos()
	if err != nil {
		return store.Removed{}, err
	}
	if err := r.Foreseen(repos.names(nil)); err != nil {
		return store.Removed{}, err
	}
	return s.removeLive(ctx, c, r.Ref, false)
}

// lives is the store as a load through its daemon needs it.
type lives struct{ s *Store }

var _ daemon.Store = lives{}

// Daemon implements daemon.Store.
func (l lives) Daemon(ctx context.Context) (*api.Client, error) {
	if !l.s.Live() {
		return nil, fmt.Errorf("the Docker daemon on %s was stopped meanwhile; do it again: %w", l.s.path, store.ErrBusy)
	}
	return l.s.daemon(ctx)
}

// HasImage implements daemon.Store.
func (l lives) HasImage(id digest.Digest) bool {
	_, err := l.s.config(id)
	return err == nil
}

// HasLayer implements daemon.Store.
func (l lives) HasLayer(chain digest.Digest) bool {
	return l.s.at.name == overlay2.name && l.s.hasLayer(chain)
}
