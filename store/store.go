// Package store says what a container image store is to the rest of imagefs.
// It knows no format and no file system protocol: each kind of store is a
// package of its own below this one.
//
// The minimum is Store, Image and Layer. What a kind can do beyond reading it
// shows by implementing one of the small optional interfaces (Tagger, Remover,
// Ingester, Watcher, Checker …).
package store

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"strings"
	"time"

	digest "github.com/opencontainers/go-digest"

	"imagefs/overlay"
)

// Names is what a store calls its images at one moment. Immutable.
type Names struct {
	Tags    map[string]digest.Digest // familiar "repo:tag" → image ID
	Digests map[string]digest.Digest // familiar "repo@sha256:…" → image ID
	// Aliases are the digests that the store's engine takes, and prints, as IDs of
	// images: those of manifests and indexes → image ID. nil if it has none.
	Aliases map[digest.Digest]digest.Digest
}

// Equal tells whether both have the same names for the same images.
func (n Names) Equal(o Names) bool {
	return maps.Equal(n.Tags, o.Tags) && maps.Equal(n.Digests, o.Digests) && maps.Equal(n.Aliases, o.Aliases)
}

// Has tells whether an image has a name, a tag or a digest reference.
func (n Names) Has(id digest.Digest) bool {
	for _, refs := range []map[string]digest.Digest{n.Tags, n.Digests} {
		for _, i := range refs {
			if i == id {
				return true
			}
		}
	}
	return false
}

// Alias returns the image of which an alias starts with prefix, like "sha256:0123",
// "" if there is none; one is false, and so is there, if there are several.
func (n Names) Alias(prefix string) (id digest.Digest, one bool) {
	for alias, of := range n.Aliases {
		if strings.HasPrefix(string(alias), prefix) {
			if id != "" && id != of {
				return "", false
			}
			id = of
		}
	}
	return id, true
}

// Store is a container image store, safe for concurrent use.
type Store interface {
	// Names returns the references of the store as they are now.
	Names(ctx context.Context) (Names, error)
	// IDs returns the IDs of all images, named or not, broken ones too, sorted.
	IDs(ctx context.Context) ([]digest.Digest, error)
	// Image returns one image. An image that is broken is returned with what is
	// intact, and says so in Err. ErrNotFound if the store does not have it.
	Image(ctx context.Context, id digest.Digest) (Image, error)
	// Root returns the absolute path of the store on disk, "" if it has none.
	Root() string
	Close() error
}

// Image is one image, immutable.
type Image interface {
	ID() digest.Digest
	// RawConfig returns the bytes whose SHA-256 is the image ID; nil if they are missing or do not hash to it.
	RawConfig() []byte
	// Config is RawConfig parsed; the zero value if it is nil.
	Config() Config
	// Parent is the parent image that the classic builder recorded, "" if there is none.
	Parent() digest.Digest
	// LastTagged is when the image was last tagged, the zero time if the store does not know.
	LastTagged() time.Time
	// Layers returns the layers, bottom first.
	Layers() []Layer
	// Err tells what is broken about the image, nil if nothing is known to be. Wraps ErrCorrupt.
	Err() error
}

// Layer is one layer of an image: its difference to the layers below.
type Layer interface {
	DiffID() digest.Digest
	ChainID() digest.Digest
	// Digest is the digest of the compressed blob it came from, "" if the store does not know.
	Digest() digest.Digest
	// Size is the layer's size in bytes as the store's engine counts it (`docker history`), -1 if unknown.
	Size() int64
	// Key identifies this layer's bytes in this store for as long as the process
	// runs: two layers with equal keys have the same Index and the same content.
	Key() string
	// Index returns the layer's tree. It is built once and kept; later calls are cheap.
	Index(ctx context.Context) (overlay.Layer, error)
	// Open opens the content of a regular file of the layer. ErrGone if the layer
	// is no longer in the store, ErrCorrupt if it is but the file is missing or not
	// what the index says.
	Open(ctx context.Context, i overlay.Ino) (File, error)
	// TarSize returns the size of the uncompressed tar in bytes. ErrUnsupported
	// if the store cannot give the tar back.
	TarSize(ctx context.Context) (int64, error)
	// Tar opens the uncompressed tar, byte for byte: its SHA-256 is the diff ID.
	Tar(ctx context.Context) (File, error)
}

// File is the content of a file, read at random, safe for concurrent use.
// A File whose bytes lie at offset 0 of one regular file of the host also
// implements FDer.
type File interface {
	io.ReaderAt
	io.Closer
	Size() int64
}

// PartReader is a File that knows what parts of it must be, and finds out when
// the whole of such a part was read.
type PartReader interface {
	// InParts tells whether some of what was read is not known to be right: it is
	// of a part of which the rest was not read, or which was found to be wrong.
	InParts() bool
}

// FDer is a File with a file descriptor of its own. The descriptor is open
// for reading and stays owned by the File.
type FDer interface{ Fd() uintptr }

// Tagger can change names. References are normalised familiar ones
// ("nginx:1.25"). Changes are durable when the call returns.
type Tagger interface {
	// Tag lets ref name image id, whatever it named before. ErrNotFound if there is no such image.
	Tag(ctx context.Context, ref string, id digest.Digest) error
	// Untag takes a name away, a tag or a digest reference, and never deletes an
	// image. ErrNotFound if it names nothing.
	Untag(ctx context.Context, ref string) error
}

// Renamer is a Tagger that can move names.
type Renamer interface {
	// Rename gives the image that each key of moves names the name that is its
	// value, whatever that named before, and takes the keys away, in one step: no
	// reader sees less or more. Two names are exchanged by moving each to the
	// other. ErrNotFound if a key names nothing.
	Rename(ctx context.Context, moves map[string]string) error
}

// Removed is what Remove did, in the order it was done.
type Removed struct {
	Untagged []string        // references, digest references among them
	Deleted  []digest.Digest // image ID first, then chain IDs from the top
}

// Remover can delete images, as `docker rmi` does.
type Remover interface {
	// Remove takes a reference or an image ID (or a unique prefix of one, 4 hex
	// or more). The last name takes the image with it, and the layers that no
	// other image shares. ErrBusy without force if an ID has several
	// names in different repositories or a container uses the image.
	Remove(ctx context.Context, refOrID string, force bool) (Removed, error)
}

// BulkRemover is a Remover that can remove several images at a smaller cost.
type BulkRemover interface {
	// RemoveEach does removals, one after the other, in one step that is durable
	// and all or nothing. The results are those of Preview.
	RemoveEach(ctx context.Context, list ...Removal) ([]Removed, []error, error)
}

// Removal is a call of Remove without force.
type Removal struct {
	Ref string // a familiar reference or a full ID
	// Still, if not empty, forbids what was not foreseen when the removal was
	// decided on: a reference must still be this image's, else ErrNotFound; with
	// its own ID it must still have no name, else ErrBusy.
	Still digest.Digest
}

// Foreseen fails if the removal would be of something else by now, as Still has it.
func (r Removal) Foreseen(names Names) error {
	switch {
	case r.Still == "":
	case r.Ref == string(r.Still):
		if names.Has(r.Still) {
			return fmt.Errorf("image %.12s has got a name: %w", r.Still.Encoded(), ErrBusy)
		}
	case cmp.Or(names.Tags[r.Ref], names.Digests[r.Ref]) != r.Still:
		return fmt.Errorf("%s is another image's by now: %w", r.Ref, ErrNotFound)
	}
	return nil
}

// Previewer is a Remover that can tell what it would do.
type Previewer interface {
	// Preview tells what removals would do, one after the other, and changes
	// nothing. Element i of both results is of list[i]; the last error is that of
	// a store that cannot be read.
	Preview(ctx context.Context, list ...Removal) ([]Removed, []error, error)
}

// Problem is one thing that Check found.
type Problem struct {
	What string // what it is about: "image sha256:…", "layer sha256:…", "repositories.json", a path
	Err  error
}

// Checker can verify a store.
type Checker interface {
	// Check verifies everything there is to verify; deep also reads all content
	// (each layer's tar is put together and hashed).
	Check(ctx context.Context, deep bool, found func(Problem)) error
}

// Watcher can tell when a store changes.
type Watcher interface {
	// Watch sends on the channel after names or images changed, by whatever
	// process, within a second; several changes may be one event. It ends, and
	// closes the channel, when ctx is done.
	Watch(ctx context.Context) (<-chan struct{}, error)
}

// Ingester can take in new images.
type Ingester interface {
	// Ingest starts taking in. Nothing of it shows, and everything is cleared
	// away by Abort or by the next opening of the store, until Commit returns.
	Ingest(ctx context.Context) (Ingest, error)
}

// Ingest is one load under way. HasLayer and Unpack may be called by several
// goroutines; Commit and Abort by one, when none of those is under way.
type Ingest interface {
	// HasLayer tells whether the store already has the layer of this chain ID, whole.
	HasLayer(chain digest.Digest) bool
	// Unpack reads one uncompressed layer tar to its end, hashes it and stores
	// it, without knowing yet what lies below it. Errors wrap ErrCorrupt,
	// ErrTooLarge or the system's own (ENOSPC …).
	Unpack(ctx context.Context, tar io.Reader) (Staged, error)
	// Commit makes images of what was staged, in one step that is durable and
	// all or nothing: layers, then configs, then names.
	Commit(ctx context.Context, images []NewImage) error
	// Abort clears away what was staged. Harmless after Commit.
	Abort()
}

// Staged is a layer that Unpack has stored.
type Staged interface {
	DiffID() digest.Digest
}

// NewImage is an image to be committed. Its ID is the SHA-256 of Config.
type NewImage struct {
	Config []byte
	Layers []NewLayer // bottom first, one for each diff ID of the config's rootfs
	Names  []string   // familiar references with a tag; may be empty
	Parent digest.Digest
}

// NewLayer is a layer of a NewImage: one that was just staged, or, with Staged
// nil, one that HasLayer said is there already.
type NewLayer struct {
	DiffID digest.Digest
	Staged Staged
	Blob   digest.Digest // digest of the compressed blob it came from, "" if unknown or the layer was not compressed
}

// Loaded is one image that a load brought.
type Loaded struct {
	ID    digest.Digest
	Names []string // the familiar references it was given, sorted; may be empty
}

// Loader reads image archives into a store. Nothing of a load that fails stays.
// Errors wrap ErrCorrupt (no archive, truncated, a digest that does not fit),
// ErrTooLarge, ErrReadOnly, ErrUnsupported, ErrNotFound, or the system's own.
type Loader interface {
	// Load reads one archive, in whatever format and compression, to the end of the stream.
	Load(ctx context.Context, r io.Reader) ([]Loaded, error)
	// LoadPath loads an archive file or an OCI layout directory.
	LoadPath(ctx context.Context, path string) ([]Loaded, error)
}

// ImportOptions say what image is made of a root file system. The zero value is
// one without a name, for this machine's architecture.
type ImportOptions struct {
	Name     string   // a reference, the tag "latest" implied; "" for none
	Changes  []string // Dockerfile instructions for its config; see package change
	Message  string   // the comment of its one step, "" for "Imported from -", as Docker has it
	Platform string   // os/arch[/variant], "" for Linux on this machine
}

// Importer makes images of root file systems. Nothing of an import that fails
// stays. Errors are those of Loader.
type Importer interface {
	// Import makes an image with one layer of a tar, plain or compressed, which it reads to its end.
	Import(ctx context.Context, r io.Reader, o ImportOptions) (Loaded, error)
	// ImportPath imports a file.
	ImportPath(ctx context.Context, path string, o ImportOptions) (Loaded, error)
}

// TarHolder is a Layer that can tell, without reading anything, whether Tar and TarSize are supported.
type TarHolder interface{ HasTar() bool }

// Trimmer is a Layer whose index lies in a mapped file.
type Trimmer interface {
	// Trim takes what was read of the index out of the process's memory; it stays
	// in the page cache, and is there again when it is next read, and closes what
	// is open in case that it is used again. Never waits.
	Trim()
}

// Manifester is an Image whose store keeps the manifest that it came with.
type Manifester interface {
	// RawManifest returns the manifest's bytes: one of this image alone, of the
	// OCI image spec or Docker's schema 2. nil if the store has none.
	RawManifest() []byte
}

// Grouped is an Image with which its store removes others: of one index, say.
type Grouped interface {
	// Group returns the IDs of the others, in no order; some may be there twice.
	Group() []digest.Digest
}

// Forgetter is a Store that keeps memory for each layer it was asked for.
type Forgetter interface {
	// Forget frees what is kept for a layer that the store no longer has.
	// Nothing that came from the layer, its index and the names in it least of
	// all, may be used afterwards. A layer that is there stays as it is.
	Forget(l Layer)
}
