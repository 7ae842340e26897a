package fusefs

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"weak"

	"github.com/hanwen/go-fuse/v2/fuse"
	digest "github.com/opencontainers/go-digest"

	"imagefs/store"
	"imagefs/store/save"
)

// image is a directory of ids/, from its first lookup until the image is removed.
type image struct {
	slot uint64
	id   digest.Digest
	gone atomic.Bool
	open atomic.Int64 // layer.tar files of it that are open
	// emptying is when somebody last tried to remove something in it, in nanoseconds since the epoch
	emptying atomic.Int64

	listing sync.Mutex                       // taken before mu; guards changes
	changes map[int]weak.Pointer[changeList] // by layer

	known    atomic.Pointer[store.Image] // what the store has; nil: it was not asked yet, or the image is gone
	building chan struct{}               // bounds how many views of it are made at once

	mu      sync.Mutex              // guards what follows; never held while the store does work
	loading *flight[store.Image]    // the asking of the store, if it is under way
	flights map[any]*flight[uint64] // other work under way, by what it is to find: see imageWork
	roots   map[rootKey]nodeID      // of the views that were looked into
	sizes   map[nodeID]uint64       // of files whose size takes work to know
	texts   []uint64                // slots of its latest volatile texts
	tars    map[nodeID]*tarReads
}

// volatileText is one content that a volatile file has or had. A new content is
// a new inode, so that the kernel can keep each as long as it likes.
type volatileText struct {
	image   uint64
	text    []byte
	archive *save.Archive // instead of text
	mtime   time.Time
	key     string
}

// keepTexts is how many contents are kept of an image's volatile files.
const keepTexts = 16

// textNode returns the node of a volatile file with its present content.
func (f *fsys) textNode(im *image, img store.Image, file int) (nodeID, error) {
	text := imageFiles[file].text(f, im, img)
	if text == nil {
		return 0, syscall.ENOENT
	}
	key := fmt.Sprintf("%d/%d/%s", im.slot, file, text)
	return f.volatile(im, &volatileText{image: im.slot, text: text, mtime: f.imageTime(img), key: key})
}

// volatile returns the node of a content.
func (f *fsys) volatile(im *image, t *volatileText) (nodeID, error) {
	slot, _, err := f.texts.intern(t.key, maxSynthSlot, func(uint64) *volatileText { return t })
	if err != nil {
		return 0, err
	}
	f.keepText(im, slot)
	return synthID(typeText, slot, 0), nil
}

// keepText makes a content the latest that was looked up, and lets go of the oldest.
func (f *fsys) keepText(im *image, slot uint64) {
	im.mu.Lock()
	defer im.mu.Unlock()
	if n := slices.Index(im.texts, slot); n >= 0 {
		im.texts = slices.Delete(im.texts, n, n+1)
	}
	if im.texts = append(im.texts, slot); len(im.texts) > keepTexts {
		f.clearTexts(im.texts[:1])
		im.texts = im.texts[1:]
	}
}

func (f *fsys) clearTexts(slots []uint64) {
	for _, s := range slots {
		if t := f.texts.get(s); t != nil {
			f.texts.forget(t.key)
			f.texts.clear(s)
		}
	}
}

// rootKey is a view of an image: layers 0…n merged, or layer n's diff.
type rootKey struct {
	n    int
	diff bool
}

// image returns the record of an image that the store has.
func (f *fsys) image(id digest.Digest) (*image, error) {
	_, im, err := f.images.intern(string(id), maxSynthSlot, func(slot uint64) *image {
		return &image{slot: slot, id: id, building: make(chan struct{}, 1),
			flights: map[any]*flight[uint64]{}, roots: map[rootKey]nodeID{}, sizes: map[nodeID]uint64{}}
	})
	return im, err
}

// drop marks the image and its views as gone.
func (im *image) drop(f *fsys) {
	im.gone.Store(true)
	im.mu.Lock()
	defer im.mu.Unlock()
	for _, w := range im.flights {
		w.stop()
	}
	var roots []nodeID
	for _, root := range im.roots {
		roots = append(roots, root)
		if v := f.view(root); v != nil {
			v.gone.Store(true)
		}
	}
	im.known.Store(nil)
	f.clearTexts(im.texts)
	im.texts = nil
	f.retire(im, roots)
}

// imageFile is a file in an image's directory.
type imageFile struct {
	name string
	// text makes the content; nil: there is no such file
	text func(f *fsys, im *image, img store.Image) []byte
	// volatile content can be another one at the next look: names, and how long ago something was
	volatile bool
	// report is made of the config, and costly to make
	report bool
	// node finds what is no text; has tells whether the image has it
	node func(f *fsys, ctx context.Context, im *image, img store.Image) (nodeID, error)
	has  func(f *fsys, im *image, img store.Image) bool
}

// exists tells whether an image has the file.
func (i *imageFile) exists(f *fsys, im *image, img store.Image) bool {
	switch {
	case i.has != nil:
		return i.has(f, im, img)
	case i.report:
		return img.RawConfig() != nil
	}
	return i.text(f, im, img) != nil
}

// imageFiles are the files of an image's directory; the node of one carries its index. 0 is the directory.
var imageFiles = []imageFile{
	{},
	{name: "config.json", text: func(_ *fsys, _ *image, img store.Image) []byte { return img.RawConfig() }},
	{name: "manifest.json", text: manifestJSON},
	{name: imageTar, node: (*fsys).tarNode, has: (*fsys).hasImageTar, volatile: true},
	{name: "Dockerfile", text: dockerfile, report: true},
	{name: "history", text: historyTable, volatile: true, report: true},
	{name: "history.json", text: historyJSON, volatile: true, report: true},
	{name: "inspect.json", text: inspectJSON, volatile: true, report: true},
	{name: "id", text: func(_ *fsys, im *image, _ store.Image) []byte { return value(string(im.id)) }},
	{name: "created", text: func(_ *fsys, _ *image, img store.Image) []byte { return value(stamp(img.Config().Created)) }},
	{name: "size", text: func(_ *fsys, _ *image, img store.Image) []byte { return imageSize(img) }},
	{name: "architecture", text: func(_ *fsys, _ *image, img store.Image) []byte { return value(img.Config().Architecture) }},
	{name: "os", text: func(_ *fsys, _ *image, img store.Image) []byte { return value(img.Config().OS) }},
	{name: "parent", text: func(_ *fsys, _ *image, img store.Image) []byte { return value(string(img.Parent())) }},
	{name: "tags", volatile: true, text: func(f *fsys, im *image, _ store.Image) []byte {
		return value(f.snap.Load().refs[im.id].Tags...)
	}},
	{name: "digests", volatile: true, text: func(f *fsys, im *image, _ store.Image) []byte {
		return value(f.snap.Load().refs[im.id].Digests...)
	}},
	{name: "error", text: func(_ *fsys, _ *image, img store.Image) []byte {
		if err := img.Err(); err != nil {
			return value(strings.ReplaceAll(err.Error(), "\n", "; "))
		}
		return nil
	}},
}

func imageSize(img store.Image) []byte {
	var sum int64
	for _, l := range img.Layers() {
		if l.Size() < 0 {
			return nil
		}
		sum += l.Size()
	}
	return value(strconv.FormatInt(sum, 10))
}

// lastTarget is where layers/<last>/rootfs leads.
const lastTarget = "../../rootfs"

// imageNode tells what a node of an image is.
func (f *fsys) imageNode(ctx context.Context, n synth) (synth, error) {
	im, img, err := f.imageOf(ctx, n.id)
	if err != nil {
		return n, err
	}
	n.valid, n.mtime = forever, f.imageTime(img)
	switch n.id.synthType() {
	case typeImage:
		if n.id.file() == 0 {
			// Nothing can be removed in it, but whoever tries must be seen to.
			n.nlink, n.mode = 4, f.namesMode()
			return n, nil
		}
		return f.imageFileNode(n, im, img)
	case typeLayers:
		n.nlink = 2 + uint32(len(img.Layers()))
		return n, nil
	case typeLast:
		n.mode, n.nlink, n.size = linkMode, 1, uint64(len(lastTarget))
		return n, nil
	}
	return f.layerNode(ctx, n, im, img)
}

func (f *fsys) imageFileNode(n synth, im *image, img store.Image) (synth, error) {
	i := n.id.file()
	if i >= len(imageFiles) {
		return n, syscall.ENOENT
	}
	file := &imageFiles[i]
	if file.text == nil {
		return n, syscall.ENOENT
	}
	text := file.text(f, im, img)
	if text == nil {
		return n, syscall.ENOENT
	}
	n.mode, n.nlink, n.size = fileMode, 1, uint64(len(text))
	return n, nil
}

// imageChild finds a name in ids/<id>, ids/<id>/layers or ids/<id>/layers/<n>.
func (f *fsys) imageChild(ctx context.Context, dir nodeID, name string) (nodeID, error) {
	im, img, err := f.imageOf(ctx, dir)
	if err != nil {
		return 0, err
	}
	switch dir.synthType() {
	case typeLayers:
		n, err := strconv.Atoi(name)
		if err != nil || n < 0 || n >= len(img.Layers()) || name != layerName(n, len(img.Layers())) {
			return 0, syscall.ENOENT
		}
		return layerID(im.slot, n, 0), nil
	case typeLayer:
		return f.layerChild(ctx, dir, im, img, name)
	}
	if dir.file() != 0 {
		return 0, syscall.ENOTDIR
	}
	switch name {
	case "layers":
		return synthID(typeLayers, im.slot, 0), nil
	case "rootfs":
		return f.rootfs(ctx, im, img)
	}
	for i := 1; i < len(imageFiles); i++ {
		if imageFiles[i].name == name {
			if node := imageFiles[i].node; node != nil {
				return node(f, ctx, im, img)
			}
			if imageFiles[i].volatile {
				return f.textNode(im, img, i)
			}
			if !imageFiles[i].exists(f, im, img) {
				return 0, syscall.ENOENT
			}
			return synthID(typeImage, im.slot, i), nil
		}
	}
	return 0, syscall.ENOENT
}

// rootfs is the root file system of the image: all layers merged.
func (f *fsys) rootfs(ctx context.Context, im *image, img store.Image) (nodeID, error) {
	return f.root(ctx, im, img, rootKey{n: len(img.Config().DiffIDs) - 1})
}

// imageList lists ids/<id>, ids/<id>/layers or ids/<id>/layers/<n>.
func (f *fsys) imageList(ctx context.Context, dir nodeID) ([]dirent, error) {
	im, img, err := f.imageOf(ctx, dir)
	if err != nil {
		return nil, err
	}
	var out []dirent
	switch dir.synthType() {
	case typeLayers:
		for n := range img.Layers() {
			out = append(out, dirent{name: layerName(n, len(img.Layers())), id: layerID(im.slot, n, 0), mode: fuse.S_IFDIR})
		}
		return out, nil
	case typeLayer:
		return f.layerList(dir, im, img)
	}
	for i := 1; i < len(imageFiles); i++ {
		if file := &imageFiles[i]; file.exists(f, im, img) {
			out = append(out, dirent{name: file.name, id: synthID(typeImage, im.slot, i), mode: fuse.S_IFREG, costly: file.volatile})
		}
	}
	return append(out,
		dirent{name: "layers", id: synthID(typeLayers, im.slot, 0), mode: fuse.S_IFDIR},
		dirent{name: "rootfs", mode: fuse.S_IFDIR, costly: true}), nil
}

// layerName is the name of a layer's directory: zero-padded to the width of the last.
func layerName(n, count int) string {
	return fmt.Sprintf("%0*d", len(strconv.Itoa(count-1)), n)
}
