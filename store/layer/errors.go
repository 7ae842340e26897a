package layer

import (
	"errors"
	"fmt"
	"strconv"

	"imagefs/overlay"
	"imagefs/store"
)

func errTooLarge(what string, limit int64) error {
	return fmt.Errorf("%s of more than %d bytes: %w", what, limit, store.ErrTooLarge)
}

func corrupt(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, store.ErrCorrupt)...)
}

// classify gives an error of package overlay the sentinel of package store.
func classify(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, overlay.ErrTooLarge):
		return fmt.Errorf("%w: %w", store.ErrTooLarge, err)
	case errors.Is(err, overlay.ErrName), errors.Is(err, overlay.ErrNoTarget), errors.Is(err, overlay.ErrCorrupt):
		return fmt.Errorf("%w: %w", store.ErrCorrupt, err)
	}
	return err
}

func appendInt(b []byte, n int64) []byte { return strconv.AppendInt(b, n, 10) }
