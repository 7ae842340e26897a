package docker

import "strings"

// Graph tells where the image's layers lie, with the names and in the form of
// docker inspect's GraphDriver. Paths are absolute; nil for an image with no
// layers, and for drivers of which Docker tells nothing.
func (i *image) Graph() (driver string, data map[string]string) {
	at := i.at
	if len(i.layers) == 0 {
		return at.name, nil
	}
	cache := func(n int) string { return i.layers[n].(*layerRec).cache }
	dir := func(n int) string { return i.root + "/" + at.layer(cache(n)) }
	top := len(i.layers) - 1
	own := i.root + "/" + at.home + "/" + cache(top)
	switch l := i.layers[top].(*layerRec); {
	case l.upper:
		data = map[string]string{"MergedDir": own + "/merged", "UpperDir": own + at.upper, "WorkDir": own + "/work"}
		if id, err := l.s.root.Read(at.home+"/"+l.cache+"/lower-id", maxSmall); err == nil && isCacheID(id) {
			data["LowerDir"] = i.root + "/" + at.layer(string(id))
		}
	case at.linked:
		data = map[string]string{"MergedDir": own + "/merged", "UpperDir": dir(top), "WorkDir": own + "/work"}
		var lower []string
		for n := top - 1; n >= 0; n-- {
			lower = append(lower, dir(n))
		}
		if len(lower) > 0 {
			data["LowerDir"] = strings.Join(lower, ":")
		}
	case at.after != "":
		data = map[string]string{"RootDir": dir(top)}
	}
	return at.name, data
}
