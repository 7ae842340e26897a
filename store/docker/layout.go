package docker

import "imagefs/store/layer"

// driver is one of Docker's storage drivers: how it keeps a layer's content.
type driver struct {
	name string
	// A layer's content lies at before + cache ID + after.
	before, after string
	upper         string // "": else where it lies if it is not there
	// A directory whose owner is root's if root unpacked the layer: at
	// owner, or at owner + cache ID if that ends in a slash.
	owner  string
	form   layer.Form
	trees  bool // each layer's content is all that it and those below it have
	linked bool // as overlay2: "link" and "lower" beside the content, short names in l/
}

// drivers are those whose layers are plain files, in the order in which Docker prefers them.
var drivers = []driver{
	{name: "overlay2", before: "overlay2/", after: "/diff", owner: "overlay2/", linked: true},
	{name: "fuse-overlayfs", before: "fuse-overlayfs/", after: "/diff", owner: "fuse-overlayfs/", form: layer.FuseOverlayfs, linked: true},
	{name: "aufs", before: "aufs/diff/", owner: "aufs/diff", form: layer.Aufs},
	{name: "overlay", before: "overlay/", after: "/root", upper: "/upper", owner: "overlay/", form: layer.Whole, trees: true},
	{name: "vfs", before: "vfs/dir/", owner: "vfs/dir", form: layer.Whole, trees: true},
}

// opaqueDrivers keep layers where only the kernel's or a library's code finds them.
var opaqueDrivers = map[string]string{
	"btrfs":         "subvolumes of a btrfs file system, which a copy of the directory does not have",
	"zfs":           "datasets of a zfs pool",
	"devicemapper":  "thin volumes of a block device",
	"windowsfilter": "directories that only Windows reads",
	"lcow":          "disk images of Linux containers on Windows",
}

// layout says where a store of one driver has what.
type layout struct {
	driver
	image    string // image/<driver>
	repos    string // references → image ID
	content  string // configs
	metadata string
	layers   string // layers' records, by chain ID
	mounts   string // containers' layers
	dist     string // blob digest ⇄ diff ID
	home     string // the driver's own directory
	links    string // short names of layers' directories, for drivers that are linked
}

func layoutOf(d driver) layout {
	image := "image/" + d.name
	return layout{
		driver:   d,
		image:    image,
		repos:    image + "/repositories.json",
		content:  image + "/imagedb/content/sha256",
		metadata: image + "/imagedb/metadata/sha256",
		layers:   image + "/layerdb/sha256",
		mounts:   image + "/layerdb/mounts",
		dist:     image + "/distribution",
		home:     d.name,
		links:    d.name + "/l",
	}
}

// overlay2 is the layout of the driver that Docker prefers, the only one that is written.
var overlay2 = layoutOf(drivers[0])

// layer returns the directory of a layer's content.
func (d driver) layer(cache string) string { return d.before + cache + d.after }

// ownerOf returns the directory whose owner tells who unpacked a layer.
func (d driver) ownerOf(cache string) string {
	if d.owner[len(d.owner)-1] == '/' {
		return d.owner + cache
	}
	return d.owner
}
