package containerd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"

	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"imagefs/overlay"
	"imagefs/store"
	"imagefs/store/blob"
	"imagefs/store/containerd/bolt"
	"imagefs/store/layer"
	"imagefs/store/unpacked"
)

// layerSpec says where a layer may be found.
type layerSpec struct {
	diff, chain digest.Digest
	snapshot    *snapshot   // nil if none is committed; one apart is not read
	blob        *descriptor // nil if no manifest says
	below       []store.Layer
}

// layerRec is a layer of the store, one for each chain ID as long as what it is
// read from is there.
type layerRec struct {
	s      *Store
	spec   layerSpec
	key    string
	broken error

	files *unpacked.Layer // of the snapshot; nil if the layer is read from its blob
	tar   *blob.Layer     // nil if the blob is not here
}

var (
	_ store.Layer     = (*layerRec)(nil)
	_ store.TarHolder = (*layerRec)(nil)
	_ store.Trimmer   = (*layerRec)(nil)
)

// layer returns the record of a layer.
func (s *Store) layer(spec layerSpec) *layerRec {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.layers[spec.chain]
	if old != nil && old.there() && (old.tar != nil || spec.blob == nil || !s.hasBlob(spec.blob.Digest)) {
		return old
	}
	l := &layerRec{s: s, spec: spec}
	l.open(old)
	if s.layers != nil && l.broken == nil {
		s.layers[spec.chain] = l
	}
	return l
}

// open finds out what the layer is read from. What is still so of an earlier
// record of the chain is taken from it: its readers go on.
func (l *layerRec) open(old *layerRec) {
	l.openBlob()
	switch {
	case old != nil && old.files != nil && old.hasFiles():
		l.key, l.files, l.spec.snapshot = old.key, old.files, old.spec.snapshot
	case l.hasFiles() && (l.tar == nil || l.owned()):
		l.key = l.spec.chain.Encoded() + "-s" + strconv.FormatUint(l.spec.snapshot.id, 10)
		l.files = l.s.set.New(l.key, l.spec.diff, l)
	case l.tar != nil:
		l.key, l.broken = l.spec.chain.Encoded()+"-b"+l.spec.blob.Digest.Encoded(), l.tar.Err()
	default:
		l.key = l.spec.chain.Encoded() + "-"
		l.broken = l.missing()
	}
}

// missing says why there is nothing to read the layer from.
func (l *layerRec) missing() error {
	d := l.spec.blob
	switch {
	case d == nil:
		return fmt.Errorf("layer %s has no snapshot: %w", l.spec.chain, store.ErrCorrupt)
	case d.elsewhere:
		return fmt.Errorf("layer %s is not unpacked, and its blob %s is not kept in the store: %w", l.spec.chain, d.Digest, store.ErrCorrupt)
	}
	return fmt.Errorf("layer %s is not unpacked, and its blob %s %w", l.spec.chain, d.Digest, errMissing)
}

// there tells whether what the layer is read from is still in the store.
func (l *layerRec) there() bool {
	if l.broken != nil {
		return false
	}
	if l.files != nil {
		return l.hasFiles()
	}
	return l.s.hasBlob(l.spec.blob.Digest)
}

// dir is where the snapshot's files are.
func (sn *snapshot) dir() string { return snapshotDir + "/" + strconv.FormatUint(sn.id, 10) }

func (l *layerRec) hasFiles() bool {
	return l.spec.snapshot != nil && !l.spec.snapshot.apart && l.s.root.IsDir(l.spec.snapshot.dir()+"/fs")
}

// owned tells whether the snapshot was made by root: others, and who copied it,
// cannot keep owners and devices.
func (l *layerRec) owned() bool {
	st, err := l.s.root.Stat(l.spec.snapshot.dir())
	return err == nil && st.Uid == 0
}

// openBlob makes a layer of the blob, if that is here.
func (l *layerRec) openBlob() {
	d := l.spec.blob
	if d == nil {
		return
	}
	path := blobPath(d.Digest)
	st, err := l.s.root.Stat(path)
	if err != nil {
		return
	}
	spec := blob.Spec{
		DiffID: l.spec.diff, ChainID: l.spec.chain, Blob: d.Digest, Size: d.Size, Lower: l.spec.below,
		Origin: fmt.Sprintf("%s/%s %d %d %d %d.%d", l.s.path, path, st.Dev, st.Ino, st.Size, st.Ctim.Sec, st.Ctim.Nsec),
		Open:   func() (blob.Data, error) { return l.s.openBlob(path) },
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size != d.Size {
		spec.Err = fmt.Errorf("blob %s has %d bytes, its descriptor says %d: %w", d.Digest, st.Size, d.Size, store.ErrCorrupt)
	}
	l.tar = l.s.blobs.Layer(spec)
}

// openBlob opens a blob's file.
func (s *Store) openBlob(path string) (blob.Data, error) {
	f, err := s.root.OpenFile(path, os.O_RDONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", store.ErrGone, err)
	}
	if err != nil {
		return nil, err // and not a File that is nil
	}
	return f, nil
}

// DiffID implements store.Layer.
func (l *layerRec) DiffID() digest.Digest { return l.spec.diff }

// ChainID implements store.Layer.
func (l *layerRec) ChainID() digest.Digest { return l.spec.chain }

// Key implements store.Layer.
func (l *layerRec) Key() string { return l.key }

// Digest implements store.Layer.
func (l *layerRec) Digest() digest.Digest {
	if d := l.spec.blob; d != nil && d.Digest != l.spec.diff {
		return d.Digest
	}
	return ""
}

// Size implements store.Layer: what the snapshotter counted, which is what
// docker history shows.
func (l *layerRec) Size() int64 {
	switch {
	case l.broken != nil:
		return -1
	case l.files != nil:
		return l.spec.snapshot.size
	case l.spec.snapshot != nil && l.spec.snapshot.apart && l.spec.snapshot.size >= 0:
		return l.spec.snapshot.size
	}
	return l.tar.Size()
}

// Index implements store.Layer.
func (l *layerRec) Index(ctx context.Context) (overlay.Layer, error) {
	switch {
	case l.broken != nil:
		return nil, l.broken
	case l.files != nil:
		return l.files.Index(ctx)
	}
	return l.tar.Index(ctx)
}

var _ blob.Cheap = (*layerRec)(nil)

// IndexCheaply implements blob.Cheap, for the layers above: a directory takes no decompressing.
func (l *layerRec) IndexCheaply(ctx context.Context) (overlay.Layer, error) {
	if l.broken == nil && l.files == nil {
		return l.tar.IndexCheaply(ctx)
	}
	return l.Index(ctx)
}

var _ blob.Holder = (*layerRec)(nil)

// Hold implements blob.Holder. What is read from files is forgotten at once.
func (l *layerRec) Hold() (release func()) {
	if l.tar == nil {
		return func() {}
	}
	return l.tar.Hold()
}

// Open implements store.Layer.
func (l *layerRec) Open(ctx context.Context, i overlay.Ino) (store.File, error) {
	switch {
	case l.broken != nil:
		return nil, l.broken
	case l.files != nil:
		return l.files.Open(ctx, i)
	}
	return l.tar.Open(ctx, i)
}

var _ store.WholeReader = (*layerRec)(nil)

// ReadWhole implements store.WholeReader.
func (l *layerRec) ReadWhole(ctx context.Context, i overlay.Ino, p []byte) error {
	switch {
	case l.broken != nil:
		return l.broken
	case l.files != nil:
		return l.files.ReadWhole(ctx, i, p)
	}
	return store.ReadWhole(ctx, l.tar, i, p)
}

// Trim implements store.Trimmer.
func (l *layerRec) Trim() {
	if l.files != nil {
		l.files.Trim()
	}
}

// HasTar implements store.TarHolder.
func (l *layerRec) HasTar() bool {
	return l.tar != nil && l.tar.HasTar() && l.s.hasBlob(l.spec.blob.Digest)
}

// tarError says why the tar cannot be given, if that is so.
func (l *layerRec) tarError() error {
	switch {
	case l.broken != nil:
		return l.broken
	case l.tar == nil, l.files != nil && !l.s.hasBlob(l.spec.blob.Digest):
		return l.noTar()
	}
	return nil
}

// noTar is the error where the blob is not in the store.
func (l *layerRec) noTar() error {
	return fmt.Errorf("layer %s: its compressed blob is not in the store, and a snapshot is no tar: %w", l.spec.chain, store.ErrUnsupported)
}

// TarSize implements store.Layer.
func (l *layerRec) TarSize(ctx context.Context) (int64, error) {
	if err := l.tarError(); err != nil {
		return 0, err
	}
	return l.tar.TarSize(ctx)
}

// Tar implements store.Layer.
func (l *layerRec) Tar(ctx context.Context) (store.File, error) {
	if err := l.tarError(); err != nil {
		return nil, err
	}
	return l.tar.Tar(ctx)
}

// close lets go of the descriptors. Indexes stay: trees may still use them.
func (l *layerRec) close() {
	if l.files != nil {
		l.files.Close()
	}
	if l.tar != nil {
		l.tar.Close()
	}
}

var _ unpacked.Source = (*layerRec)(nil)

// Dir implements unpacked.Source.
func (l *layerRec) Dir() (*os.File, error) {
	d, err := l.s.root.Dir(l.spec.snapshot.dir() + "/fs")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("layer %s: %w: %w", l.spec.chain, store.ErrGone, err)
	}
	return d, err
}

// There implements unpacked.Source: containerd takes the record away first. As
// long as its database cannot be read, the directory counts.
func (l *layerRec) There() bool {
	if !l.hasFiles() {
		return false
	}
	ctx := context.Background()
	found := true
	c, err := l.s.catalog(ctx)
	if err == nil {
		_, err = l.s.view(ctx, metaFile, func(root *bolt.Bucket) error {
			found = false
			for _, space := range c.spaces {
				b, err := root.Bucket(version, space, "snapshots", snapshotter, string(l.spec.chain))
				if err != nil {
					return err
				}
				name, err := b.Get("name")
				if err != nil {
					return err
				}
				found = found || len(name) > 0
			}
			return nil
		})
	}
	return err != nil || found
}

// Split implements unpacked.Source: containerd keeps none.
func (l *layerRec) Split() (io.ReadCloser, error) { return nil, l.noTar() }

// Scan implements unpacked.Source.
func (l *layerRec) Scan(ctx context.Context, dir *os.File) (*overlay.Builder, error) {
	return layer.Scan(ctx, dir, layer.Limits{})
}

// Lazy implements unpacked.Source.
func (l *layerRec) Lazy(dir *os.File) (*layer.Lazy, error) {
	return layer.NewLazy(dir, layer.Limits{})
}

var _ store.Forgetter = (*Store)(nil)

// Forget implements store.Forgetter.
func (s *Store) Forget(l store.Layer) {
	rec, ok := l.(*layerRec)
	if !ok || rec.there() {
		return // other images may have it
	}
	s.mu.Lock()
	if s.layers[rec.spec.chain] == rec {
		delete(s.layers, rec.spec.chain)
	}
	s.mu.Unlock()
	rec.close()
	if rec.files != nil {
		rec.files.Forget()
	}
	if rec.tar != nil {
		rec.tar.Forget()
	}
}
