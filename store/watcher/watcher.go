// Package watcher tells when something is renamed into, or removed from, one of
// a few directories: how kinds of store learn of what others do to a store.
package watcher

import (
	"context"
	"log/slog"
	"maps"
	"os"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	settle       = 30 * time.Millisecond  // events that come together become one
	settleWrites = 200 * time.Millisecond // the same, of writes
	fallback     = 500 * time.Millisecond // between looks where the system tells nothing
)

// Dirs sends on the channel after names in the directories changed, or
// directories themselves; several changes may be one event. It ends, and closes
// the channel, when ctx is done. Where the system cannot watch, the
// directories, and files, are looked at instead: files are what changes in
// place of names in a directory.
func Dirs(ctx context.Context, log *slog.Logger, dirs []string, files ...string) <-chan struct{} {
	return start(ctx, log, follower{settle: settle}, dirs, files)
}

// Written is Dirs that tells of writes to what is in the directories, too: for
// databases, which are changed in place, and often.
func Written(ctx context.Context, log *slog.Logger, dirs []string, files ...string) <-chan struct{} {
	return start(ctx, log, follower{settle: settleWrites, writes: true}, dirs, files)
}

func start(ctx context.Context, log *slog.Logger, f follower, dirs, files []string) <-chan struct{} {
	out := make(chan struct{}, 1)
	w, err := fsnotify.NewWatcher()
	if err == nil {
		for _, d := range dirs {
			if err = w.Add(d); err != nil {
				w.Close()
				break
			}
		}
	}
	if err != nil {
		log.Warn("cannot watch the store, looking at it twice a second instead", "err", err)
		paths := append(files, dirs...)
		go poll(ctx, out, paths, look(paths))
		return out
	}
	go f.follow(ctx, out, w)
	return out
}

type follower struct {
	settle time.Duration
	writes bool // count
}

func (f follower) follow(ctx context.Context, out chan<- struct{}, w *fsnotify.Watcher) {
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
			if e.Op == fsnotify.Chmod || e.Op == fsnotify.Write && !f.writes {
				continue // what counts is renamed into place
			}
			if !drain(ctx, w, f.settle) {
				return
			}
			notify(out)
		}
	}
}

// drain takes what comes within a moment.
func drain(ctx context.Context, w *fsnotify.Watcher, settle time.Duration) bool {
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

// state is what tells that a file or directory is another, or was changed.
type state struct {
	ino       uint64
	sec, nsec int64
}

func look(paths []string) map[string]state {
	m := map[string]state{}
	for _, p := range paths {
		if st, err := os.Lstat(p); err == nil {
			if s, ok := st.Sys().(*syscall.Stat_t); ok {
				m[p] = state{s.Ino, s.Ctim.Sec, s.Ctim.Nsec}
			}
		}
	}
	return m
}

func poll(ctx context.Context, out chan<- struct{}, paths []string, last map[string]state) {
	defer close(out)
	t := time.NewTicker(fallback)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			if now := look(paths); !maps.Equal(now, last) {
				last = now
				notify(out)
			}
		}
	}
}
