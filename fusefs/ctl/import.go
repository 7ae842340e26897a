package ctl

import (
	"context"
	"fmt"
	"io"
	"strings"

	"imagefs/store"
)

// ImportPath handles "/absolute/path" of a tar of a root file system, and the
// name for its image if it shall have one. A path with blanks is quoted.
func (c *Ctl) ImportPath(ctx context.Context, uid uint32, cmd []byte) error {
	return c.command(uid, "import", cmd, func(s string) (r Result, err error) {
		f, err := words(s)
		if err != nil {
			return r, err
		}
		if len(f) == 0 || len(f) > 2 || !strings.HasPrefix(f[0], "/") {
			return r, fmt.Errorf("want /absolute/path.tar [NAME], a path with blanks in quotes: %w", store.ErrInvalid)
		}
		if c.o.Importer == nil {
			return r, store.Cannot(c.st, "import images")
		}
		var o store.ImportOptions
		if len(f) == 2 {
			o.Name = f[1]
		}
		return imported(c.o.Importer.ImportPath(ctx, f[0], o))
	})
}

// Import reads a tar of a root file system from a stream; its image has no name.
func (c *Ctl) Import(ctx context.Context, uid uint32, r io.Reader) error {
	return c.run(uid, "import", "", func() (Result, error) {
		if c.o.Importer == nil {
			return Result{}, store.Cannot(c.st, "import images")
		}
		return imported(c.o.Importer.Import(ctx, r, store.ImportOptions{}))
	})
}

func imported(img store.Loaded, err error) (Result, error) {
	if err != nil {
		return Result{}, err
	}
	return Result{ID: img.ID, Tags: img.Names}, nil
}
