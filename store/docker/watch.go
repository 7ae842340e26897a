package docker

import (
	"context"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	settle   = 30 * time.Millisecond  // events that come together become one
	fallback = 500 * time.Millisecond // between looks where the system tells nothing
)

// Watch implements store.Watcher, with inotify on the directories in which
// names and images change; where that cannot be had, by looking at them.
func (s *Store) Watch(ctx context.Context) (<-chan struct{}, error) {
	out := make(chan struct{}, 1)
	dirs := []string{imageDir, contentDir, layerDir}
	w, err := fsnotify.NewWatcher()
	if err == nil {
		for _, d := range dirs {
			if err = w.Add(filepath.Join(s.path, d)); err != nil {
				w.Close()
				break
			}
		}
	}
	if err != nil {
		s.log.Warn("cannot watch the store, looking at it twice a second instead", "err", err)
		go s.poll(ctx, out, dirs)
		return out, nil
	}
	go func() {
		defer close(out)
		defer w.Close()
		for {
			select {
			case <-ctx.Done():
				return
			case _, ok := <-w.Errors:
				if !ok {
					return
				}
				notify(out) // events may be lost: look
			case e, ok := <-w.Events:
				if !ok {
					return
				}
				if e.Op == fsnotify.Chmod || e.Op == fsnotify.Write {
					continue // what counts is renamed into place
				}
				if !drain(ctx, w) {
					return
				}
				notify(out)
			}
		}
	}()
	return out, nil
}

// drain takes what comes within a moment.
func drain(ctx context.Context, w *fsnotify.Watcher) bool {
	t := time.NewTimer(settle)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-t.C:
			return true
		case err := <-w.Errors:
			_ = err // whatever was missed: after this everything is read anew
		case <-w.Events:
		}
	}
}

func notify(out chan<- struct{}) {
	select {
	case out <- struct{}{}:
	default: // one is waiting already
	}
}

func (s *Store) poll(ctx context.Context, out chan<- struct{}, dirs []string) {
	defer close(out)
	look := func() (sum [4][3]int64) {
		for i, p := range append([]string{reposFile}, dirs...) {
			if st, err := s.root.Stat(p); err == nil {
				sum[i] = [3]int64{int64(st.Ino), st.Ctim.Sec, st.Ctim.Nsec}
			}
		}
		return sum
	}
	last := look()
	t := time.NewTicker(fallback)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			if now := look(); now != last {
				last = now
				notify(out)
			}
		}
	}
}
