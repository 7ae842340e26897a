// Package guard keeps a goroutine that works on what strangers wrote from ending
// the process: a mistake in the code, or an index on a disk that fails, costs what
// the goroutine was doing and not the mount that shows the store.
//
// What serves requests has a guard already. Whatever a store does beside them
// goes through Run.
package guard

import (
	"fmt"
	"runtime/debug"
)

// Panic is the error of something that ran into a mistake.
type Panic struct {
	What  any
	Stack []byte // of the goroutine, as debug.Stack formats it
}

// Error implements error.
func (p *Panic) Error() string { return fmt.Sprintf("internal error: %v", p.What) }

// Run runs do. A panic in it is an error, a *Panic, and so is mapped memory that
// cannot be read, in this goroutine and until it ends. Of goroutines that do
// starts it knows nothing.
func Run(do func() error) (err error) {
	defer func() {
		if what := recover(); what != nil {
			err = &Panic{what, debug.Stack()}
		}
	}()
	debug.SetPanicOnFault(true)
	return do()
}
