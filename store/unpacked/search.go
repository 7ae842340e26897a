package unpacked

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"imagefs/store"
)

// The search for a store below a directory ends here.
const (
	maxSearch      = 4096 // directories
	maxSearchDepth = 6
)

// Search looks for a store at root and below it, breadth first, as in an
// unpacked copy of one. look tells whether it is at a directory; its error says
// that there is one which cannot be read: the first is returned if no other is
// found. store.ErrNotFound if there is none at all.
func Search(root string, look func(dir string) (found bool, err error)) error {
	if st, err := os.Stat(root); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("no store at %s: %w", root, store.ErrNotFound)
		}
		return fmt.Errorf("open store: %w", err)
	} else if !st.IsDir() {
		return fmt.Errorf("%s is not a directory: %w", root, store.ErrInvalid)
	}
	type dir struct {
		path  string
		depth int
	}
	queue := []dir{{root, 0}}
	var unreadable error
	for n := 0; n < len(queue) && n < maxSearch; n++ {
		d := queue[n]
		found, err := look(d.path)
		if found {
			return nil
		}
		if err != nil && unreadable == nil {
			unreadable = err
		}
		if d.depth == maxSearchDepth || err != nil {
			continue
		}
		entries, err := os.ReadDir(d.path)
		if err != nil {
			if n == 0 {
				return fmt.Errorf("open store: %w", err)
			}
			continue
		}
		for _, e := range entries {
			if e.IsDir() {
				queue = append(queue, dir{filepath.Join(d.path, e.Name()), d.depth + 1})
			}
		}
	}
	if unreadable != nil {
		return unreadable
	}
	return fmt.Errorf("no store at %s: %w", root, store.ErrNotFound)
}
