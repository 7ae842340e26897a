package fusefs

import (
	"bytes"
	"context"
	"errors"
	"strconv"
	"strings"
	"syscall"
	"weak"

	"github.com/hanwen/go-fuse/v2/fuse"

	"imagefs/overlay"
	"imagefs/store"
)

// layerBits is how many bits of a layer node's file number name the file.
const layerBits = 7

func layerID(image uint64, n, file int) nodeID {
	return synthID(typeLayer, image, n<<layerBits|file)
}

// The files of a layer's directory that take work; the others are texts.
const (
	layerDirFile = iota
	layerTar
	layerChanges
	layerTexts // the first of layerFiles
)

// layerFiles are the texts in a layer's directory.
var layerFiles = []struct {
	name string
	text func(img store.Image, n int) []byte // nil: no such file
}{
	{"diffid", func(img store.Image, n int) []byte { return value(string(img.Layers()[n].DiffID())) }},
	{"chainid", func(img store.Image, n int) []byte { return value(string(img.Layers()[n].ChainID())) }},
	{"digest", func(img store.Image, n int) []byte { return value(string(img.Layers()[n].Digest())) }},
	{"size", func(img store.Image, n int) []byte {
		if s := img.Layers()[n].Size(); s >= 0 {
			return value(strconv.FormatInt(s, 10))
		}
		return nil
	}},
	{"created", func(img store.Image, n int) []byte {
		if h := layerHistory(img, n); h != nil {
			return value(stamp(h.Created))
		}
		return nil
	}},
	{"created_by", func(img store.Image, n int) []byte {
		if h := layerHistory(img, n); h != nil {
			return value(h.CreatedBy)
		}
		return nil
	}},
}

// layerHistory is the step that made a layer, nil if the history does not say.
func layerHistory(img store.Image, n int) *store.History {
	c := img.Config()
	if h := c.LayerHistory(); n < len(h) && h[n] >= 0 {
		return &c.History[h[n]]
	}
	return nil
}

// layerNode tells what a layer's directory, or a file in it, is.
func (f *fsys) layerNode(ctx context.Context, n synth, im *image, img store.Image) (synth, error) {
	k, file := n.id.file()>>layerBits, n.id.file()&(1<<layerBits-1)
	if k >= len(img.Layers()) {
		return n, syscall.ENOENT
	}
	if h := layerHistory(img, k); h != nil && !h.Created.IsZero() {
		n.mtime = clamp(h.Created)
	}
	if file == layerDirFile {
		n.nlink = 4
		if k == len(img.Layers())-1 {
			n.nlink = 3
		}
		return n, nil
	}
	n.mode, n.nlink = fileMode, 1
	if file < layerTexts {
		size, err := f.costlySize(ctx, n.id, im, img, k, file)
		n.size = size
		return n, err
	}
	if file-layerTexts >= len(layerFiles) {
		return n, syscall.ENOENT
	}
	text := layerFiles[file-layerTexts].text(img, k)
	if text == nil {
		return n, syscall.ENOENT
	}
	n.size = uint64(len(text))
	return n, nil
}

// costlySize is the size of layer.tar or changes, kept once known.
func (f *fsys) costlySize(ctx context.Context, id nodeID, im *image, img store.Image, n, file int) (uint64, error) {
	have := func() (uint64, bool) { size, ok := im.sizes[id]; return size, ok }
	return f.imageWork(ctx, im, id, have, func(ctx context.Context) (size uint64, err error) {
		if file == layerTar {
			s, err := img.Layers()[n].TarSize(ctx)
			return uint64(s), err
		}
		err = f.eachChange(ctx, im, img, n, func(_ byte, path string) bool {
			size += uint64(len(changePath(path))) + 3
			return true
		})
		return size, err
	}, func(size uint64) (uint64, error) {
		im.mu.Lock()
		defer im.mu.Unlock()
		im.sizes[id] = size
		return size, nil
	})
}

// eachChange tells what layer n does to those below it.
func (f *fsys) eachChange(ctx context.Context, im *image, img store.Image, n int, yield func(op byte, path string) bool) error {
	var below *overlay.Tree
	if n > 0 {
		v, err := f.imageView(ctx, im, img, rootKey{n: n - 1})
		if err != nil {
			return err
		}
		below = v.tree
	}
	// The layer is taken from a view, so that it is let go with the image.
	v, err := f.imageView(ctx, im, img, rootKey{n: n, diff: true})
	if err != nil {
		return err
	}
	return overlay.Changes(below, v.layers[0].index, yield)
}

// imageView is a view of an image.
func (f *fsys) imageView(ctx context.Context, im *image, img store.Image, k rootKey) (*view, error) {
	id, err := f.root(ctx, im, img, k)
	if err != nil {
		return nil, err
	}
	if v := f.view(id); v != nil {
		return v, nil
	}
	return nil, syscall.ESTALE
}

// changeList is the content of a layer's changes, which can be large: there is
// one of a layer at a time, for all who have the file open.
type changeList struct {
	text []byte
	// of a pair's; guarded by openLists.mu
	uses int // files that are open
	size int // bytes that are counted
}

// changes is the content of a layer's file of that name.
func (f *fsys) changes(im *image, img store.Image, n int) (*changeList, error) {
	im.listing.Lock()
	defer im.listing.Unlock()
	if c := im.changes[n].Value(); c != nil {
		return c, nil
	}
	var b bytes.Buffer
	err := f.eachChange(f.life, im, img, n, func(op byte, path string) bool {
		b.WriteByte(op)
		b.WriteByte(' ')
		b.WriteString(changePath(path))
		b.WriteByte('\n')
		return true
	})
	if err != nil {
		return nil, err
	}
	c := &changeList{text: b.Bytes()}
	if im.changes == nil {
		im.changes = map[int]weak.Pointer[changeList]{}
	}
	im.changes[n] = weak.Make(c)
	return c, nil
}

// changePath is an absolute path in a line: a newline in it must not look like the
// end, nor like anything else. Quoted, it starts as no other does.
func changePath(p string) string {
	if strings.IndexByte(p, '\n') < 0 {
		return p
	}
	return strconv.Quote(p)
}

func (f *fsys) layerChild(ctx context.Context, dir nodeID, im *image, img store.Image, name string) (nodeID, error) {
	n := dir.file() >> layerBits
	if dir.file()&(1<<layerBits-1) != layerDirFile || n >= len(img.Layers()) {
		return 0, syscall.ENOTDIR
	}
	switch name {
	case "diff":
		return f.root(ctx, im, img, rootKey{n: n, diff: true})
	case "rootfs":
		if n == len(img.Layers())-1 {
			return synthID(typeLast, im.slot, 0), nil
		}
		return f.root(ctx, im, img, rootKey{n: n})
	case "changes":
		return layerID(im.slot, n, layerChanges), nil
	case "layer.tar":
		if !f.hasTar(img, img.Layers()[n]) {
			return 0, syscall.ENOENT
		}
		return layerID(im.slot, n, layerTar), nil
	}
	for i := range layerFiles {
		if layerFiles[i].name == name && layerFiles[i].text(img, n) != nil {
			return layerID(im.slot, n, layerTexts+i), nil
		}
	}
	return 0, syscall.ENOENT
}

// hasTar tells whether the store can give a layer's tar back, or could if the
// layer were not broken: what is broken is listed, and says so when it is looked at.
func (f *fsys) hasTar(img store.Image, l store.Layer) bool {
	if t, ok := l.(store.TarHolder); !ok || t.HasTar() {
		return true
	}
	if img.Err() == nil {
		return false
	}
	_, err := l.TarSize(f.life)
	return !errors.Is(err, store.ErrUnsupported)
}

func (f *fsys) layerList(dir nodeID, im *image, img store.Image) ([]dirent, error) {
	n := dir.file() >> layerBits
	if dir.file()&(1<<layerBits-1) != layerDirFile || n >= len(img.Layers()) {
		return nil, syscall.ENOTDIR
	}
	out := []dirent{
		{name: "changes", mode: fuse.S_IFREG, costly: true},
		{name: "diff", mode: fuse.S_IFDIR, costly: true},
	}
	if f.hasTar(img, img.Layers()[n]) {
		out = append(out, dirent{name: "layer.tar", mode: fuse.S_IFREG, costly: true})
	}
	if n == len(img.Layers())-1 {
		out = append(out, dirent{name: "rootfs", id: synthID(typeLast, im.slot, 0), mode: fuse.S_IFLNK})
	} else {
		out = append(out, dirent{name: "rootfs", mode: fuse.S_IFDIR, costly: true})
	}
	for i := range layerFiles {
		if layerFiles[i].text(img, n) != nil {
			out = append(out, dirent{name: layerFiles[i].name, id: layerID(im.slot, n, layerTexts+i), mode: fuse.S_IFREG})
		}
	}
	return out, nil
}
