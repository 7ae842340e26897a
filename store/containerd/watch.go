package containerd

import (
	"context"
	"path/filepath"

	"imagefs/store"
	"imagefs/store/watcher"
)

var _ store.Watcher = (*Store)(nil)

// Watch implements store.Watcher, with inotify on the directories of the
// databases; where that cannot be had, by looking at them.
func (s *Store) Watch(ctx context.Context) (<-chan struct{}, error) {
	dirs := []string{filepath.Join(s.path, metaDir)}
	files := []string{filepath.Join(s.path, metaFile)}
	if s.root.Exists(snapFile) {
		dirs = append(dirs, filepath.Join(s.path, snapDir))
		files = append(files, filepath.Join(s.path, snapFile))
	}
	out := make(chan struct{}, 1)
	events := watcher.Written(ctx, s.log, dirs, files...)
	last, _ := s.stampOf(metaFile)
	go func() {
		defer close(out)
		for range events {
			// All that happens to images and layers has a transaction there.
			now, err := s.stampOf(metaFile)
			if err == nil && now == last {
				continue
			}
			last = now
			select {
			case out <- struct{}{}:
			default: // one is waiting already
			}
		}
	}()
	return out, nil
}
