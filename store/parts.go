package store

import (
	"context"
	"fmt"
	"io"
	"strings"

	digest "github.com/opencontainers/go-digest"

	"imagefs/overlay"
)

// Part is one of the stores that a store is made of.
type Part struct {
	Name  string // unique among the parts; a plain file name
	Kind  string // the kind of store, as a user names it; "" if nobody said
	Path  string // where it is
	Store Store
	// Fixed says, if it is not "", that the part is only read although its kind
	// could be written, and what to do about that.
	Fixed string
}

// Parter is a Store that is made of others.
type Parter interface {
	// Parts returns the stores in order: where two contradict each other, the
	// first is right. They are not the caller's to close. Later calls may return more.
	Parts() []Part
}

// LayerFinder is a Store that can find a layer without an image that has it.
type LayerFinder interface {
	// FindLayer returns the topmost layer of a stack of diff IDs, bottom first.
	// ErrNotFound if the store does not have it, or not whole.
	FindLayer(ctx context.Context, diffIDs []digest.Digest) (Layer, error)
}

// WholeReader is a Layer that reads a small file in fewer steps than Open, ReadAt
// and Close are.
type WholeReader interface {
	// ReadWhole reads a regular file into p, which is as long as the file. Errors are those of Open and ReadAt.
	ReadWhole(ctx context.Context, i overlay.Ino, p []byte) error
}

// ReadWhole reads a regular file of a layer into p, which is as long as the file,
// in as few steps as the layer can.
func ReadWhole(ctx context.Context, l Layer, i overlay.Ino, p []byte) error {
	if w, ok := l.(WholeReader); ok {
		return w.ReadWhole(ctx, i, p)
	}
	f, err := l.Open(ctx, i)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.ReadFull(io.NewSectionReader(f, 0, int64(len(p))), p)
	return err
}

// Advisor is a Store of a kind that is only read and that others change.
type Advisor interface {
	// Advice says who makes changes: "use podman".
	Advice() string
}

// Cannot returns the error of a store that does not have the ability to do
// something ("tag images"). It wraps ErrUnsupported, names the store, and says
// what to do where that is known.
func Cannot(st Store, do string) error {
	var where []string
	if p, ok := st.(Parter); ok {
		for _, part := range p.Parts() {
			where = append(where, part.Name)
		}
	} else if st.Root() != "" {
		where = []string{st.Root()}
	}
	if a, ok := st.(Advisor); ok && len(where) == 1 {
		return fmt.Errorf("cannot %s in %s, which imagefs only reads: %s: %w", do, where[0], a.Advice(), ErrUnsupported)
	}
	switch len(where) {
	case 0:
		return fmt.Errorf("cannot %s here: %w", do, ErrUnsupported)
	case 1:
		return fmt.Errorf("cannot %s in %s: %w", do, where[0], ErrUnsupported)
	}
	return fmt.Errorf("cannot %s in any of the stores %s: %w", do, strings.Join(where, ", "), ErrUnsupported)
}
