package containerd

import (
	"context"
	"errors"
	"fmt"
	"slices"

	digest "github.com/opencontainers/go-digest"

	"imagefs/store"
	"imagefs/store/daemon"
	"imagefs/store/daemon/api"
)

var _ store.Ingester = (*Store)(nil)

// Ingest implements store.Ingester.
func (s *Store) Ingest(ctx context.Context) (store.Ingest, error) {
	d, err := s.dockerd(ctx, "load images")
	if err != nil {
		return nil, err
	}
	return daemon.NewIngest(loads{s, d.space}), nil
}

// loads is the store as a load through the daemon needs it.
type loads struct {
	s     *Store
	space string
}

var _ daemon.Store = loads{}

// Daemon implements daemon.Store.
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

// HasImage implements daemon.Store.
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

// HasLayer implements daemon.Store: the daemon takes whole archives only.
func (l loads) HasLayer(digest.Digest) bool { return false }
