package change

import (
	"strings"

	"imagefs/store"
)

// environ is the variables of a configuration as the lexer asks for them. It
// hands out so much and no more: a few kilobytes of text could make gigabytes.
type environ struct {
	values map[string]string
	left   int // bytes
}

func newEnviron(env []string) *environ {
	e := &environ{values: map[string]string{}, left: store.MaxConfigSize}
	for _, v := range env {
		name, value, _ := strings.Cut(v, "=")
		e.values[name] = value
	}
	return e
}

// Get implements shell.EnvGetter.
func (e *environ) Get(name string) (string, bool) {
	v, ok := e.values[name]
	if e.left -= len(v); e.left < 0 {
		return "", ok
	}
	return v, ok
}

// Keys implements shell.EnvGetter. Nothing asks for them.
func (e *environ) Keys() []string { return nil }
