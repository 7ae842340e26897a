package union

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"weak"

	digest "github.com/opencontainers/go-digest"

	"imagefs/store"
)

// Options of New.
type Options struct {
	// Into names the part that takes in new images; "" stands for the only one that can.
	Into string
	// Make makes the part that takes in new images, at the first load. It is put
	// before all others. nil: Into is there, or nothing is taken in.
	Make func() (store.Part, error)
	Log  *slog.Logger // nil: silent
}

// Union is a store of several.
type Union struct {
	o   Options
	log *slog.Logger

	making sync.Mutex // one call of Make

	mu      sync.Mutex // guards what follows
	parts   []store.Part
	added   chan struct{}                         // closed, and made anew, when a part comes
	failing map[string]string                     // part → what is wrong with it
	layers  map[digest.Digest]weak.Pointer[layer] // as long as somebody has them
	scans   map[string]*scan                      // part → its layers, of a part that cannot find them
	closed  bool
}

var (
	_ store.Store     = (*Union)(nil)
	_ store.Parter    = (*Union)(nil)
	_ store.Watcher   = (*Union)(nil)
	_ store.Checker   = (*Union)(nil)
	_ store.Forgetter = (*Union)(nil)
)

// New makes a store of parts, one at least, and closes them when it is closed.
// The store is a Tagger and Remover if a part may be changed, and an Ingester
// if one can take in images, or several, of which Into names one. Names of parts must be what CheckName takes, and unique.
func New(parts []store.Part, o Options) (store.Store, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if len(parts) == 0 {
		return nil, fmt.Errorf("a union of no stores: %w", store.ErrInvalid)
	}
	seen := map[string]bool{}
	for _, p := range parts {
		if err := CheckName(p.Name); err != nil {
			return nil, err
		}
		if seen[p.Name] {
			return nil, fmt.Errorf("two stores are called %s: %w", p.Name, store.ErrInvalid)
		}
		seen[p.Name] = true
	}
	u := &Union{o: o, log: o.Log, parts: slices.Clone(parts), added: make(chan struct{}),
		failing: map[string]string{}, layers: map[digest.Digest]weak.Pointer[layer]{}, scans: map[string]*scan{}}
	changes := o.Make != nil || slices.ContainsFunc(parts, func(p store.Part) bool {
		_, tags := p.Store.(store.Tagger)
		_, removes := p.Store.(store.Remover)
		return p.Fixed == "" && (tags || removes)
	})
	takes := o.Make != nil || slices.ContainsFunc(parts, func(p store.Part) bool {
		_, ok := p.Store.(store.Ingester)
		return ok && p.Fixed == ""
	})
	switch {
	case changes && takes:
		return changingTaking{u, changing{u}, taking{u}}, nil
	case changes:
		return struct {
			*Union
			changing
		}{u, changing{u}}, nil
	case takes:
		return struct {
			*Union
			taking
		}{u, taking{u}}, nil
	}
	return u, nil
}

type changingTaking struct {
	*Union
	changing
	taking
}

// maxName bounds a part's name in bytes.
const maxName = 64

// CheckName fails for what is no name of a part: letters, digits, ".", "_" and
// "-", beginning with a letter or a digit, at most 64 of them.
func CheckName(name string) error {
	good := name != "" && len(name) <= maxName && !strings.ContainsRune("._-", rune(name[0]))
	for _, c := range []byte(name) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '.', c == '_', c == '-':
		default:
			good = false
		}
	}
	if !good {
		return fmt.Errorf("a store cannot be called %.80q: %w", name, store.ErrInvalid)
	}
	return nil
}

// Parts implements store.Parter.
func (u *Union) Parts() []store.Part {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.parts[:len(u.parts):len(u.parts)]
}

// add puts a part before all others.
func (u *Union) add(p store.Part) error {
	if err := CheckName(p.Name); err != nil {
		return err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closed {
		return fmt.Errorf("the store is closed: %w", store.ErrGone)
	}
	if slices.ContainsFunc(u.parts, func(q store.Part) bool { return q.Name == p.Name }) {
		return fmt.Errorf("two stores are called %s: %w", p.Name, store.ErrInvalid)
	}
	u.parts = append([]store.Part{p}, u.parts...)
	close(u.added)
	u.added = make(chan struct{})
	return nil
}

// Root implements store.Store: a union has none, its parts have.
func (u *Union) Root() string { return "" }

// Close implements store.Store.
func (u *Union) Close() error {
	u.mu.Lock()
	parts := u.parts
	again := u.closed
	u.closed = true
	u.layers = map[digest.Digest]weak.Pointer[layer]{}
	u.scans = map[string]*scan{}
	u.mu.Unlock()
	if again {
		return nil
	}
	var errs []error
	for _, p := range parts {
		errs = append(errs, p.Store.Close())
	}
	return errors.Join(errs...)
}

// ask calls do with each part. It fails only if all parts do.
func (u *Union) ask(ctx context.Context, do func(p store.Part) error) error {
	var first error
	good := false
	for _, p := range u.Parts() {
		err := do(p)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		u.note(p, err)
		if err == nil {
			good = true
		} else if first == nil {
			first = fmt.Errorf("store %s: %w", p.Name, err)
		}
	}
	if good {
		return nil
	}
	return first
}

// note logs when a part begins to fail, or to work again.
func (u *Union) note(p store.Part, err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	u.mu.Lock()
	was := u.failing[p.Name]
	u.failing[p.Name] = text
	u.mu.Unlock()
	switch {
	case was == text:
	case text == "":
		u.log.Info("a store can be read again", "store", p.Name, "path", p.Path)
	default:
		u.log.Warn("a store cannot be read, the others are shown", "store", p.Name, "path", p.Path, "err", err)
	}
}

// Names implements store.Store.
func (u *Union) Names(ctx context.Context) (store.Names, error) {
	out := store.Names{Tags: map[string]digest.Digest{}, Digests: map[string]digest.Digest{}}
	err := u.ask(ctx, func(p store.Part) error {
		n, err := p.Store.Names(ctx)
		if err != nil {
			return err
		}
		merge(out.Tags, n.Tags)
		merge(out.Digests, n.Digests)
		if out.Aliases == nil && n.Aliases != nil {
			out.Aliases = map[digest.Digest]digest.Digest{}
		}
		merge(out.Aliases, n.Aliases)
		return nil
	})
	return out, err
}

func merge[K ~string](into, from map[K]digest.Digest) {
	for ref, id := range from {
		if _, taken := into[ref]; !taken {
			into[ref] = id
		}
	}
}

// IDs implements store.Store.
func (u *Union) IDs(ctx context.Context) ([]digest.Digest, error) {
	var out []digest.Digest
	err := u.ask(ctx, func(p store.Part) error {
		ids, err := p.Store.IDs(ctx)
		out = append(out, ids...)
		return err
	})
	if err != nil {
		return nil, err
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

// holders returns the parts that have an image, in order.
func (u *Union) holders(ctx context.Context, id digest.Digest) ([]store.Part, error) {
	var out []store.Part
	var bad error
	for _, p := range u.Parts() {
		switch _, err := p.Store.Image(ctx, id); {
		case err == nil:
			out = append(out, p)
		case !errors.Is(err, store.ErrNotFound) && bad == nil:
			bad = fmt.Errorf("store %s: %w", p.Name, err)
		}
	}
	if len(out) > 0 {
		return out, nil
	}
	if bad == nil {
		bad = noImage(string(id))
	}
	return nil, bad
}

func noImage(what string) error {
	return fmt.Errorf("no such image: %s: %w", what, store.ErrNotFound)
}
