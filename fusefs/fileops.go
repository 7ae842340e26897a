package fusefs

import (
	"context"
	"fmt"
	"strings"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"imagefs/fusefs/names"
	"imagefs/store"
)

// File operations on images/ are commands: a link made there is a tag, a link
// removed is untagged, and so on. In ids/ the one operation is rmdir, which is
// rmi. Whoever asks has the directories locked in the kernel until the answer.

// change carries out a file operation on names in directories that the kernel
// has locked. As for a command, not every signal to the caller ends it.
func (f *fsys) change(cancel <-chan struct{}, h *fuse.InHeader, at []held, do func(ctx context.Context, uid uint32) error) fuse.Status {
	faults()
	if f.o.ReadOnly {
		return fuse.EROFS
	}
	// Whatever permissions say, as with ctl/.
	if h.Uid != f.uid && h.Uid != 0 {
		return fuse.EACCES
	}
	release := f.hold(at...)
	ok := false
	defer func() { release(ok) }()
	ctx, done := f.command(cancel, h.Pid)
	defer done()
	err := do(ctx, h.Uid)
	ok = err == nil
	return fuse.Status(errno(err))
}

// place tells which directory of names a node is.
func (f *fsys) place(id nodeID) (repo, bool) {
	if id == imagesNode {
		return repo{}, true
	}
	if id.kind() == kindSynth && id.synthType() == typeRepo {
		if r := f.repos.get(id.slot()); r != nil && !r.removed {
			return *r, true
		}
	}
	return repo{}, false
}

// at is the path in the mount of a name in a directory of names.
func (r repo) at(name string) string {
	if r.path == "" {
		return r.dir() + "/" + name
	}
	return r.dir() + "/" + r.path + "/" + name
}

// entry finds a name in a directory of names.
func (f *fsys) entry(r repo, name string) (names.Entry, error) {
	if d := f.snap.Load().repoNames(r); d != nil {
		if e, ok := d.Lookup(name); ok {
			return e, nil
		}
	}
	return names.Entry{}, fmt.Errorf("there is no %s: %w", r.at(name), store.ErrNotFound)
}

// answer fills in what an operation has made.
func (f *fsys) answer(ctx context.Context, dir nodeID, name string, out *fuse.EntryOut) error {
	if st := f.synthLookup(ctx, dir, name, out); st != fuse.OK {
		return syscall.Errno(st)
	}
	return nil
}

// Symlink implements fuse.RawFileSystem: it gives an image a name.
func (f *fsys) Symlink(cancel <-chan struct{}, h *fuse.InHeader, target, name string, out *fuse.EntryOut) fuse.Status {
	dir := nodeID(h.NodeId)
	r, ok := f.place(dir)
	if !ok && dir.kind() == kindSynth && dir.synthType() == typeImage && dir.file() == 0 {
		// ln without -n or -T follows a name that is taken, and goes into the image.
		return f.change(cancel, h, nil, func(_ context.Context, uid uint32) error {
			return f.ctl.Refuse(uid, "tag", target+" "+name,
				fmt.Errorf("the name is there already and leads to an image, into which nothing can be put; ln -sfn changes it: %w", store.ErrExists))
		})
	}
	if !ok {
		return f.immutable()
	}
	return f.change(cancel, h, []held{{dir, name}}, func(ctx context.Context, uid uint32) error {
		args := target + " " + r.at(name)
		ref, err := names.TagRef(r.path, name)
		if err != nil {
			return f.ctl.Refuse(uid, "tag", args, err)
		}
		err = f.ctl.Link(ctx, uid, r.part, args, ref, func(st store.Store) (digest.Digest, error) {
			return f.meant(ctx, st, r, target)
		})
		if err != nil {
			return err
		}
		return f.answer(ctx, dir, name, out)
	})
}

// Unlink implements fuse.RawFileSystem: it takes a name away.
func (f *fsys) Unlink(cancel <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	dir := nodeID(h.NodeId)
	r, ok := f.place(dir)
	if !ok {
		f.emptied(dir)
		return f.immutable()
	}
	return f.change(cancel, h, []held{{dir, name}}, func(ctx context.Context, uid uint32) error {
		e, err := f.entry(r, name)
		if err == nil && e.Dir != "" {
			err = fmt.Errorf("%s is a directory: %w", r.at(name), syscall.EISDIR)
		}
		if err != nil {
			return f.ctl.Refuse(uid, "untag", r.at(name), err)
		}
		// As in every file system, the directory outlives the last name in it.
		_ = f.keepDir(r)
		return f.ctl.Untag(ctx, uid, r.part, r.at(name), e.Ref, e.ID)
	})
}

// Mkdir implements fuse.RawFileSystem: it makes a place for names.
func (f *fsys) Mkdir(cancel <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	dir := nodeID(in.NodeId)
	r, ok := f.place(dir)
	if !ok {
		return f.immutable()
	}
	return f.change(cancel, &in.InHeader, []held{{dir, name}}, func(ctx context.Context, uid uint32) error {
		err := f.ctl.Directory(uid, r.part, "mkdir", r.at(name), func() error {
			if _, err := f.entry(r, name); err == nil {
				return fmt.Errorf("%s is there already: %w", r.at(name), store.ErrExists)
			}
			n := r.below(name)
			if err := names.CheckDir(n.path); err != nil {
				return err
			}
			return f.keepDir(n)
		})
		if err != nil {
			return err
		}
		return f.answer(ctx, dir, name, out)
	})
}

// Rmdir implements fuse.RawFileSystem: it removes an image by its ID, or an empty place for names.
func (f *fsys) Rmdir(cancel <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	dir := nodeID(h.NodeId)
	r, ok := f.place(dir)
	if !ok && dir != idsNode {
		f.emptied(dir)
		return f.immutable()
	}
	return f.change(cancel, h, []held{{dir, name}}, func(ctx context.Context, uid uint32) error {
		if !ok {
			return f.removeImage(ctx, uid, name)
		}
		return f.ctl.Directory(uid, r.part, "rmdir", r.at(name), func() error { return f.removeDir(r, name) })
	})
}

// emptyingTime is how long after an attempt to remove something in an image's
// directory the directory cannot be removed.
const emptyingTime = 3 * time.Second

// emptied notes that somebody tried to remove something in an image's directory.
// Programs that remove trees go on after that and remove the directory itself in
// the end, which is not what makes an image go: rm -r must do no harm.
func (f *fsys) emptied(dir nodeID) {
	if dir.kind() != kindSynth || dir.synthType() != typeImage || dir.file() != 0 {
		return
	}
	if im := f.images.get(dir.slot()); im != nil {
		im.emptying.Store(time.Now().UnixNano())
	}
}

// removeImage removes the image whose directory in ids/ is removed.
func (f *fsys) removeImage(ctx context.Context, uid uint32, name string) error {
	if !store.IsHex64(name) {
		return fmt.Errorf("ids/%s: %w", name, syscall.ENOTDIR)
	}
	id := digest.NewDigestFromEncoded(digest.SHA256, name)
	if slot, ok := f.images.find(string(id)); ok {
		if im := f.images.get(slot); im != nil && time.Since(time.Unix(0, im.emptying.Load())) < emptyingTime {
			return f.ctl.Refuse(uid, "rmi", string(id),
				fmt.Errorf("ids/%s has files, which cannot be removed; rmdir alone removes the image, in a moment: %w", name, syscall.ENOTEMPTY))
		}
	}
	if err := f.ctl.Rmi(ctx, uid, []byte(id)); err != nil {
		return err
	}
	// Another store may have it still. To the kernel this directory is dead.
	f.drop(id)
	return nil
}

// removeDir removes an empty directory of names.
func (f *fsys) removeDir(r repo, name string) error {
	e, err := f.entry(r, name)
	if err != nil {
		return err
	}
	gone := repo{part: r.part, path: e.Dir}
	d := f.snap.Load().repoNames(gone)
	switch {
	case e.Dir == "":
		return fmt.Errorf("%s is a name, not a directory; rm removes it: %w", r.at(name), syscall.ENOTDIR)
	case d == nil:
		return fmt.Errorf("there is no %s: %w", r.at(name), store.ErrNotFound)
	case !d.Empty():
		return fmt.Errorf("%s has names in it: %w", r.at(name), syscall.ENOTEMPTY)
	case d.Digests() > 0:
		return fmt.Errorf("%s has %d repository digests, which are not listed; rm %s/@sha256:… or rmi removes them: %w",
			r.at(name), d.Digests(), r.at(name), syscall.ENOTEMPTY)
	}
	_ = f.keepDir(r)
	f.dropDir(gone)
	// To the kernel the directory is dead: one that is made in its place is another.
	if slot, ok := f.repos.find(gone.key()); ok {
		f.repos.forget(gone.key())
		f.repos.set(slot, &repo{part: gone.part, path: gone.path, removed: true})
	}
	return nil
}

// Rename implements fuse.RawFileSystem: it moves a name, or exchanges two.
func (f *fsys) Rename(cancel <-chan struct{}, in *fuse.RenameIn, oldName, newName string) fuse.Status {
	from, ok := f.place(nodeID(in.NodeId))
	to, ok2 := f.place(nodeID(in.Newdir))
	if !ok || !ok2 {
		return f.immutable()
	}
	at := []held{{nodeID(in.NodeId), oldName}, {nodeID(in.Newdir), newName}}
	return f.change(cancel, &in.InHeader, at, func(ctx context.Context, uid uint32) error {
		args := from.at(oldName) + " " + to.at(newName)
		m, err := f.planMove(from, to, oldName, newName, in.Flags)
		if err != nil {
			return f.ctl.Refuse(uid, "rename", args, err)
		}
		if len(m.refs) == 0 {
			f.moveLinks(m) // the kernel moves what it shows all the same
			return nil
		}
		_ = f.keepDir(from)
		return f.ctl.Rename(ctx, uid, from.part, args, m.refs, m.nodes[0].id, func() { f.moveLinks(m) })
	})
}

// move is a rename that can be.
type move struct {
	refs  map[string]string // none: it changes nothing
	nodes []movedLink
}

// movedLink is a link that the kernel is about to show under another name.
type movedLink struct {
	from, to       repo
	fromRef, toRef string
	id             digest.Digest
}

// planMove checks a rename.
func (f *fsys) planMove(from, to repo, oldName, newName string, flags uint32) (m move, err error) {
	if flags&^(unix.RENAME_NOREPLACE|unix.RENAME_EXCHANGE) != 0 {
		return m, fmt.Errorf("rename with flags %#x: %w", flags, store.ErrInvalid)
	}
	if from.part != to.part {
		return m, fmt.Errorf("%s and %s are of different stores: %w", from.dir(), to.dir(), syscall.EXDEV)
	}
	if flags&unix.RENAME_NOREPLACE != 0 {
		f.refresh() // another process may have made the name a moment ago
	}
	src, err := f.entry(from, oldName)
	if err != nil {
		return m, err
	}
	if src.Dir != "" {
		return m, fmt.Errorf("%s is a directory; move the names in it one by one: %w", from.at(oldName), syscall.EPERM)
	}
	if _, _, isDigest := splitDigest(src.Ref); isDigest {
		return m, fmt.Errorf("%s is a repository digest, which cannot be renamed: %w", from.at(oldName), syscall.EPERM)
	}
	ref, err := names.TagRef(to.path, newName)
	if err != nil {
		return m, err
	}
	dst, err := f.entry(to, newName)
	there := err == nil
	switch {
	case there && dst.Dir != "":
		return m, fmt.Errorf("%s is a directory: %w", to.at(newName), syscall.EISDIR)
	case there && flags&unix.RENAME_NOREPLACE != 0:
		return m, fmt.Errorf("%s is there already: %w", to.at(newName), store.ErrExists)
	case !there && flags&unix.RENAME_EXCHANGE != 0:
		return m, err
	}
	m.nodes = []movedLink{{from, to, src.Ref, ref, src.ID}}
	m.refs = map[string]string{src.Ref: ref}
	if flags&unix.RENAME_EXCHANGE != 0 {
		m.nodes = append(m.nodes, movedLink{to, from, ref, src.Ref, dst.ID})
		m.refs[ref] = src.Ref
	}
	if src.Ref == ref {
		m.refs = nil
	}
	return m, nil
}

// moveLinks lets the nodes of renamed links be those of their new names, as the
// kernel takes them to be: they may lead from another depth now.
func (f *fsys) moveLinks(m move) {
	slots := make([]uint64, len(m.nodes))
	shown := make([]bool, len(m.nodes))
	for i, l := range m.nodes {
		key := linkKey(l.from.link(l.fromRef), idTarget(l.from.levels(), l.id))
		slots[i], shown[i] = f.links.find(key)
		f.links.forget(key)
	}
	for i, l := range m.nodes {
		if !shown[i] {
			continue
		}
		target := idTarget(l.to.levels(), l.id)
		f.links.move(slots[i], linkKey(l.to.link(l.toRef), target), &link{target, f.snap.Load().at})
		if srv := f.conn.Load(); srv != nil {
			srv.InodeNotify(uint64(synthID(typeLink, slots[i], 0)), 0, 0) // takes no lock of a directory
		}
	}
}

// meant finds the image that the target of a new link in a directory means: a
// path from there, a reference or an ID, a path from the top of the mount, or an
// absolute one.
func (f *fsys) meant(ctx context.Context, st store.Store, r repo, target string) (digest.Digest, error) {
	if strings.HasPrefix(target, "/") {
		rel, ok := f.below(target)
		if !ok {
			return "", fmt.Errorf("%.300q is not below %s, where this tree is mounted: %w", target, f.dir, store.ErrNotFound)
		}
		return f.imageAt(rel)
	}
	id, err := f.imageAt(r.at(target))
	if err == nil || strings.HasPrefix(target, ".") {
		return id, err
	}
	if id, _, err = store.Resolve(ctx, st, target); err == nil {
		return id, nil
	}
	if id, e := f.imageAt(target); e == nil {
		return id, nil
	}
	return "", err
}
