package store

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
