package docker

import (
	"context"
	"fmt"
	"maps"
	"time"

	digest "github.com/opencontainers/go-digest"

	"imagefs/store"
	"imagefs/store/beneath"
	"imagefs/store/daemon/api"
)

// Tag implements store.Tagger.
func (s *Store) Tag(ctx context.Context, ref string, id digest.Digest) error {
	if err := store.CheckTag(ref); err != nil {
		return err
	}
	return s.change(ctx,
		func() error { return s.tagDisk(ref, id) },
		func(c *api.Client) error { return s.tagLive(ctx, c, ref, id) })
}

// tagDisk is Tag with the lock held.
func (s *Store) tagDisk(ref string, id digest.Digest) error {
	if _, err := s.config(id); err != nil {
		return err
	}
	if err := s.changeNames(map[string]digest.Digest{ref: id}, nil); err != nil {
		return err
	}
	beneath.Step()
	s.noteTagged(ref, id)
	return nil
}

// noteTagged notes when an image was tagged, as Docker does. The name is there
// already, so this is not worth failing for.
func (s *Store) noteTagged(ref string, id digest.Digest) {
	d := overlay2.metadata + "/" + id.Encoded()
	if err := s.root.Mkdir(d, 0o700); err == nil {
		if err := s.root.WriteVia(stageDir, d+"/lastUpdated", []byte(time.Now().UTC().Format(time.RFC3339Nano)), 0o600); err != nil {
			s.log.Warn("cannot note the time of a tag", "ref", ref, "err", err)
		}
	}
}

// Untag implements store.Tagger. With a repository's last tag of an image go
// its digest references, as with Docker; but not the image.
func (s *Store) Untag(ctx context.Context, ref string) error {
	return s.change(ctx,
		func() error { return s.untagDisk(ref) },
		func(c *api.Client) error { return s.untagLive(ctx, c, ref) })
}

// untagDisk is Untag with the lock held.
func (s *Store) untagDisk(ref string) error {
	names, id, err := s.named(ref)
	if err != nil {
		return err
	}
	return s.changeNames(nil, withDigests(names, id, ref))
}

// named returns the image of a name, a tag or a digest reference, and all names.
func (s *Store) named(ref string) (store.Names, digest.Digest, error) {
	r, err := s.readRepos()
	if err != nil {
		return store.Names{}, "", err
	}
	names := r.names(nil)
	id, ok := names.Tags[ref]
	if !ok {
		id, ok = names.Digests[ref]
	}
	if !ok {
		return store.Names{}, "", noName(ref)
	}
	return names, id, nil
}

func noName(ref string) error {
	return fmt.Errorf("no such image: %s: %w", ref, store.ErrNotFound)
}

// Rename implements store.Renamer: names are all in one file. Digest references
// go with a name that is moved away as they do in Untag.
func (s *Store) Rename(ctx context.Context, moves map[string]string) error {
	for _, to := range moves {
		if err := store.CheckTag(to); err != nil {
			return err
		}
	}
	return s.change(ctx,
		func() error { return s.renameDisk(moves) },
		func(c *api.Client) error { return s.renameLive(ctx, c, moves) })
}

// moved returns what moves sets, and all names there are.
func (s *Store) moved(moves map[string]string) (set map[string]digest.Digest, names store.Names, err error) {
	r, err := s.readRepos()
	if err != nil {
		return nil, store.Names{}, err
	}
	names = r.names(nil)
	set = map[string]digest.Digest{}
	for from, to := range moves {
		id, ok := names.Tags[from]
		if !ok {
			return nil, store.Names{}, noName(from)
		}
		set[to] = id
	}
	return set, names, nil
}

// renameDisk is Rename with the lock held.
func (s *Store) renameDisk(moves map[string]string) error {
	set, names, err := s.moved(moves)
	if err != nil {
		return err
	}
	after := store.Names{Tags: maps.Clone(names.Tags), Digests: names.Digests}
	maps.Copy(after.Tags, set)
	var remove []string
	for from := range moves {
		if _, stays := set[from]; !stays {
			delete(after.Tags, from)
		}
	}
	for from := range moves {
		if _, stays := set[from]; !stays {
			remove = append(remove, withDigests(after, names.Tags[from], from)...)
		}
	}
	if err := s.changeNames(set, remove); err != nil {
		return err
	}
	beneath.Step()
	for to, id := range set {
		s.noteTagged(to, id)
	}
	return nil
}
