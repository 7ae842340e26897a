package fusefs

import (
	"context"
	"fmt"
	"slices"
	"syscall"

	"imagefs/store"
	"imagefs/store/report"
	"imagefs/store/save"
)

// imageTar is the name of the archive in an image's directory.
const imageTar = "image.tar"

// hasImageTar tells whether the store can give the tars of all layers of an
// image, or could if it were not broken.
func (f *fsys) hasImageTar(_ *image, img store.Image) bool {
	layers := img.Layers()
	return (img.Err() != nil || img.RawConfig() != nil && len(layers) == len(img.Config().DiffIDs)) &&
		!slices.ContainsFunc(layers, func(l store.Layer) bool { return !f.hasTar(img, l) })
}

// tarNode returns the node of an image's archive, with the names that it has
// now: other names are another content, and so another inode.
func (f *fsys) tarNode(ctx context.Context, im *image, img store.Image) (nodeID, error) {
	if !f.hasImageTar(im, img) {
		return 0, syscall.ENOENT
	}
	if err := img.Err(); err != nil {
		return 0, err
	}
	tags := f.snap.Load().refs[im.id].Tags
	key := fmt.Sprintf("%d/%s/%q", im.slot, imageTar, tags)
	if slot, ok := f.texts.find(key); ok {
		f.keepText(im, slot)
		return synthID(typeText, slot, 0), nil
	}
	id, err := f.imageWork(ctx, im, key, func() (uint64, bool) { return 0, false }, func(ctx context.Context) (uint64, error) {
		arch, err := save.Docker(ctx, []save.Item{{Image: img, Names: tags}})
		if err != nil {
			return 0, err
		}
		id, err := f.volatile(im, &volatileText{image: im.slot, archive: arch, mtime: f.imageTime(img), key: key})
		return uint64(id), err
	}, func(id uint64) (uint64, error) { return id, nil })
	return nodeID(id), err
}

// openText opens one content of a volatile file.
func (f *fsys) openText(id nodeID, t *volatileText) (*handle, error) {
	if t.archive == nil {
		return &handle{text: t.text}, nil
	}
	im := f.images.get(t.image)
	if im == nil || im.gone.Load() {
		return nil, syscall.ESTALE
	}
	return im.openTar(id, t.archive.Open(f.life)), nil
}

func (t *volatileText) size() uint64 {
	if t.archive != nil {
		return uint64(t.archive.Size())
	}
	return uint64(len(t.text))
}

// dockerfile is the content of the file of that name.
func dockerfile(_ *fsys, _ *image, img store.Image) []byte {
	if img.RawConfig() == nil {
		return nil
	}
	return report.Dockerfile(img)
}

// manifestJSON is the manifest that an image came with.
func manifestJSON(_ *fsys, _ *image, img store.Image) []byte {
	if m, ok := img.(store.Manifester); ok {
		return m.RawManifest()
	}
	return nil
}
