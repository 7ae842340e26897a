package store

import "errors"

// Sentinels classify errors; test with errors.Is. Everything a store returns
// wraps one of them or an error of the system.
var (
	ErrNotFound    = errors.New("not found")
	ErrExists      = errors.New("already exists")
	ErrInvalid     = errors.New("invalid")             // bad reference, bad syntax, bad argument
	ErrCorrupt     = errors.New("corrupt")             // digest mismatch, truncated, contradicts itself
	ErrTooLarge    = errors.New("over the size limit") // sizes, counts, depths
	ErrGone        = errors.New("gone")                // content that was removed under an open view
	ErrBusy        = errors.New("in use")              // other names, a container, a lock
	ErrReadOnly    = errors.New("read-only store")     // cannot be written, or a daemon lives on it
	ErrUnsupported = errors.New("not supported by this kind of store")
)
