package containerd

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"imagefs/store"
	"imagefs/store/containerd/bolt"
)

// Limits on what the databases may hold.
const (
	maxImages     = 200_000
	maxNamespaces = 1_000
	maxName       = 1024 // bytes of an image's name; longer ones are left out
)

// snapshotter is the one whose snapshots are read in place.
const snapshotter = "overlayfs"

// version is the key of everything in both databases.
const version = "v1"

// record is an image as meta.db has it.
type record struct {
	space   string // namespace
	name    string
	target  descriptor
	updated time.Time
	parent  digest.Digest // of what Docker's classic builder built it on: a manifest or an index; "" if nothing says so
}

// parentLabel is where the classic builder of a Docker with this store writes it (moby, daemon/containerd/image_builder.go).
const parentLabel = "org.mobyproject.image.parent"

// stamp tells states of a database apart.
type stamp struct {
	dev, ino uint64
	bolt.State
}

// openDatabase opens a database file; the caller closes it.
func (s *Store) openDatabase(name string) (*os.File, stamp, error) {
	f, err := s.root.OpenFile(name, os.O_RDONLY, 0)
	if err != nil {
		return nil, stamp{}, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		f.Close()
		return nil, stamp{}, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		f.Close()
		return nil, stamp{}, fmt.Errorf("%s is not a regular file: %w", f.Name(), store.ErrCorrupt)
	}
	return f, stamp{dev: uint64(st.Dev), ino: st.Ino}, nil
}

// view reads a database in one of its states.
func (s *Store) view(ctx context.Context, name string, fn func(root *bolt.Bucket) error) (stamp, error) {
	f, at, err := s.openDatabase(name)
	if err != nil {
		return stamp{}, err
	}
	defer f.Close()
	if at.State, err = bolt.View(ctx, f, fn); err != nil {
		how := "which nobody has locked"
		if locked(f) {
			how = "which a running containerd has locked"
		}
		return stamp{}, fmt.Errorf("read %s, %s: %w", f.Name(), how, err)
	}
	return at, nil
}

// stampOf returns the state that a database is in.
func (s *Store) stampOf(name string) (stamp, error) {
	f, at, err := s.openDatabase(name)
	if err != nil {
		return stamp{}, err
	}
	defer f.Close()
	if at.State, err = bolt.Read(f); err != nil {
		return stamp{}, fmt.Errorf("read %s: %w", f.Name(), err)
	}
	return at, nil
}

// checkDatabases tells whether the databases are such, and whether a daemon has them locked.
func (s *Store) checkDatabases() (live bool, err error) {
	for _, name := range []string{metaFile, snapFile} {
		_, err := s.stampOf(name)
		if name == snapFile && errors.Is(err, fs.ErrNotExist) {
			continue
		}
		// One that a daemon is making right now has no pages yet.
		if err != nil {
			return false, fmt.Errorf("open store: %w", err)
		}
	}
	f, _, err := s.openDatabase(metaFile)
	if err != nil {
		return false, fmt.Errorf("open store: %w", err)
	}
	defer f.Close()
	return locked(f), nil
}

// locked tells whether somebody holds a lock on a file, and takes none to find
// out: a daemon that starts meanwhile would have to wait for it.
func locked(f *os.File) bool {
	var st unix.Stat_t
	if unix.Fstat(int(f.Fd()), &st) != nil {
		return false
	}
	locks, err := os.Open("/proc/locks")
	if err != nil {
		return false
	}
	defer locks.Close()
	// "1: FLOCK  ADVISORY  WRITE 873 08:01:131075 0 EOF"
	want := fmt.Sprintf(" %02x:%02x:%d ", unix.Major(uint64(st.Dev)), unix.Minor(uint64(st.Dev)), st.Ino)
	for lines := bufio.NewScanner(locks); lines.Scan(); {
		if strings.Contains(lines.Text(), want) {
			return true
		}
	}
	return false
}

// readImages returns all image records, and the namespaces there are, sorted.
func (s *Store) readImages(ctx context.Context) (records []record, spaces []string, at stamp, err error) {
	at, err = s.view(ctx, metaFile, func(root *bolt.Bucket) error {
		records, spaces = nil, nil
		v1, err := root.Bucket(version)
		if err != nil {
			return err
		}
		return v1.Each(func(space string, _ []byte, b *bolt.Bucket) error {
			if b == nil {
				return nil // the version of the schema
			}
			if len(spaces) == maxNamespaces {
				return fmt.Errorf("more than %d namespaces: %w", maxNamespaces, store.ErrTooLarge)
			}
			spaces = append(spaces, space)
			images, err := b.Bucket("images")
			if err != nil {
				return err
			}
			return images.Each(func(name string, _ []byte, img *bolt.Bucket) error {
				if img == nil || len(name) > maxName {
					return nil
				}
				if len(records) == maxImages {
					return fmt.Errorf("more than %d images: %w", maxImages, store.ErrTooLarge)
				}
				r := record{space: space, name: name}
				if err := r.read(img); err != nil {
					return err
				}
				records = append(records, r)
				return nil
			})
		})
	})
	return records, spaces, at, err
}

// read fills in what the image's bucket says. What is no digest is found out later.
func (r *record) read(img *bolt.Bucket) error {
	target, err := img.Bucket("target")
	if err != nil {
		return err
	}
	labels, err := img.Bucket("labels")
	if err != nil {
		return err
	}
	var d, mediaType, size, updated, parent []byte
	for _, f := range []struct {
		b   *bolt.Bucket
		key string
		to  *[]byte
	}{{target, "digest", &d}, {target, "mediatype", &mediaType}, {target, "size", &size}, {img, "updatedat", &updated}, {labels, parentLabel, &parent}} {
		if *f.to, err = f.b.Get(f.key); err != nil {
			return err
		}
	}
	if len(d) <= maxName && len(mediaType) <= maxName {
		r.target.Digest, r.target.MediaType = digest.Digest(d), string(mediaType)
	}
	if len(parent) <= maxName {
		r.parent = digest.Digest(parent)
	}
	r.target.Size, _ = binary.Varint(size)
	_ = r.updated.UnmarshalBinary(updated)
	return nil
}

// snapshot is a layer that the snapshotter has unpacked.
type snapshot struct {
	id   uint64 // names its directory
	size int64  // bytes, as the snapshotter counts them; -1 if it does not say
	// apart says that it does not lie on the snapshot of the layers below: Docker
	// commits a container's layer on files of its own. Only its size counts.
	apart bool
}

// kindCommitted is a snapshot that does not change any more.
const kindCommitted = 3

// snapshotName is what the snapshotter calls a snapshot, and the one below it.
type snapshotName struct {
	name, below string
	apart       bool
}

// readSnapshots looks for the snapshots of a chain of layers, bottom first, in
// the namespaces in that order. Those that are not there, or that contradict
// what is said of them elsewhere, are left out. From the first on that lies
// on another than the layers below have, all are apart.
func (s *Store) readSnapshots(ctx context.Context, spaces []string, chains []digest.Digest) (map[digest.Digest]snapshot, error) {
	names := map[digest.Digest][]snapshotName{}
	_, err := s.view(ctx, metaFile, func(root *bolt.Bucket) error {
		clear(names)
		for _, space := range spaces {
			keys, err := root.Bucket(version, space, "snapshots", snapshotter)
			if err != nil {
				return err
			}
			var parent, below string
			apart := false
			for _, chain := range chains {
				b, err := keys.Bucket(string(chain))
				if err != nil {
					return err
				}
				name, err := b.Get("name")
				if err != nil {
					return err
				}
				up, err := b.Get("parent")
				if err != nil {
					return err
				}
				if len(name) == 0 {
					break // what is above it is not there either
				}
				apart = apart || string(up) != parent
				names[chain] = append(names[chain], snapshotName{string(name), below, apart})
				parent, below = string(chain), string(name)
			}
		}
		return nil
	})
	if err != nil || len(names) == 0 {
		return nil, err
	}
	found := map[digest.Digest]snapshot{}
	_, err = s.view(ctx, snapFile, func(root *bolt.Bucket) error {
		clear(found)
		all, err := root.Bucket(version, "snapshots")
		if err != nil {
			return err
		}
		for chain, in := range names {
			for _, n := range in {
				b, err := all.Bucket(n.name)
				if err != nil {
					return err
				}
				sn, onBelow, ok, err := committed(b, n.below)
				if err != nil {
					return err
				}
				sn.apart = n.apart
				if ok && (onBelow || n.apart) {
					found[chain] = sn
				}
				if ok && onBelow && !n.apart {
					break
				}
			}
		}
		return nil
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return found, err
}

// committed reads a snapshot from its bucket, and tells whether it lies on the one below; ok is false unless it is whole.
func committed(b *bolt.Bucket, below string) (sn snapshot, onBelow, ok bool, err error) {
	var id, kind, parent, size []byte
	for _, f := range []struct {
		key string
		to  *[]byte
	}{{"id", &id}, {"kind", &kind}, {"parent", &parent}, {"size", &size}} {
		if *f.to, err = b.Get(f.key); err != nil {
			return sn, false, false, err
		}
	}
	n := 0
	sn.id, n = binary.Uvarint(id)
	ok = n > 0 && len(kind) == 1 && kind[0] == kindCommitted
	sn.size = -1
	if v, n := binary.Varint(size); n > 0 && v >= 0 {
		sn.size = v
	}
	return sn, string(parent) == below, ok, nil
}
