package store

import "errors"

// State is whether a store can be changed at the moment.
type State struct {
	Fixed  error // why it cannot be changed; nil if it can
	Daemon bool  // a daemon lives on it
}

// Stater is a Store that knows its state. A Store that is none, and is a Tagger,
// finds out when it is changed.
type Stater interface {
	// State asks the store, now.
	State() State
}

// Unable returns why a store whose methods could change it cannot be changed by
// them as it is: nobody is there who would, say. It wraps ErrUnsupported. nil if
// there is nothing to say against trying.
func Unable(st Store) error {
	s, ok := st.(Stater)
	if !ok {
		return nil
	}
	if err := s.State().Fixed; errors.Is(err, ErrUnsupported) {
		return err
	}
	return nil
}
