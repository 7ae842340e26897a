package save

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"imagefs/store"
	"imagefs/store/beneath"
)

// What a layout that strangers wrote may be, where it is added to.
const (
	maxIndex     = 4 << 20
	maxValues    = 200_000
	maxManifests = 1000
	tempPrefix   = ".tmp-"
)

// AddToOCIDir adds images to an OCI layout directory, which is made by OCIDir
// if there is nothing. What the layout has stays: a layer that one of its images
// has, compressed in whatever way, is neither written nor read; a name that
// another image has is taken from it. A reader sees the layout as it was or with
// all that was added: index.json is replaced last, in one step. After an error
// nothing stays of what was added. One process at a time adds to a layout.
func AddToOCIDir(ctx context.Context, dir string, items []Item, o OCIOptions) error {
	err := vacant(dir)
	if err == nil {
		err = OCIDir(ctx, dir, items, o)
		if errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EEXIST) {
			err = store.ErrExists // somebody else has made it meanwhile
		}
	}
	if !errors.Is(err, store.ErrExists) {
		return err
	}
	r, err := beneath.Open(dir)
	if err != nil {
		return err
	}
	defer r.Close()
	if !r.Exists(ociIndex) || !r.Exists(ociLayout) {
		return fmt.Errorf("%s is not empty and no OCI layout: %w", dir, store.ErrExists)
	}
	// The lock goes with the descriptor.
	if err := lockLayout(ctx, r, dir); err != nil {
		return err
	}
	old, err := readLayout(ctx, r)
	if err != nil {
		return fmt.Errorf("layout %s: %w", dir, err)
	}
	l, err := newLayout(ctx, items, o, old.have)
	if err != nil {
		return err
	}
	defer l.close()
	a := adding{r: r, l: l}
	err = a.run(ctx, old)
	if err != nil && !a.done {
		a.takeBack()
	}
	return err
}

// lockLayout waits until no other process adds to a layout.
func lockLayout(ctx context.Context, r *beneath.Root, dir string) error {
	for {
		err := unix.Flock(r.Fd(), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil || !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			if err != nil {
				return fmt.Errorf("lock layout %s: %w", dir, err)
			}
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// adding is an addition to a layout under way.
type adding struct {
	r    *beneath.Root
	l    *layout
	made []string // blobs, to be removed after an error
	done bool     // the layout refers to them
}

func (a *adding) run(ctx context.Context, old *oldLayout) error {
	dir := strings.TrimSuffix(blobDir, "/")
	for _, d := range []string{"blobs", dir} {
		if err := a.r.Mkdir(d, 0o755); err != nil {
			return err
		}
	}
	names, err := a.r.List(dir)
	if err != nil {
		return err
	}
	for _, n := range names {
		if strings.HasPrefix(n, tempPrefix) { // of a process that died: the lock is ours
			_ = a.r.Remove(blobDir + n)
		}
	}
	if err := a.blobs(ctx); err != nil {
		return err
	}
	if err := a.r.SyncFS(); err != nil {
		return err
	}
	index, err := old.withIndex(a.l.index)
	if err != nil {
		return err
	}
	if old.docker != nil {
		b, err := old.withDocker(a.l.docker)
		if err != nil {
			return err
		}
		if err := a.r.Write(dockerManifest, b, 0o644); err != nil {
			a.restore(old)
			return err
		}
	}
	err = a.r.Write(ociIndex, index, 0o644)
	a.done = err == nil || errors.Is(err, beneath.ErrNotSynced)
	if !a.done {
		a.restore(old)
	}
	return err
}

// restore puts back what Docker reads of a layout, when its index is still the old one.
func (a *adding) restore(old *oldLayout) {
	if old.docker != nil {
		_ = a.r.Write(dockerManifest, old.docker, 0o644)
	}
}

// blobs writes what the layout does not have.
func (a *adding) blobs(ctx context.Context) error {
	var missing []member
	var done, total int64
	for _, m := range a.l.members {
		if a.has(ctx, m.name, m.size()) {
			continue
		}
		missing = append(missing, m)
		total += m.size()
	}
	for _, m := range missing {
		err := a.blob(ctx, m, func(n int64) {
			if a.l.o.Progress != nil {
				a.l.o.Progress(Progress{done + n, total, m.what()})
			}
		})
		if err != nil {
			return err
		}
		done += m.size()
	}
	return ctx.Err()
}

// has tells whether the layout has a blob, whole: one that nothing refers to may
// be half of what a machine that lost its power was to write.
func (a *adding) has(ctx context.Context, name string, size int64) bool {
	f, err := a.r.OpenFile(name, os.O_RDONLY, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() || st.Size() != size {
		return false
	}
	sum := sha256.New()
	_, err = io.Copy(sum, store.Interruptible(ctx, io.LimitReader(f, size)))
	return err == nil && blobDir+digest.NewDigest(digest.SHA256, sum).Encoded() == name
}

// blob writes one under another name, and renames it when it is whole.
func (a *adding) blob(ctx context.Context, m member, tell func(int64)) (err error) {
	tmp := blobDir + tempPrefix + beneath.Random(8)
	f, err := a.r.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	err = errors.Join(m.write(ctx, f, tell), f.Chmod(0o644), f.Close())
	if err == nil {
		there := a.r.Exists(m.name) // damaged
		if err = a.r.Rename(tmp, m.name); err == nil {
			if !there {
				a.made = append(a.made, m.name)
			}
			return nil
		}
	}
	_ = a.r.Remove(tmp)
	return err
}

func (a *adding) takeBack() {
	for _, name := range a.made {
		_ = a.r.Remove(name)
	}
}

// oldLayout is a layout before something is added.
type oldLayout struct {
	index   map[string]json.RawMessage // index.json, with what this program knows nothing of
	entries []oldEntry
	docker  []byte // manifest.json, nil if there is none
	have    map[digest.Digest]descriptor
}

// oldEntry is an entry of index.json.
type oldEntry struct {
	raw json.RawMessage
	descriptor
}

func readLayout(ctx context.Context, r *beneath.Root) (*oldLayout, error) {
	l := &oldLayout{have: map[digest.Digest]descriptor{}}
	var raw []json.RawMessage
	b, err := readJSON(r, ociIndex, &l.index)
	if err == nil && l.index == nil {
		err = errors.New("it is no object")
	}
	if err == nil {
		var i struct{ Manifests *[]json.RawMessage }
		i.Manifests = &raw
		err = json.Unmarshal(b, &i)
	}
	if err != nil {
		return nil, fmt.Errorf("index.json: %w: %w", store.ErrCorrupt, err)
	}
	for _, e := range raw {
		d := oldEntry{raw: e}
		if err := json.Unmarshal(e, &d.descriptor); err != nil {
			return nil, fmt.Errorf("index.json: %w: %w", store.ErrCorrupt, err)
		}
		l.entries = append(l.entries, d)
	}
	var all []json.RawMessage
	if b, err = readJSON(r, dockerManifest, &all); err == nil {
		l.docker = b
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("manifest.json: %w: %w", store.ErrCorrupt, err)
	}
	left := maxManifests
	for _, e := range l.entries {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		l.learn(r, e.descriptor, &left, true)
	}
	return l, nil
}

// learn finds out which layers an image has, or the images of an index. One that
// is not whole is passed over: what it has cannot be relied on.
func (l *oldLayout) learn(r *beneath.Root, d descriptor, left *int, deeper bool) {
	if *left--; *left < 0 {
		return
	}
	var m struct {
		Config    descriptor
		Layers    []descriptor
		Manifests []descriptor
	}
	if b := readBlob(r, d.Digest, maxIndex); b == nil || json.Unmarshal(b, &m) != nil {
		return
	}
	for _, sub := range m.Manifests {
		if deeper {
			l.learn(r, sub, left, false)
		}
	}
	if m.Config.Digest == "" {
		return
	}
	c, err := store.ParseConfig(readBlob(r, m.Config.Digest, store.MaxConfigSize))
	if err != nil || len(c.DiffIDs) != len(m.Layers) {
		return
	}
	for n, layer := range m.Layers {
		kind := ociLayer(layer.MediaType)
		if kind == "" || !store.IsID(layer.Digest) {
			continue
		}
		st, err := r.Stat(blobDir + layer.Digest.Encoded())
		if err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size != layer.Size {
			continue
		}
		l.have[c.DiffIDs[n]] = descriptor{MediaType: kind, Digest: layer.Digest, Size: layer.Size}
	}
}

// ociLayer is the OCI media type of a layer, "" if it has none here.
func ociLayer(mediaType string) string {
	switch mediaType {
	case None.layerType(), Gzip.layerType(), Zstd.layerType():
		return mediaType
	case "application/vnd.docker.image.rootfs.diff.tar":
		return None.layerType()
	case "application/vnd.docker.image.rootfs.diff.tar.gzip":
		return Gzip.layerType()
	}
	return ""
}

// readJSON reads a file of a layout, whatever else is in it.
func readJSON(r *beneath.Root, name string, v any) ([]byte, error) {
	b, err := r.Read(name, maxIndex)
	if err != nil {
		return nil, err
	}
	if err := store.FewValues(b, maxValues); err != nil {
		return nil, err
	}
	return b, json.Unmarshal(b, v)
}

// readBlob returns a blob of JSON, nil if it is missing or not what its digest says.
func readBlob(r *beneath.Root, d digest.Digest, limit int64) []byte {
	if !store.IsID(d) {
		return nil
	}
	b, err := r.Read(blobDir+d.Encoded(), limit)
	if err != nil || digest.FromBytes(b) != d || store.FewValues(b, maxValues) != nil {
		return nil
	}
	return b
}

// name is the full name that an entry gives its image, "" if none.
func (d *descriptor) name() string {
	if n := d.Annotations[nameKey]; n != "" {
		return n
	}
	ref := d.Annotations[refKey]
	if !strings.ContainsAny(ref, ":/") {
		return ""
	}
	familiar, err := store.FamiliarTag(ref)
	if err != nil {
		return ""
	}
	full, _ := store.Canonical(familiar)
	return full
}

// withIndex is index.json with entries added.
func (l *oldLayout) withIndex(add []descriptor) ([]byte, error) {
	taken := map[string]digest.Digest{}
	for _, d := range add {
		if n := d.name(); n != "" {
			taken[n] = d.Digest
		}
	}
	var out []json.RawMessage
	known := map[digest.Digest]bool{} // manifests that stay listed
	there := map[string]bool{}        // names that stay as they are
	var robbed []oldEntry
	for _, e := range l.entries {
		n := e.name()
		if to, ok := taken[n]; ok && to != e.Digest {
			robbed = append(robbed, e)
			continue
		}
		known[e.Digest], there[n] = true, true
		out = append(out, e.raw)
	}
	for _, e := range robbed {
		if known[e.Digest] {
			continue
		}
		known[e.Digest] = true
		raw, err := e.nameless()
		if err != nil {
			return nil, err
		}
		out = append(out, raw)
	}
	for _, d := range add {
		if n := d.name(); there[n] && n != "" || n == "" && known[d.Digest] {
			continue
		}
		raw, err := json.Marshal(d)
		if err != nil {
			return nil, err
		}
		out = append(out, raw)
	}
	var err error
	if l.index["manifests"], err = json.Marshal(out); err != nil {
		return nil, err
	}
	return json.Marshal(l.index)
}

// nameless is an entry without its name, and with all else that it has.
func (e *oldEntry) nameless() (json.RawMessage, error) {
	var all map[string]json.RawMessage
	if err := json.Unmarshal(e.raw, &all); err != nil {
		return nil, err
	}
	delete(e.Annotations, nameKey)
	delete(e.Annotations, refKey)
	if delete(all, "annotations"); len(e.Annotations) > 0 {
		b, err := json.Marshal(e.Annotations)
		if err != nil {
			return nil, err
		}
		all["annotations"] = b
	}
	return json.Marshal(all)
}

// withDocker is manifest.json with images added.
func (l *oldLayout) withDocker(add []dockerImage) ([]byte, error) {
	var all []map[string]json.RawMessage
	if err := json.Unmarshal(l.docker, &all); err != nil {
		return nil, err
	}
	taken := map[string]bool{}
	for _, d := range add {
		for _, n := range d.RepoTags {
			taken[n] = true
		}
	}
	place := map[string]int{} // of images by config
	for i, img := range all {
		var config string
		var tags []string
		_ = json.Unmarshal(img["Config"], &config)
		_ = json.Unmarshal(img["RepoTags"], &tags)
		place[config] = i
		if kept := slices.DeleteFunc(slices.Clone(tags), func(n string) bool { return taken[n] }); len(kept) < len(tags) {
			if err := setTags(img, kept); err != nil {
				return nil, err
			}
		}
	}
	var out []any
	for _, d := range add {
		i, ok := place[d.Config]
		if !ok {
			out = append(out, d)
			continue
		}
		var tags []string
		_ = json.Unmarshal(all[i]["RepoTags"], &tags)
		if err := setTags(all[i], append(tags, d.RepoTags...)); err != nil {
			return nil, err
		}
	}
	old := make([]any, 0, len(all)+len(out))
	for _, img := range all {
		old = append(old, img)
	}
	return json.Marshal(append(old, out...))
}

func setTags(img map[string]json.RawMessage, tags []string) (err error) {
	img["RepoTags"], err = json.Marshal(tags)
	return err
}
