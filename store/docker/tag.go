package docker

import (
	"context"
	"fmt"
	"time"

	digest "github.com/opencontainers/go-digest"

	"imagefs/store"
	"imagefs/store/beneath"
)

// Tag implements store.Tagger.
func (s *Store) Tag(ctx context.Context, ref string, id digest.Digest) error {
	if f, err := store.FamiliarTag(ref); err != nil || f != ref {
		return fmt.Errorf("reference %.300q: %w", ref, store.ErrInvalid)
	}
	unlock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := s.config(id); err != nil {
		return err
	}
	if err := s.changeNames(map[string]digest.Digest{ref: id}, nil); err != nil {
		return err
	}
	beneath.Step()
	// Docker notes when; the name is there already, so this is not worth failing for.
	d := overlay2.metadata + "/" + id.Encoded()
	if err := s.root.Mkdir(d, 0o700); err == nil {
		if err := s.root.WriteVia(stageDir, d+"/lastUpdated", []byte(time.Now().UTC().Format(time.RFC3339Nano)), 0o600); err != nil {
			s.log.Warn("cannot note the time of a tag", "ref", ref, "err", err)
		}
	}
	return nil
}

// Untag implements store.Tagger. With a repository's last tag of an image go
// its digest references, as with Docker; but not the image.
func (s *Store) Untag(ctx context.Context, ref string) error {
	unlock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	r, err := s.readRepos()
	if err != nil {
		return err
	}
	names := r.names(nil)
	id, ok := names.Tags[ref]
	if !ok {
		return fmt.Errorf("no such image: %s: %w", ref, store.ErrNotFound)
	}
	return s.changeNames(nil, withDigests(names, id, ref))
}
