package fusefs

import (
	"strconv"
	"strings"

	"imagefs/store"
)

// Extended attributes tell of each file and directory of an image which layer
// it comes from. The kernel allows names of user.* for these two types only.

const (
	originPrefix    = "user.imagefs."
	originLayer     = originPrefix + "layer"      // its number, from 0
	originDiffID    = originPrefix + "diffid"     //
	originCreatedBy = originPrefix + "created_by" // the step of the history that made it
)

// origin is where the layer in a slot lies in the images that have it. They
// have the same layers below it, so its number is the same in all; the step that
// made it is told as the image has it that was looked at first.
type origin struct{ layer, diffID, createdBy string }

func originOf(img store.Image, n int) origin {
	o := origin{layer: strconv.Itoa(n), diffID: string(img.Layers()[n].DiffID())}
	if h := layerHistory(img, n); h != nil {
		o.createdBy = h.CreatedBy
	}
	return o
}

// get returns the value of one of the attributes.
func (o *origin) get(name string) (value string, ok bool) {
	switch name {
	case originLayer:
		return o.layer, true
	case originDiffID:
		return o.diffID, true
	case originCreatedBy:
		return o.createdBy, o.createdBy != ""
	}
	return "", false
}

// origin returns where a node comes from, nil if it is of no layer.
func (f *fsys) origin(id nodeID) *origin {
	switch id.kind() {
	case kindFile:
		if l := f.layers.get(id.layer()); l != nil {
			return &l.origin
		}
	case kindDir, kindPart:
		v, _ := f.viewOf(id)
		switch {
		case v == nil, len(v.layers) == 0: // an image can have no layers
		case v.diff():
			return &v.layers[0].origin
		default:
			n, _ := v.tree.Origin(id.node())
			return &v.layers[n].origin
		}
	}
	return nil
}

// isOrigin tells whether an attribute is one of these. A layer's own attributes
// of such names are not shown.
func isOrigin(name string) bool { return strings.HasPrefix(name, originPrefix) }
