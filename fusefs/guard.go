package fusefs

import (
	"errors"
	"fmt"
	"runtime/debug"
	"time"
)

// A mistake in the code, or an index on a disk that fails, costs one request
// and not the mount.

// errPanic is what a request gets that ran into a mistake: EIO.
var errPanic = errors.New("internal error")

// panicked notes a panic, with where it was in the log.
func (f *fsys) panicked(op string, what any) error {
	err := fmt.Errorf("%w: %v", errPanic, what)
	f.ctl.Note(op, "", err)
	f.log.Error("panic", "op", op, "what", what, "stack", string(debug.Stack()))
	return err
}

// guard runs what must not take the mount with it when it panics: what runs
// beside requests, and what others wait for.
func (f *fsys) guard(op string, do func() error) (err error) {
	defer func() {
		if what := recover(); what != nil {
			err = f.panicked(op, what)
		}
	}()
	faults()
	return do()
}

// faults lets the goroutine, one that serves requests, survive that mapped
// memory cannot be read.
func faults() { debug.SetPanicOnFault(true) }

// later does something beside requests after a while, unless the mount has ended.
func (f *fsys) later(after time.Duration, op string, do func()) {
	time.AfterFunc(after, func() {
		f.ending.RLock()
		defer f.ending.RUnlock()
		if f.life.Err() != nil {
			return
		}
		_ = f.guard(op, func() error { do(); return nil })
	})
}
