package docker

import "strings"

// Graph tells where the image's layers lie, with the names and in the form of
// docker inspect's GraphDriver. Paths are absolute; nil for an image with no layers.
func (i *image) Graph() (driver string, data map[string]string) {
	if len(i.layers) == 0 {
		return "overlay2", nil
	}
	dir := func(n int) string {
		l := i.layers[n].(*layerRec)
		return l.s.path + "/" + overlayDir + "/" + l.cache
	}
	top := len(i.layers) - 1
	data = map[string]string{
		"MergedDir": dir(top) + "/merged",
		"UpperDir":  dir(top) + "/diff",
		"WorkDir":   dir(top) + "/work",
	}
	var lower []string
	for n := top - 1; n >= 0; n-- {
		lower = append(lower, dir(n)+"/diff")
	}
	if len(lower) > 0 {
		data["LowerDir"] = strings.Join(lower, ":")
	}
	return "overlay2", data
}
