package docker

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"imagefs/store"
	"imagefs/store/unpacked"
)

// place is where a store was found.
type place struct {
	path string
	layout
	others []string // drivers that have images there too
}

// locate finds the data root at or below a directory, breadth first.
func locate(root string) (place, error) {
	if p, ok, err := named(root); ok || err != nil {
		return p, err
	}
	var p place
	err := unpacked.Search(root, func(dir string) (found bool, err error) {
		p, found, err = dataRoot(dir)
		return found, err
	})
	if err != nil {
		return place{}, err
	}
	return p, nil
}

// named finds the store that a driver's image directory, image/<driver>, is of.
func named(dir string) (p place, ok bool, err error) {
	image, name := filepath.Split(filepath.Clean(dir))
	image = filepath.Clean(image)
	if filepath.Base(image) != "image" || !hasDB(dir) {
		return place{}, false, nil
	}
	root := filepath.Dir(image)
	if i := slices.IndexFunc(drivers, func(d driver) bool { return d.name == name }); i >= 0 {
		return place{path: root, layout: layoutOf(drivers[i])}, true, nil
	}
	if _, known := opaqueDrivers[name]; known {
		return place{}, false, unreadable(root, name)
	}
	return place{}, false, nil
}

// dataRoot tells whether a directory is a data root, and of which driver: of
// those with images the first, else of those with a database the first. An
// embedded store is overlay2's, whatever else is there. The error is of a root
// that only has drivers whose layers cannot be read.
func dataRoot(dir string) (p place, ok bool, err error) {
	p.path = dir
	var full, empty []driver
	for _, d := range drivers {
		switch image := filepath.Join(dir, "image", d.name); {
		case hasImages(image):
			full = append(full, d)
		case hasDB(image):
			empty = append(empty, d)
		}
	}
	all := slices.Concat(full, empty)
	if own := slices.IndexFunc(all, func(d driver) bool { return d.name == overlay2.name }); own > 0 && isDir(filepath.Join(dir, ownDir)) {
		all[0], all[own] = all[own], all[0]
	}
	if len(all) > 0 {
		p.layout = layoutOf(all[0])
		for _, d := range full {
			if d.name != p.name {
				p.others = append(p.others, d.name)
			}
		}
		if len(full) > 0 {
			return p, true, nil
		}
	}
	for _, name := range slices.Sorted(maps.Keys(opaqueDrivers)) {
		if image := filepath.Join(dir, "image", name); hasImages(image) || len(all) == 0 && hasDB(image) {
			return place{}, false, unreadable(dir, name)
		}
	}
	return p, len(all) > 0, nil
}

func unreadable(root, name string) error {
	var can []string
	for _, d := range drivers {
		can = append(can, d.name)
	}
	return fmt.Errorf("the store at %s uses Docker's storage driver %s, which keeps layers as %s; imagefs reads layers that are plain files (%s): save the images with docker instead: %w",
		root, name, opaqueDrivers[name], strings.Join(can, ", "), store.ErrUnsupported)
}

func isDir(path string) bool {
	st, err := os.Lstat(path)
	return err == nil && st.IsDir()
}

// hasDB tells whether a driver's image directory is one.
func hasDB(image string) bool {
	return isDir(filepath.Join(image, "imagedb")) || isDir(filepath.Join(image, "layerdb"))
}

// hasImages tells whether a driver's image directory has an image.
func hasImages(image string) bool {
	f, err := os.Open(filepath.Join(image, "imagedb/content/sha256"))
	if err != nil {
		return false
	}
	defer f.Close()
	names, _ := f.Readdirnames(1)
	return len(names) > 0
}
