package save

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"path"
	"slices"
	"strings"
	"time"

	digest "github.com/opencontainers/go-digest"

	"imagefs/store"
)

// member is a file, directory or link in an archive.
type member struct {
	name  string // a directory's ends in "/"
	mtime time.Time
	body  []byte
	link  string // target of a symbolic link
	part  *part  // the content, if it is not body
}

// size returns how many bytes the content has.
func (m *member) size() int64 {
	if m.part != nil {
		return m.part.size
	}
	return int64(len(m.body))
}

// part is a piece of an archive that lies elsewhere.
type part struct {
	open func(ctx context.Context) (store.File, error)
	size int64
	sum  digest.Digest // of the content; what was written is checked against it
	what string        // for messages and progress
}

// NoTarError is the error for a layer of which only files are to be had, and not
// the tar that they came in. It wraps store.ErrUnsupported.
type NoTarError struct{ DiffID digest.Digest }

func (e *NoTarError) Error() string {
	return fmt.Sprintf("the tar of layer %s cannot be put together again byte for byte", e.DiffID)
}

func (e *NoTarError) Unwrap() error { return store.ErrUnsupported }

// layerPart is the uncompressed tar of a layer.
func layerPart(ctx context.Context, l store.Layer) (*part, error) {
	size, err := l.TarSize(ctx)
	if errors.Is(err, store.ErrUnsupported) {
		return nil, &NoTarError{l.DiffID()}
	}
	if err != nil {
		return nil, err
	}
	return &part{open: l.Tar, size: size, sum: l.DiffID(), what: "layer " + l.DiffID().Encoded()[:12]}, nil
}

// LayerTar is the uncompressed tar of a layer as an archive of its own, which is
// checked against the diff ID when it is written.
func LayerTar(ctx context.Context, l store.Layer) (*Archive, error) {
	p, err := layerPart(ctx, l)
	if err != nil {
		return nil, err
	}
	a := &Archive{}
	a.add(section{part: p})
	return a, nil
}

// Whole returns the layers of an image, which must be all that its config names.
// Errors wrap store.ErrCorrupt.
func Whole(img store.Image) ([]store.Layer, error) {
	if img.RawConfig() == nil {
		return nil, img.Err()
	}
	layers := img.Layers()
	if n := len(img.Config().DiffIDs); len(layers) != n {
		if err := img.Err(); err != nil {
			return nil, err
		}
		return nil, fmt.Errorf("image %s: %d of %d layers: %w", img.ID(), len(layers), n, store.ErrCorrupt)
	}
	return layers, nil
}

// created is the time of an image's entries. Times that dockerd cannot set are 1970.
func created(img store.Image) time.Time {
	t := img.Config().Created
	if t.Unix() < 0 || t.Unix() > math.MaxInt64/int64(time.Second) {
		return epoch
	}
	return t.Truncate(time.Second)
}

var epoch = time.Unix(0, 0).UTC()

// pack puts members into a tar, sorted by name.
func pack(members []member) (*Archive, error) {
	slices.SortFunc(members, func(a, b member) int { return strings.Compare(a.name, b.name) })
	a := &Archive{}
	var b bytes.Buffer
	put := func(p []byte) { b.Write(p) }
	for _, m := range members {
		size := m.size()
		head, err := header(m, size)
		if err != nil {
			return nil, fmt.Errorf("entry %s: %w", m.name, err)
		}
		put(head)
		if m.part != nil {
			a.add(section{data: slices.Clone(b.Bytes())})
			b.Reset()
			a.add(section{part: m.part})
		} else {
			put(m.body)
		}
		put(make([]byte, -size&(blockSize-1)))
	}
	put(make([]byte, 2*blockSize))
	a.add(section{data: b.Bytes()})
	return a, nil
}

const blockSize = 512

// header is what stands before a member's content, in the form that dockerd
// gives it: root's, with the type in the mode too.
func header(m member, size int64) ([]byte, error) {
	h := &tar.Header{Name: m.name, Typeflag: tar.TypeReg, Mode: 0o100644, Size: size,
		ModTime: m.mtime, Uname: "root", Gname: "root", Format: tar.FormatPAX}
	switch {
	case m.link != "":
		h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, m.link, 0o120777
	case strings.HasSuffix(m.name, "/"):
		h.Typeflag, h.Mode = tar.TypeDir, 0o40755
	}
	var b bytes.Buffer
	// What follows the header is ours to write, so the Writer is never closed.
	if err := tar.NewWriter(&b).WriteHeader(h); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// directories adds those that members lie in.
func directories(members []member, mtime time.Time) []member {
	seen := map[string]bool{".": true}
	for _, m := range members {
		for d := path.Dir(m.name); !seen[d]; d = path.Dir(d) {
			seen[d] = true
			members = append(members, member{name: d + "/", mtime: mtime})
		}
	}
	return members
}
