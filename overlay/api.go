package overlay

import "errors"

// Kind is the type of one record that a layer brings.
type Kind uint8

// The kinds. Hardlink, Whiteout and Opaque occur in an Entry only: in a built
// layer a hard link is one more directory entry of an inode, a whiteout is a
// directory entry with EntWhiteout, and opaque is the flag FlagOpaque of a
// directory.
const (
	File Kind = iota + 1
	Dir
	Symlink
	Char
	Block
	Fifo
	Socket
	Hardlink
	Whiteout // Path is the name that is hidden, without .wh.
	Opaque   // Path is the directory whose lower content is hidden
)

// Ino is the number of an inode inside one layer. 0 is the layer's root
// directory. Numbers are dense: 0 … Inodes()-1.
type Ino uint32

// Ent is the position of a directory entry in a layer's entry table.
type Ent uint32

// Attr is what stat(2) tells of an inode, as a container would see it.
type Attr struct {
	Mode   uint32 // st_mode: type bits (S_IFMT) and permissions with setuid, setgid, sticky
	Nlink  uint32 // names of the inode in this layer; directories: 2 + subdirectories
	UID    uint32
	GID    uint32
	Rdev   uint32 // the kernel's encoding of st_rdev as FUSE carries it (major<<8 | minor&0xff | (minor&^0xff)<<12)
	Nsec   uint32 // nanoseconds of the modification time, 0 … 999,999,999
	Sec    int64  // seconds of the modification time since 1970
	Size   uint64 // bytes; a symbolic link's: length of its target
	Blocks uint64 // 512-byte units
	Flags  Flags
}

// Flags tell of an inode what stat does not.
type Flags uint32

// The flags.
const (
	FlagOpaque  Flags = 1 << iota // directory: hides what lower layers have in it
	FlagImplied                   // directory: not in the layer's archive; made because something below it is
	FlagXattr                     // has extended attributes
)

// EntFlags are the flags of a directory entry.
type EntFlags uint8

// EntWhiteout marks an entry that hides its name in lower layers. Its inode
// holds the attributes of the whiteout itself, presented as a regular file.
const EntWhiteout EntFlags = 1

// Xattr is one extended attribute.
type Xattr struct {
	Name  string
	Value []byte
}

// Entry is one normalised record of a layer, as a Builder takes it.
type Entry struct {
	Path   string // relative, cleaned, "/"-separated, "" for the root; no "..", no NUL
	Kind   Kind
	Link   string // Symlink: the target, verbatim. Hardlink: the Path of the other name, cleaned like Path
	Attr          // Mode's type bits are set from Kind by the Builder; Nlink is counted by the Builder
	Xattrs []Xattr
	Ref    uint64 // the producing layer's own handle to the content, e.g. an offset; 0 if it needs none
}

// Layer is one layer as an immutable tree of inodes and directory entries,
// safe for concurrent use. Methods that can fail return ErrCorrupt wrapped, or
// the error of the layer's own medium. Returned strings and slices are the
// layer's own memory: they stay valid as long as the layer, and must not be
// changed. No method allocates on a layer that is an Index.
type Layer interface {
	// Inodes returns the number of inodes.
	Inodes() int
	// Children returns the half-open range of a directory's entries, sorted by
	// name (bytewise); where a whiteout and an addition share a name, the
	// whiteout comes first. Inodes that are no directories have an empty range.
	Children(dir Ino) (lo, hi Ent, err error)
	// Entry returns one directory entry.
	Entry(e Ent) (name string, i Ino, flags EntFlags)
	// Stat returns the attributes of an inode.
	Stat(i Ino) Attr
	// Readlink returns the target of a symbolic link, "" for other inodes.
	Readlink(i Ino) string
	// Xattrs calls yield for each extended attribute, sorted by name.
	Xattrs(i Ino, yield func(name string, value []byte) bool)
	// Ref returns the Ref of the Entry that made the inode.
	Ref(i Ino) uint64
	// Path appends one path of the inode, relative to the layer's root, to b.
	// Of several hard links it is the first that was added.
	Path(b []byte, i Ino) []byte
}

// NodeID names a node of a Tree. The same layers give the same IDs.
//
//	 63      62 … 48        47 … 32          31 … 0
//	┌────────┬─────────────┬────────────────┬───────────────┐
//	│ merged │ 0           │ layer          │ Ino           │
//	└────────┴─────────────┴────────────────┴───────────────┘
//
// layer counts from 0, the bottom. merged is set for a directory to which more
// than one layer contributes; layer and Ino are then those of the topmost
// contribution, which alone decides the attributes. All other nodes are served
// straight from their one layer.
type NodeID uint64

// Merged tells whether more than one layer contributes to the directory.
func (n NodeID) Merged() bool { return n>>63 != 0 }

// Layer returns the index, from the bottom, of the layer that gives the node its attributes and content.
func (n NodeID) Layer() int { return int(n >> 32 & 0xffff) }

// Ino returns the inode inside that layer.
func (n NodeID) Ino() Ino { return Ino(n) }

// Errors of this package; test with errors.Is.
var (
	// ErrCorrupt: an index file or a layer contradicts itself.
	ErrCorrupt = errors.New("corrupt layer index")
	// ErrName: a path that no layer may have (empty component, "..", NUL, a component over 255 bytes, over 4,095 bytes in all).
	ErrName = errors.New("bad path")
	// ErrTooLarge: over the limits of a layer (entries, names, links or xattrs in total).
	ErrTooLarge = errors.New("layer too large")
	// ErrNoTarget: a hard link whose target the layer does not have.
	ErrNoTarget = errors.New("hard link to nothing")
)
