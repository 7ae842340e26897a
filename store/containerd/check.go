package containerd

import (
	"context"
	"errors"

	"imagefs/store"
)

var _ store.Checker = (*Store)(nil)

// Check implements store.Checker. A deep check reads each layer's blob, which
// must have its digest and hold the diff ID, and looks at every file of each
// snapshot; what a snapshot's files contain has no digest of its own.
func (s *Store) Check(ctx context.Context, deep bool, found func(store.Problem)) error {
	c, err := s.catalog(ctx)
	if err != nil {
		found(store.Problem{What: metaFile, Err: err})
		return nil
	}
	seen := map[string]bool{}
	for _, id := range c.ids {
		if err := ctx.Err(); err != nil {
			return err
		}
		img, err := s.Image(ctx, id)
		if err == nil {
			err = img.Err()
		}
		if err != nil && !errors.Is(err, store.ErrNotFound) { // removed meanwhile
			found(store.Problem{What: "image " + string(id), Err: err})
		}
		if img == nil || !deep {
			continue
		}
		for _, l := range img.Layers() {
			rec := l.(*layerRec)
			if rec.broken != nil || seen[rec.key] {
				continue
			}
			seen[rec.key] = true
			if err := rec.check(ctx); err != nil {
				if ctx.Err() != nil {
					return ctx.Err()
				}
				found(store.Problem{What: "layer " + string(rec.spec.chain), Err: err})
			}
		}
	}
	return nil
}

// check reads everything of a layer.
func (l *layerRec) check(ctx context.Context) error {
	if l.tar != nil {
		if err := l.tar.Verify(ctx); err != nil {
			return err
		}
	}
	if l.files != nil {
		return l.files.Check(ctx, false)
	}
	return nil
}
