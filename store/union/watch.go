package union

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"imagefs/store"
)

// Watch implements store.Watcher: it tells of the changes of all parts that can
// tell, those that come later among them.
func (u *Union) Watch(ctx context.Context) (<-chan struct{}, error) {
	out := make(chan struct{}, 1)
	notify := func() {
		select {
		case out <- struct{}{}:
		default: // one is waiting already
		}
	}
	ctx, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	watched := map[string]bool{}
	watch := func(p store.Part) error {
		w, ok := p.Store.(store.Watcher)
		if watched[p.Name] || !ok {
			return nil
		}
		watched[p.Name] = true
		changes, err := w.Watch(ctx)
		if err != nil {
			return fmt.Errorf("store %s: %w", p.Name, err)
		}
		wg.Go(func() {
			for range changes {
				notify()
			}
		})
		return nil
	}
	all := func() (added <-chan struct{}, err error) {
		u.mu.Lock()
		parts, added := u.parts, u.added
		u.mu.Unlock()
		var errs []error
		for _, p := range parts {
			errs = append(errs, watch(p))
		}
		return added, errors.Join(errs...)
	}
	added, err := all()
	if err != nil {
		stop()
		wg.Wait()
		return nil, err
	}
	go func() {
		defer close(out)
		defer wg.Wait()
		defer stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-added:
			}
			if added, err = all(); err != nil {
				u.log.Warn("cannot watch a store", "err", err)
			}
			notify()
		}
	}()
	return out, nil
}

// Check implements store.Checker, for all parts that can be checked: the name
// of the part goes before each problem.
func (u *Union) Check(ctx context.Context, deep bool, found func(store.Problem)) error {
	any := false
	for _, p := range u.Parts() {
		c, ok := p.Store.(store.Checker)
		if !ok {
			u.log.Warn("a store of this kind cannot be checked", "store", p.Name, "path", p.Path)
			continue
		}
		any = true
		err := c.Check(ctx, deep, func(q store.Problem) {
			q.What = p.Name + ": " + q.What
			found(q)
		})
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			// It must not keep the others from being checked.
			found(store.Problem{What: p.Name, Err: err})
		}
	}
	if !any {
		return store.Cannot(u, "check anything")
	}
	return nil
}
