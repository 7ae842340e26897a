package fusefs

import (
	"context"
	"syscall"

	"imagefs/store"
)

// What the first look into an image has to find may take minutes: indexes are
// built, layers are decompressed. It is done once for all who wait, with no lock
// held, and who waits can be interrupted.

// imageOf returns the image that a node is of, and what the store knows of it.
func (f *fsys) imageOf(ctx context.Context, id nodeID) (*image, store.Image, error) {
	im := f.images.get(id.slot())
	if im == nil || im.gone.Load() {
		return nil, nil, syscall.ESTALE
	}
	if img := im.known.Load(); img != nil {
		return im, *img, nil
	}
	img, err := f.loadImage(ctx, im)
	if err != nil {
		return nil, nil, err
	}
	return im, img, nil
}

// loadImage asks the store for an image, once for all who wait for it. That takes
// no long work: it goes on when nobody waits any more.
func (f *fsys) loadImage(ctx context.Context, im *image) (store.Image, error) {
	im.mu.Lock()
	if img := im.known.Load(); img != nil {
		im.mu.Unlock()
		return *img, nil
	}
	if im.loading == nil {
		im.loading = takeOff(f, "look at an image", func(context.Context) (store.Image, error) {
			return f.st.Image(f.life, im.id)
		}, func(w *flight[store.Image]) {
			im.mu.Lock()
			defer im.mu.Unlock()
			im.loading = nil
			switch {
			case im.gone.Load():
				w.out, w.err = nil, syscall.ESTALE
			case w.err == nil:
				im.known.Store(&w.out)
				if err := w.out.Err(); err != nil {
					f.log.Warn("an image is broken", "id", im.id, "err", err)
				}
			}
		})
	}
	return im.loading.await(ctx, &im.mu, func() {})
}

// imageWork returns a number that takes work to find, found once for all who ask
// for the same at one time. have tells it if it is known, with im.mu held; found
// is called with it, without.
func (f *fsys) imageWork(ctx context.Context, im *image, key any, have func() (uint64, bool),
	do func(ctx context.Context) (uint64, error), found func(n uint64) (uint64, error),
) (uint64, error) {
	im.mu.Lock()
	if n, ok := have(); ok {
		im.mu.Unlock()
		return n, nil
	}
	w := im.flights[key]
	if w == nil {
		w = takeOff(f, "look into an image", do, func(w *flight[uint64]) {
			if w.err == nil {
				w.out, w.err = found(w.out)
			}
			im.mu.Lock()
			defer im.mu.Unlock()
			if im.gone.Load() {
				w.out, w.err = 0, syscall.ESTALE
			}
			if im.flights[key] == w {
				delete(im.flights, key)
			}
		})
		im.flights[key] = w
	}
	return w.await(ctx, &im.mu, func() {
		if im.flights[key] == w {
			delete(im.flights, key)
		}
	})
}

// root returns the root directory of a view of the image.
func (f *fsys) root(ctx context.Context, im *image, img store.Image, k rootKey) (nodeID, error) {
	layers := img.Layers()
	have := func() (uint64, bool) { id, ok := im.roots[k]; return uint64(id), ok }
	id, err := f.imageWork(ctx, im, k, have, func(ctx context.Context) (uint64, error) {
		if err := img.Err(); err != nil && (img.RawConfig() == nil || len(layers) <= k.n) {
			return 0, err
		}
		select {
		case im.building <- struct{}{}:
			defer func() { <-im.building }()
		case <-ctx.Done():
			return 0, ctx.Err()
		}
		from := 0
		if k.diff {
			from = k.n
		}
		id, err := f.newView(ctx, img, from, k.n, k.diff)
		return uint64(id), err
	}, func(n uint64) (uint64, error) {
		id, err := f.keepRoot(im, k, nodeID(n))
		return uint64(id), err
	})
	return nodeID(id), err
}

// keepRoot lets a new view be found. It returns the root of the one that there is.
func (f *fsys) keepRoot(im *image, k rootKey, id nodeID) (nodeID, error) {
	im.mu.Lock()
	if im.gone.Load() {
		// It was removed meanwhile, and what is to be let go is counted already.
		f.retire(im, []nodeID{id})
		im.mu.Unlock()
		return 0, syscall.ESTALE
	}
	is, ok := im.roots[k]
	if !ok {
		im.roots[k] = id
		is = id
	}
	im.mu.Unlock()
	if is != id {
		f.letGo([]nodeID{id}) // its makers had left, and others have made one
	}
	return is, nil
}
