package main

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"imagefs/store/unpacked"
)

// tendCache has what a mount has used of a cache directory since then kept from
// others who clean it, and cleans it itself, beginning after a while: nobody waits
// for that. end ends it.
func tendCache(dir string, since time.Time, after time.Duration, log *slog.Logger) (end func()) {
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if !wait(ctx, after) {
			return
		}
		use, err := unpacked.UseCache(dir, since)
		if err != nil {
			log.Debug("no cache directory", "err", err)
			return
		}
		defer func() {
			if err := use.Close(); err != nil {
				log.Debug("cannot take back the mark of a use", "dir", dir, "err", err)
			}
		}()
		for {
			if err := unpacked.CleanCache(ctx, dir); err != nil && !errors.Is(err, context.Canceled) {
				log.Debug("cannot clean the cache directory", "dir", dir, "err", err)
			}
			if !wait(ctx, unpacked.CleanEvery) {
				return
			}
		}
	}()
	return func() { stop(); <-done }
}

// wait waits; false if the context ends before.
func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
