package unpacked

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"imagefs/store/beneath"
	"imagefs/store/layer"
)

// openCache opens the cache directory. It must be the caller's alone: whoever
// can write an index decides what a mount shows.
func openCache(path string) (*beneath.Root, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, err
	}
	r, err := beneath.Open(path)
	if err != nil {
		return nil, err
	}
	st, err := r.Stat(".")
	if err == nil && (int(st.Uid) != os.Geteuid() || st.Mode&0o022 != 0) {
		err = fmt.Errorf("%s can be written by others: %w", path, fs.ErrPermission)
	}
	if err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

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
