package unpacked

import (
	"os"

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
