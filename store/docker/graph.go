package docker

import (
	"path/filepath"
	"strings"
)

// Graph tells what dockerd's overlay2 driver says of the topmost layer: the
// directories that a mount of the image is made of. nil if a layer is broken.
func (i *image) Graph() (driver string, data map[string]string) {
	driver = "overlay2"
	if i.err != nil || len(i.layers) == 0 {
		return driver, nil
	}
	var dirs []string // topmost first
	for n := len(i.layers) - 1; n >= 0; n-- {
		l := i.layers[n].(*layerRec)
		dirs = append(dirs, filepath.Join(l.s.path, overlayDir, l.cache))
	}
	data = map[string]string{
		"MergedDir": filepath.Join(dirs[0], "merged"),
		"UpperDir":  filepath.Join(dirs[0], "diff"),
		"WorkDir":   filepath.Join(dirs[0], "work"),
	}
	if len(dirs) > 1 {
		lower := dirs[1:]
		for n := range lower {
			lower[n] = filepath.Join(lower[n], "diff")
		}
		data["LowerDir"] = strings.Join(lower, ":")
	}
	return driver, data
}
