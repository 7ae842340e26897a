package fusefs

import (
	"imagefs/overlay"
)

// nodeID is the kernel's number of a node; see the package documentation.
type nodeID uint64

const (
	kindBits  = 58
	kindSynth = 0
	kindDir   = 1
	kindFile  = 2
	kindPart  = 3

	inoBits    = 28
	inoMask    = 1<<inoBits - 1
	layerMask  = 1<<9 - 1
	mergedFlag = 1 << 37
	viewBits   = 38
	maxViews   = 1 << 20

	slotMask   = 1<<29 - 1
	opaqueFlag = 1 << 57

	typeBits     = 52
	synthSlot    = 16
	maxSynthSlot = 1 << 36
)

func (n nodeID) kind() int { return int(n >> kindBits) }

// dirID is the node of a directory of a view.
func dirID(view uint64, n overlay.NodeID) nodeID {
	id := nodeID(kindDir)<<kindBits | nodeID(view)<<viewBits | nodeID(n.Layer())<<inoBits | nodeID(n.Ino())
	if n.Merged() {
		id |= mergedFlag
	}
	return id
}

func (n nodeID) view() uint64 { return uint64(n) >> viewBits & (maxViews - 1) }

// node is the node of the view's tree that a directory is.
func (n nodeID) node() overlay.NodeID {
	id := overlay.NodeID(n>>inoBits&layerMask)<<32 | overlay.NodeID(n&inoMask)
	if n&mergedFlag != 0 {
		id |= 1 << 63
	}
	return id
}

// fileID is the node of what is no directory, the same in every view.
func fileID(layer uint64, i overlay.Ino) nodeID {
	return nodeID(kindFile)<<kindBits | nodeID(layer)<<inoBits | nodeID(i)
}

// opaqueID is the node of the .wh..wh..opq of a layer's directory.
func opaqueID(layer uint64, dir overlay.Ino) nodeID { return fileID(layer, dir) | opaqueFlag }

func (n nodeID) layer() uint64    { return uint64(n) >> inoBits & slotMask }
func (n nodeID) ino() overlay.Ino { return overlay.Ino(n & inoMask) }
func (n nodeID) opaque() bool     { return n&opaqueFlag != 0 }

// The types of nodes that are not of a layer.
type synthType uint8

const (
	typeFixed  synthType = iota // slot 0, file: one of the fixed nodes
	typeRepo                    // directory of images/, or of a store's
	typeLink                    // symbolic link in images/, digests/, ids/
	typeAlg                     // directory of digests/
	typeImage                   // file: 0 the directory, else an index into imageFiles
	typeLayer                   // file: layer<<7, in it 0 the directory, else an index into layerFiles
	typeLayers                  // ids/<id>/layers
	typeLast                    // ids/<id>/layers/<last>/rootfs, a link
	typeText                    // a volatile file of an image, with one content
	typePair                    // file: 0 the directory, else one of the pair's files
	typeStore                   // file: 0 a directory of stores/, else an index into storeFiles
)

// The fixed nodes; the root's number is the protocol's.
const (
	rootNode nodeID = 1 + iota
	readmeNode
	imagesNode
	digestsNode
	idsNode
	storesNode
	diffNode
	ctlNode
	ctlFirst // the control files follow, in the order of ctlFiles
)

func synthID(t synthType, slot uint64, file int) nodeID {
	return nodeID(t)<<typeBits | nodeID(slot)<<synthSlot | nodeID(file)
}

func (n nodeID) synthType() synthType { return synthType(n >> typeBits & 63) }
func (n nodeID) slot() uint64         { return uint64(n) >> synthSlot & (maxSynthSlot - 1) }
func (n nodeID) file() int            { return int(n & (1<<synthSlot - 1)) }
