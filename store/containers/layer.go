package containers

import (
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"sync"

	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"imagefs/store"
	"imagefs/store/beneath"
	"imagefs/store/unpacked"
)

// layerRec is a layer of the store, one for each chain ID and directory.
type layerRec struct {
	s           *Store
	place       *place // nil if it was not found
	rec         *layerRecord
	chain, diff digest.Digest
	below       *layerRec // nil for the lowest
	broken      error     // what is wrong with it on disk; then only the IDs count

	*unpacked.Layer

	looking sync.Mutex // guards what follows
	looked  bool
	isPlain bool
}

var (
	_ store.Layer     = (*layerRec)(nil)
	_ store.TarHolder = (*layerRec)(nil)
	_ unpacked.Source = (*layerRec)(nil)
)

// keep returns the record of a layer, the same one as long as its directory is
// the same. Of several layers with one chain ID, in several places, the first
// that is asked for serves all, so that what is the same file is the same inode.
func (s *Store) keep(c *catalog, l *layerRec) *layerRec {
	if l.broken == nil {
		s.mu.Lock()
		old := s.layers[l.chain]
		s.mu.Unlock()
		if old != nil && (old.Key() == l.key() || old.current(c)) {
			return old
		}
	}
	l.Layer = s.set.New(l.key(), l.diff, l)
	if l.broken != nil {
		return l
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.layers[l.chain]; old != nil && old.Key() == l.Key() {
		return old // another was faster
	}
	if s.layers != nil {
		s.layers[l.chain] = l
	}
	return l
}

// current tells whether the layer is still where it was found.
func (l *layerRec) current(c *catalog) bool {
	now := c.lists[l.place.index].layers[l.rec.ID]
	return now != nil && now.Created.Equal(l.rec.Created) && l.check() == nil
}

// key names the layer's directory and when it was filled.
func (l *layerRec) key() string {
	if l.place == nil {
		return l.chain.Encoded()
	}
	return l.chain.Encoded() + "-" + strconv.Itoa(l.place.index) + "-" + l.rec.ID + "-" + strconv.FormatInt(l.rec.Created.UnixNano(), 36)
}

func (l *layerRec) ChainID() digest.Digest { return l.chain }

// Digest implements store.Layer.
func (l *layerRec) Digest() digest.Digest {
	if l.rec == nil || l.rec.Compressed.Validate() != nil {
		return ""
	}
	return l.rec.Compressed
}

// Size implements store.Layer: what podman history counts, the bytes of the tar.
func (l *layerRec) Size() int64 {
	if l.rec == nil || l.rec.DiffID == "" || l.rec.DiffSize < 0 {
		return -1
	}
	return l.rec.DiffSize
}

// dir is the directory with the layer's files.
func (l *layerRec) dir() string {
	if l.place.driver == "vfs" {
		return "vfs/dir/" + l.rec.ID
	}
	return l.place.driver + "/" + l.rec.ID + "/diff"
}

// check tells what is wrong with the layer, as far as its records and the names on disk say.
func (l *layerRec) check() error {
	rec := l.rec
	own := l.place.driver + "/" + rec.ID
	switch {
	case rec.bad != nil:
		return fmt.Errorf("the record of layer %s: %w", rec.ID, rec.bad)
	case rec.Flags.Incomplete:
		return fmt.Errorf("layer %s was never finished: %w", rec.ID, store.ErrCorrupt)
	case rec.DiffID != "" && rec.DiffID != l.diff:
		return fmt.Errorf("layer %s has the diff ID %.80q, want %s: %w", rec.ID, rec.DiffID, l.diff, store.ErrCorrupt)
	case !l.place.root.IsDir(l.dir()):
		return fmt.Errorf("layer %s: no directory %s: %w", rec.ID, l.dir(), store.ErrCorrupt)
	case l.place.driver == "vfs":
		return nil
	case l.place.root.Exists(own + "/composefs-data"):
		return fmt.Errorf("layer %s is kept in composefs's form, which cannot be read here; pull its image with use_composefs off: %w", rec.ID, store.ErrUnsupported)
	case l.place.root.Exists(own + "/diff1"):
		return fmt.Errorf("layer %s is kept in several directories, which cannot be read here: %w", rec.ID, store.ErrUnsupported)
	}
	return nil
}

// plain tells whether the layer's directory shows what a container sees, in the
// kernel's form. What it found out it knows from then on; an error may be over
// at the next call.
func (l *layerRec) plain() (bool, error) {
	l.looking.Lock()
	defer l.looking.Unlock()
	if !l.looked {
		plain, err := l.lookPlain()
		if err != nil {
			return false, err
		}
		l.looked, l.isPlain = true, plain
	}
	return l.isPlain, nil
}

// lookPlain is plain, looked at now. The directory of an ordinary user, of a user
// namespace, of a store with force_mask or of one for fuse-overlayfs is not plain.
func (l *layerRec) lookPlain() (bool, error) {
	if l.place.driver != "overlay" || len(l.rec.UIDMap)+len(l.rec.GIDMap) > 0 {
		return false, nil
	}
	if has, err := l.place.hasMountProgram(); err != nil || has {
		return false, err
	}
	st, err := l.place.root.Stat(l.place.driver + "/" + l.rec.ID)
	if err != nil || st.Uid != 0 {
		return false, err
	}
	d, err := l.place.root.Dir(l.dir())
	if err != nil {
		return false, err
	}
	defer d.Close()
	switch _, err = unix.Fgetxattr(int(d.Fd()), overrideXattr, nil); {
	case err == nil:
		return false, nil
	case errors.Is(err, unix.ENODATA), errors.Is(err, unix.EOPNOTSUPP):
		return true, nil
	}
	return false, fmt.Errorf("layer %s: read xattr %s: %w", l.chain, overrideXattr, err)
}

// maxMarker bounds a file with a word in it.
const maxMarker = 4 << 10

// hasMountProgram tells whether the place is written by way of a program like fuse-overlayfs.
func (p *place) hasMountProgram() (bool, error) {
	b, err := p.root.Read(p.driver+"/.has-mount-program", maxMarker)
	switch {
	case err == nil:
		return strings.TrimSpace(string(b)) == "true", nil
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrPermission), errors.Is(err, beneath.ErrTooLarge), errors.Is(err, beneath.ErrNotRegular):
		return false, nil // as far as can be told
	}
	return false, err
}

// HasTar implements store.TarHolder. Of a layer that is being removed Tar says so.
func (l *layerRec) HasTar() bool {
	return l.broken == nil && (l.place.root.Exists(l.split()) || !l.There())
}

// split is the layer's tar-split.
func (l *layerRec) split() string { return l.place.layers() + "/" + l.rec.ID + ".tar-split.gz" }
