package containers

import (
	"context"

	"imagefs/store"
)

var _ store.Checker = (*Store)(nil)

// Check implements store.Checker.
func (s *Store) Check(ctx context.Context, deep bool, found func(store.Problem)) error {
	c := s.now()
	for i, l := range c.lists {
		for n, err := range []error{l.err, l.layErr} {
			if err != nil {
				found(store.Problem{What: s.places[i].files()[n], Err: err})
			}
		}
	}
	done := map[string]bool{}
	for _, id := range c.ids {
		if err := ctx.Err(); err != nil {
			return err
		}
		img, err := s.image(c, id)
		if err == nil {
			err = img.Err()
		}
		if err != nil {
			found(store.Problem{What: "image " + id.String(), Err: err})
		}
		if img == nil {
			continue
		}
		for _, l := range img.Layers() {
			rec := l.(*layerRec)
			if rec.broken != nil || done[rec.Key()] {
				continue // it was said of the image
			}
			done[rec.Key()] = true
			if err := rec.Check(ctx, deep); err != nil {
				if ctx.Err() != nil {
					return ctx.Err()
				}
				found(store.Problem{What: "layer " + rec.chain.String(), Err: err})
			}
		}
	}
	return nil
}
