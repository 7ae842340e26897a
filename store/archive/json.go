package archive

import (
	"encoding/json"
	"errors"
	"fmt"

	"imagefs/store"
)

// maxValues bounds the values in a JSON text, each of which takes far more
// memory once it is decoded: `{},{},{}`.
const maxValues = 1 << 18

// decode reads a manifest or an index. Errors wrap store.ErrCorrupt or store.ErrTooLarge.
func decode(what string, b []byte, v any) error {
	if err := store.FewValues(b, maxValues); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("%s: %w: %w", what, store.ErrCorrupt, err)
	}
	return nil
}

// config reads and parses an image config.
func (l *load) config(c content, name string) ([]byte, store.Config, error) {
	var cfg store.Config
	b, err := c.bytes(name, store.MaxConfigSize)
	if err == nil {
		err = store.FewValues(b, maxValues)
	}
	if err == nil {
		cfg, err = store.ParseConfig(b)
	}
	return b, cfg, present(name, err)
}

// present names the file in an error, and makes one that is missing store.ErrCorrupt.
func present(name string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errMissing):
		return fmt.Errorf("%.200q: %w: %w", name, errMissing, store.ErrCorrupt)
	}
	return fmt.Errorf("%.200q: %w", name, err)
}
