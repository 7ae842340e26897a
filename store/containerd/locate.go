package containerd

import (
	"errors"
	"io/fs"
	"path/filepath"
	"strings"

	"imagefs/store/beneath"
	"imagefs/store/unpacked"
)

// Own is where a Docker daemon keeps the root of its own containerd, below its data root.
const Own = "containerd/daemon"

// Is tells whether a directory is the root of such a store, or of a Docker
// daemon that has one, without looking further below it.
func Is(root string) bool {
	if ok, _ := has(root, metaFile); ok {
		return true
	}
	ok, _ := has(root, Own+"/"+metaFile)
	return ok && !hasDriver(root)
}

// has tells whether a path is below a directory, and no link leads there.
func has(dir, path string) (bool, error) {
	r, err := beneath.Open(dir)
	if err != nil {
		return false, err
	}
	defer r.Close()
	if _, err = r.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// hasDriver tells whether a Docker daemon's data root has images in a storage
// driver: such a daemon has a containerd for its containers alone.
func hasDriver(dataRoot string) bool {
	r, err := beneath.Open(dataRoot)
	if err != nil {
		return false
	}
	defer r.Close()
	drivers, _ := r.List("image")
	for _, d := range drivers {
		if r.IsDir("image/" + d + "/imagedb") {
			return true
		}
	}
	return false
}

// locate finds the root of a store at or below a directory.
func locate(root string) (found string, err error) {
	err = unpacked.Search(root, func(dir string) (bool, error) {
		if up, own := strings.CutSuffix(dir, string(filepath.Separator)+Own); own && len(up) >= len(root) && hasDriver(up) {
			return false, nil
		}
		found = dir
		return has(dir, metaFile)
	})
	return found, err
}
