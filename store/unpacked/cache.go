package unpacked

import (
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"imagefs/store/beneath"
	"imagefs/store/layer"
)

// keepIndex writes an index to the cache and maps it; nil if that fails.
func keepIndex(cache *beneath.Root, name string, raw []byte) *layer.Mapped {
	if err := cache.Write(name, raw, 0o600); err != nil {
		return nil
	}
	f, err := cache.OpenFile(name, os.O_RDONLY, 0)
	if err != nil {
		return nil
	}
	defer f.Close()
	m, err := layer.OpenIndex(f)
	if err != nil {
		return nil
	}
	return m
}

// cacheAge is how long the index of a layer that nobody looks at is kept.
const cacheAge = 60 * 24 * time.Hour

// CleanCache removes indexes that were not used for long.
func CleanCache(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		if st, err := e.Info(); err == nil && st.Mode().IsRegular() && isCached(e.Name()) && time.Since(st.ModTime()) > cacheAge {
			_ = os.Remove(filepath.Join(dir, e.Name()))
		}
	}
	return err
}

// isCached tells whether a name is one that cacheFile gives.
func isCached(name string) bool {
	_, err := hex.DecodeString(name)
	return err == nil && len(name) == 64
}
