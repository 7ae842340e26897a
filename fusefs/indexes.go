package fusefs

import (
	"cmp"
	"context"
	"sync"
	"sync/atomic"

	"imagefs/store"
)

// indexers is how many indexes of an image are opened, or built, at a time: to
// build one takes memory.
const indexers = 2

// openIndexes gets the indexes of layers ready, the lowest first. After an error
// no other is begun.
func (f *fsys) openIndexes(ctx context.Context, layers []store.Layer) error {
	errs := make([]error, max(1, min(indexers, len(layers))))
	var next atomic.Int64
	work := func(err *error) {
		*err = f.guard("index", func() error {
			for {
				n := int(next.Add(1)) - 1
				if n >= len(layers) {
					return nil
				}
				if _, err := layers[n].Index(ctx); err != nil {
					next.Store(int64(len(layers)))
					return err
				}
			}
		})
	}
	var others sync.WaitGroup
	for i := range errs[1:] {
		others.Go(func() { work(&errs[i+1]) })
	}
	work(&errs[0])
	others.Wait()
	return cmp.Or(errs...)
}
