package fusefs

import (
	"context"
	"fmt"
	"strings"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	digest "github.com/opencontainers/go-digest"

	"imagefs/fusefs/names"
)

// synth is a node that is not of a layer, as stat(2) tells of it.
type synth struct {
	id    nodeID
	mode  uint32
	size  uint64
	nlink uint32 // 0 stands for 1
	mtime time.Time
	valid time.Duration // how long the kernel may keep it
	// entryValid is how long it may keep the name; 0: as long as valid says, less than 0: not at all
	entryValid time.Duration
}

// nameTime is how long the kernel may keep a name of the node.
func (n *synth) nameTime(name string) time.Duration {
	if n.id.synthType() == typeLink && names.Unkept(name) {
		return 0
	}
	if n.entryValid == 0 {
		return n.valid
	}
	return max(n.entryValid, 0)
}

func (n *synth) attr(f *fsys, out *fuse.Attr) {
	sec, nsec := n.mtime.Unix(), uint32(n.mtime.Nanosecond())
	*out = fuse.Attr{
		Ino: uint64(n.id), Mode: n.mode, Size: n.size, Blocks: (n.size + 511) / 512, Nlink: max(n.nlink, 1),
		Atime: uint64(sec), Mtime: uint64(sec), Ctime: uint64(sec), Atimensec: nsec, Mtimensec: nsec, Ctimensec: nsec,
		Owner: fuse.Owner{Uid: f.uid, Gid: f.gid}, Blksize: 4096,
	}
}

// dirent is an entry of a directory that is not of a layer.
type dirent struct {
	name string
	id   nodeID
	mode uint32 // type bits
	// costly entries are listed without their attributes, which take work that a mere listing does not need
	costly bool
}

const (
	dirMode  = fuse.S_IFDIR | 0o555
	fileMode = fuse.S_IFREG | 0o444
	linkMode = fuse.S_IFLNK | 0o777
)

// link is a symbolic link.
type link struct {
	target string
	mtime  time.Time
}

// linkNode returns the node of a link, one for each place and target.
func (f *fsys) linkNode(place, target string, mtime time.Time) (nodeID, error) {
	slot, _, err := f.links.intern(linkKey(place, target), maxSynthSlot, func(uint64) *link { return &link{target, mtime} })
	return synthID(typeLink, slot, 0), err
}

// linkKey is what a link is found by.
func linkKey(place, target string) string { return place + "\x00" + target }

// up leads from a directory of this depth to the root.
func up(depth int) string { return strings.Repeat("../", depth) }

// namesMode is the mode of the directories in which file operations are commands.
func (f *fsys) namesMode() uint32 {
	if f.o.ReadOnly {
		return dirMode
	}
	return dirMode | 0o200
}

// synthNode tells what a node is.
func (f *fsys) synthNode(ctx context.Context, id nodeID) (synth, error) {
	n := synth{id: id, mode: dirMode, nlink: 2, mtime: f.started, valid: nameTime}
	switch id.synthType() {
	case typeFixed:
		return f.fixedNode(n)
	case typeRepo:
		p := f.repos.get(id.slot())
		if p == nil {
			return n, syscall.ENOENT
		}
		s := f.snap.Load()
		d := s.repoNames(*p)
		if p.removed {
			return n, nil // for those who are in it
		}
		if d == nil {
			return n, syscall.ENOENT
		}
		n.nlink, n.mtime, n.mode = 2+uint32(d.Subdirs()), s.at, f.namesMode()
		return n, nil
	case typeStore:
		return f.storeStat(n)
	case typePair:
		return f.pairNode(ctx, n)
	case typeAlg:
		if a := f.algs.get(id.slot()); a == nil || f.snap.Load().digests[*a] == nil {
			return n, syscall.ENOENT
		}
		return n, nil
	case typeLink:
		l := f.links.get(id.slot())
		if l == nil {
			return n, syscall.ENOENT
		}
		n.mode, n.size, n.nlink, n.mtime = linkMode, uint64(len(l.target)), 1, l.mtime
		return n, nil
	case typeImage, typeLayers, typeLayer, typeLast:
		return f.imageNode(ctx, n)
	case typeText:
		t := f.texts.get(id.slot())
		if t == nil {
			return n, syscall.ESTALE
		}
		n.mode, n.nlink, n.size, n.mtime, n.valid, n.entryValid = fileMode, 1, t.size(), t.mtime, forever, -1
		return n, nil
	}
	return n, syscall.ENOENT
}

// synthTarget returns the target of a symbolic link.
func (f *fsys) synthTarget(id nodeID) (string, bool) {
	switch id.synthType() {
	case typeLink:
		if l := f.links.get(id.slot()); l != nil {
			return l.target, true
		}
	case typePair:
		if p := f.pairs.get(id.slot()); p != nil && (id.file() == pairLink || id.file() == pairStoreLink) {
			return p.target(id.file()), true
		}
	case typeLast:
		return lastTarget, true
	}
	return "", false
}

// synthLookup implements LOOKUP in a directory that is not of a layer.
func (f *fsys) synthLookup(ctx context.Context, dir nodeID, name string, out *fuse.EntryOut) fuse.Status {
	id, err := f.synthChild(ctx, dir, name)
	if err != nil {
		if err == syscall.ENOENT {
			return fuse.ENOENT // with no time to keep it: it may be there the next moment
		}
		return f.status("lookup "+name, dir, err)
	}
	if id.kind() != kindSynth {
		a, st := f.layerAttr(id)
		if st == fuse.OK {
			setEntry(out, id, &a)
			if v := f.view(id); v != nil && id.kind() == kindPart {
				out.Generation = v.generation
			}
		}
		return st
	}
	n, err := f.synthNode(ctx, id)
	if err != nil {
		f.Forget(uint64(id), 1) // the kernel does not hear of it
		return f.status("lookup "+name, dir, err)
	}
	out.NodeId = uint64(id)
	n.attr(f, &out.Attr)
	setEntryTime(out, n.nameTime(name), n.valid)
	return fuse.OK
}

// synthChild finds a name; syscall.ENOENT as it is if there is none.
func (f *fsys) synthChild(ctx context.Context, dir nodeID, name string) (nodeID, error) {
	switch dir.synthType() {
	case typeFixed:
		switch dir {
		case rootNode:
			for _, e := range f.rootEntries() {
				if e.name == name {
					return e.id, nil
				}
			}
			return 0, syscall.ENOENT
		case imagesNode:
			return f.repoChild(repo{}, name)
		case storesNode:
			return f.storesChild(name)
		case diffNode:
			return f.diffChild(ctx, "", name)
		case digestsNode:
			return f.algChild(name)
		case idsNode:
			return f.idsChild(name)
		case ctlNode:
			for i, c := range ctlFiles {
				if c.name == name && !f.o.ReadOnly {
					return ctlFirst + nodeID(i), nil
				}
			}
			return 0, syscall.ENOENT
		}
	case typeRepo:
		if p := f.repos.get(dir.slot()); p != nil {
			return f.repoChild(*p, name)
		}
	case typeStore:
		return f.storeChild(ctx, dir, name)
	case typePair:
		return f.pairChild(ctx, dir, name)
	case typeAlg:
		if a := f.algs.get(dir.slot()); a != nil {
			return f.digestChild(*a, name)
		}
	case typeImage, typeLayers, typeLayer:
		return f.imageChild(ctx, dir, name)
	}
	return 0, syscall.ENOTDIR
}

// synthList lists a directory.
func (f *fsys) synthList(ctx context.Context, dir nodeID) ([]dirent, error) {
	switch dir.synthType() {
	case typeFixed:
		switch dir {
		case rootNode:
			return f.rootEntries(), nil
		case imagesNode:
			return f.repoList(repo{})
		case storesNode:
			return f.storesList()
		case digestsNode:
			return f.algList()
		case idsNode:
			return f.idsList()
		case diffNode:
			return nil, nil
		case ctlNode:
			var out []dirent
			for i, c := range ctlFiles {
				out = append(out, dirent{name: c.name, id: ctlFirst + nodeID(i), mode: fuse.S_IFREG})
			}
			return out, nil
		}
	case typeRepo:
		if p := f.repos.get(dir.slot()); p != nil {
			return f.repoList(*p)
		}
	case typeStore:
		return f.storeList(dir)
	case typePair:
		return f.pairList(ctx, dir)
	case typeAlg:
		if a := f.algs.get(dir.slot()); a != nil {
			return f.digestList(*a)
		}
	case typeImage, typeLayers, typeLayer:
		return f.imageList(ctx, dir)
	}
	return nil, syscall.ENOTDIR
}

func (f *fsys) rootEntries() []dirent {
	e := []dirent{
		{name: "README", id: readmeNode, mode: fuse.S_IFREG},
		{name: "images", id: imagesNode, mode: fuse.S_IFDIR},
		{name: "digests", id: digestsNode, mode: fuse.S_IFDIR},
		{name: "ids", id: idsNode, mode: fuse.S_IFDIR},
		{name: "diff", id: diffNode, mode: fuse.S_IFDIR},
	}
	if len(f.snap.Load().parts) > 0 {
		e = append(e, dirent{name: "stores", id: storesNode, mode: fuse.S_IFDIR})
	}
	if !f.o.ReadOnly {
		e = append(e, dirent{name: "ctl", id: ctlNode, mode: fuse.S_IFDIR})
	}
	return e
}

func (f *fsys) fixedNode(n synth) (synth, error) {
	switch n.id {
	case rootNode:
		for _, e := range f.rootEntries() {
			if e.mode == fuse.S_IFDIR {
				n.nlink++
			}
		}
	case ctlNode, diffNode:
	case storesNode:
		n.nlink += uint32(len(f.snap.Load().parts))
	case digestsNode:
		n.nlink += uint32(len(f.snap.Load().digests))
	case imagesNode, idsNode:
		s := f.snap.Load()
		n.mtime, n.mode = s.at, f.namesMode()
		if n.id == idsNode {
			n.nlink += uint32(len(s.ids))
		} else if d := s.tree.Dir(""); d != nil {
			n.nlink += uint32(d.Subdirs())
		}
	case readmeNode:
		n.mode, n.nlink, n.size = fileMode, 1, uint64(len(readme))
	default:
		i := int(n.id - ctlFirst)
		if i >= len(ctlFiles) {
			return n, syscall.ENOENT
		}
		n.mode, n.nlink, n.valid = fuse.S_IFREG|ctlFiles[i].mode, 1, 0
		n.mtime = time.Now()
		if ctlFiles[i].events {
			n.size, n.mtime = f.eventsStat()
		}
	}
	return n, nil
}

// describe names a node for people.
func (f *fsys) describe(id nodeID) string {
	switch id.kind() {
	case kindFile:
		if l := f.layers.get(id.layer()); l != nil {
			return fmt.Sprintf("layer %s: %q", l.l.ChainID(), l.index.Path(nil, id.ino()))
		}
	case kindDir, kindPart:
		if v := f.view(id); v != nil && len(v.layers) > 0 {
			l := v.layers[min(id.node().Layer(), len(v.layers)-1)]
			return fmt.Sprintf("layer %s: %q", l.l.ChainID(), l.index.Path(nil, id.ino()))
		}
	case kindSynth:
		switch id.synthType() {
		case typeImage, typeLayers, typeLayer, typeLast:
			if im := f.images.get(id.slot()); im != nil {
				return "image " + string(im.id)
			}
		case typePair:
			if p := f.pairs.get(id.slot()); p != nil {
				return "diff/" + p.name()
			}
		case typeRepo:
			if p := f.repos.get(id.slot()); p != nil {
				return p.dir() + "/" + p.path
			}
		}
	}
	return fmt.Sprintf("node %#x", uint64(id))
}

func idTarget(depth int, id digest.Digest) string { return up(depth) + "ids/" + id.Encoded() }
