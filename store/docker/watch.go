package docker

import (
	"context"
	"path/filepath"

	"imagefs/store/watcher"
)

// Watch implements store.Watcher, with inotify on the directories in which
// names and images change; where that cannot be had, by looking at them.
func (s *Store) Watch(ctx context.Context) (<-chan struct{}, error) {
	var dirs []string
	for _, d := range []string{s.at.image, s.at.content, s.at.layers} {
		dirs = append(dirs, filepath.Join(s.path, d))
	}
	return watcher.Dirs(ctx, s.log, dirs, filepath.Join(s.path, s.at.repos)), nil
}
