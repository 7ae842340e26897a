package bench

// The states in which reading is measured; the package documentation says what they are.
const (
	cold  = "cold"
	fresh = "fresh"
	warm  = "warm"
)

// The names of the views, in the order of the tables. Ours start with "imagefs";
// the first of them is what a user gets who says nothing.
const (
	kernel       = "overlayfs"
	kernelAgain  = "overlayfs again"
	ours         = "imagefs"
	readOnly     = "imagefs --read-only"
	passthrough  = "imagefs --read-only --passthrough"
	ring         = "imagefs, io_uring"
	ringReadOnly = "imagefs --read-only, io_uring"
	fuseOvl      = "fuse-overlayfs"
	inMemory     = "tmpfs"
)

// The contestants of other groups.
const (
	dockerLoad  = "docker load"
	podmanLoad  = "podman load"
	tarX        = "tar x"
	tarSync     = "tar x, synced"
	dockerSave  = "docker save"
	skopeoCopy  = "skopeo copy"
	rmR         = "rm -r"
	loadFirst   = "imagefs load, then mount"
	plainGzip   = "gzip -dc"
	ratarmount  = "ratarmount"
	fuseArchive = "fuse-archive"
)

// The rows.
const (
	rowFirst  = "mount to first ls"
	rowFind   = "find -printf"
	rowLs     = "ls -lR"
	rowDu     = "du"
	rowTar    = "tar | cat"
	rowGrep   = "grep -r"
	rowSmall  = "10,000 small files"
	rowDiff   = "diff -r of two tags"
	rowBig    = "big file, sequential"
	rowRandom = "big file, random 4 KiB"

	rowForeign  = "a store never seen"
	rowMemory   = "find over the image of many files"
	rowMany     = "1,000 images, 10,000 tags"
	rowLoad     = "a docker-archive"
	rowLoadBig  = "the image of one big file"
	rowLoadMany = "the image of many files"
	rowLayerTar = "layer.tar of all layers"
	rowImageTar = "image.tar"
	rowSave     = "imagefs save"
	rowCopyTar  = "to a docker-archive"
	rowCopyGzip = "to an OCI layout, gzip"
	rowRmi      = "an image"
	rowPlain    = "docker-archive"
	rowGzip     = "docker-archive, gzip"
)

// groups are the tables, in their order.
var groups = []group{
	{"read", "Reading", "Milliseconds, with the ratio to overlayfs on the same layer directories (below 1 is faster) and, in brackets, the smallest and the largest value. " +
		"--passthrough is for big files, and measured with those. *cold*: all caches of the machine dropped, mounted anew. *fresh*: mounted anew, the layers' files in the page cache. *warm*: right after the same command. " +
		"tmpfs: a copy of the merged tree in memory, by the kernel alone, which no file system can be much ahead of.",
		[]string{kernel, kernelAgain, ours, readOnly, passthrough, ring, ringReadOnly, fuseOvl, inMemory}, kernel},
	{"foreign", "A store that another program wrote, never seen", "Milliseconds: to mount, and then to list the image's root and one directory deep in it, where no layer has an index. overlayfs: the same layers.",
		[]string{kernel, ours, readOnly, ring, ringReadOnly}, kernel},
	{"memory", "Memory of the servers", "Megabytes that are resident, after `find -printf` over the image of many files on a new mount.",
		[]string{ours, readOnly, ring, ringReadOnly, fuseOvl}, ""},
	{"many", "A store of many images", "Milliseconds.",
		[]string{ours, readOnly, ring, ringReadOnly}, ""},
	{"load", "Loading", "Milliseconds to take in an archive that is in the page cache. `imagefs load` is durable when it returns, as `tar x, synced` is; ratios are to `tar x` of the layers, which lie unpacked from the archive.",
		[]string{ours, dockerLoad, podmanLoad, tarX, tarSync}, tarX},
	{"load memory", "Memory of loading", "The most megabytes that `imagefs load` had resident.",
		[]string{ours}, ""},
	{"save", "Giving tars back", "Milliseconds to write everything into a pipe, with the ratio to `docker save` of the same image. *fresh*: on a new mount; *warm*: again.",
		[]string{ours, readOnly, ring, ringReadOnly, dockerSave}, dockerSave},
	{"copy", "Copying", "Milliseconds to copy the image of a docker-archive that is in the page cache, with the ratio to `skopeo copy`. `imagefs copy` is durable when it returns.",
		[]string{ours, skopeoCopy}, skopeoCopy},
	{"rmi", "Removing", "Milliseconds to remove an image and its layers, with the ratio to `rm -r` of its layers as tar unpacked them.",
		[]string{ours, rmR}, rmR},
	{"in place", "Archives in place", "Milliseconds: `imagefs mount ARCHIVE` against loading the archive and mounting the store. *first ls*: from nothing to the list of the root directory, with an empty cache; *seen before*: with what the first mount left there; *full read*: `tar | cat` of the root file system, mount included.",
		[]string{ours, loadFirst, plainGzip, ratarmount, fuseArchive}, loadFirst},
}

// baseOf is the column of a group that is 1.
func baseOf(name string) string {
	for _, g := range groups {
		if g.name == name {
			return g.base
		}
	}
	return ""
}
