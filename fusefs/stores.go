package fusefs

import (
	"context"
	"slices"
	"strings"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"imagefs/fusefs/names"
	"imagefs/store"
)

// stores/ shows what each store of a mount of several has. Its links lead into
// ids/, as those of images/ do: an image has one directory, whoever has it.

// partView is what one of several stores had at one moment. Immutable.
type partView struct {
	name, kind, path string
	names            store.Names
	dirs             []string // directories of names that are kept
	tree             *names.Tree
	err              string // what is wrong with it, one line; "" if nothing is
}

// same tells whether two looks at a store saw the same.
func (p *partView) same(o *partView) bool {
	return p.name == o.name && p.err == o.err && slices.Equal(p.dirs, o.dirs) && p.names.Equal(o.names)
}

// lookParts asks the stores that the store is made of, if there are several.
// What is as it was in last is taken from there; all if all is. kept are the directories that are kept.
func (f *fsys) lookParts(last *snapshot, kept map[string][]string) (out []*partView, same bool) {
	p, ok := f.st.(store.Parter)
	if !ok {
		return nil, true
	}
	parts := p.Parts()
	if len(parts) < 2 {
		return nil, last == nil || len(last.parts) == 0
	}
	same = last != nil && len(last.parts) == len(parts)
	for i, part := range parts {
		v := &partView{name: part.Name, kind: part.Kind, path: part.Path, dirs: kept[part.Name]}
		var err error
		if v.names, err = part.Store.Names(f.life); err == nil {
			_, err = part.Store.IDs(f.life)
		}
		if err != nil {
			v.err = strings.ReplaceAll(err.Error(), "\n", "; ")
		}
		if last != nil {
			if was := last.part(v.name); was != nil && was.same(v) {
				same = same && last.parts[i] == was
				out = append(out, was)
				continue
			}
		}
		v.tree = names.New(v.names.Tags, v.names.Digests, v.dirs...)
		out = append(out, v)
		same = false
	}
	return out, same
}

// part returns the view of a store, nil if the mount is not of several or has none of that name.
func (s *snapshot) part(name string) *partView {
	for _, p := range s.parts {
		if p.name == name {
			return p
		}
	}
	return nil
}

// treeOf returns the tree of names of a store, nil if there is no such store; with "" that of all.
func (s *snapshot) treeOf(part string) *names.Tree {
	if part == "" {
		return s.tree
	}
	if p := s.part(part); p != nil {
		return p.tree
	}
	return nil
}

// repo is a directory of images/, or of stores/<part>/images/.
type repo struct {
	part, path string
	removed    bool // by rmdir: another may be in its place, and somebody still in it
}

// key is what the repo is found by. A NUL byte is in no path.
func (r repo) key() string {
	if r.part == "" {
		return r.path
	}
	return "\x00" + r.part + "\x00" + r.path
}

// dir is the directory's path in the mount, without the repository.
func (r repo) dir() string {
	if r.part == "" {
		return "images"
	}
	return "stores/" + r.part + "/images"
}

// depth is the number of components of dir.
func (r repo) depth() int { return 1 + strings.Count(r.dir(), "/") }

// The files of a store's directory; the node of one carries its index. 0 is the directory.
const (
	storeKind = 1 + iota
	storePath
	storeDiff = 1 << 8 // the directory diff/
)

var storeFiles = []string{storeKind: "kind", storePath: "path"}

// storeDir is the node of a store's directory.
func (f *fsys) storeDir(name string, file int) (nodeID, error) {
	slot, _, err := f.parts.intern(name, maxSynthSlot, func(uint64) *string { return &name })
	return synthID(typeStore, slot, file), err
}

// storeNode returns the node of a store's directory, 0 if nobody ever looked it up.
func (f *fsys) storeNode(name string) nodeID {
	if slot, ok := f.parts.find(name); ok {
		return synthID(typeStore, slot, 0)
	}
	return 0
}

// partOf returns the store that a node is of.
func (f *fsys) partOf(id nodeID) (*partView, error) {
	if name := f.parts.get(id.slot()); name != nil {
		if p := f.snap.Load().part(*name); p != nil {
			return p, nil
		}
	}
	return nil, syscall.ENOENT
}

// file returns the content of a file of the store's directory.
func (p *partView) file(i int) []byte {
	switch i {
	case storeKind:
		return value(p.kind)
	case storePath:
		return value(p.path)
	}
	return nil
}

// storesChild finds a store by its name.
func (f *fsys) storesChild(name string) (nodeID, error) {
	if f.snap.Load().part(name) == nil {
		return 0, syscall.ENOENT
	}
	return f.storeDir(name, 0)
}

func (f *fsys) storesList() ([]dirent, error) {
	var out []dirent
	for _, p := range f.snap.Load().parts {
		id, err := f.storeDir(p.name, 0)
		if err != nil {
			return nil, err
		}
		out = append(out, dirent{name: p.name, id: id, mode: fuse.S_IFDIR})
	}
	return out, nil
}

// storeList lists a store's directory.
func (f *fsys) storeList(dir nodeID) ([]dirent, error) {
	p, err := f.partOf(dir)
	if err == nil && dir.file() == storeDiff {
		return nil, nil
	}
	if err != nil || dir.file() != 0 {
		return nil, syscall.ENOTDIR
	}
	images, err := f.repoDir(repo{part: p.name})
	if err != nil {
		return nil, err
	}
	out := []dirent{
		{name: "diff", id: synthID(typeStore, dir.slot(), storeDiff), mode: fuse.S_IFDIR},
		{name: "images", id: images, mode: fuse.S_IFDIR},
	}
	for i := storeKind; i < len(storeFiles); i++ {
		if p.file(i) != nil {
			out = append(out, dirent{name: storeFiles[i], id: synthID(typeStore, dir.slot(), i), mode: fuse.S_IFREG})
		}
	}
	if p.err != "" {
		id, err := f.storeError(p)
		if err != nil {
			return nil, err
		}
		out = append(out, dirent{name: "error", id: id, mode: fuse.S_IFREG, costly: true})
	}
	return out, nil
}

// storeChild finds a name in a store's directory.
func (f *fsys) storeChild(ctx context.Context, dir nodeID, name string) (nodeID, error) {
	p, err := f.partOf(dir)
	if err != nil {
		return 0, err
	}
	if dir.file() == storeDiff {
		return f.diffChild(ctx, p.name, name)
	}
	if dir.file() != 0 {
		return 0, syscall.ENOTDIR
	}
	switch {
	case name == "diff":
		return synthID(typeStore, dir.slot(), storeDiff), nil
	case name == "images":
		return f.repoDir(repo{part: p.name})
	case name == "error" && p.err != "":
		return f.storeError(p)
	}
	for i := storeKind; i < len(storeFiles); i++ {
		if storeFiles[i] == name && p.file(i) != nil {
			return synthID(typeStore, dir.slot(), i), nil
		}
	}
	return 0, syscall.ENOENT
}

// storeError is the node of what is wrong with a store: another one for each text.
func (f *fsys) storeError(p *partView) (nodeID, error) {
	return f.volatile(&f.partTexts, &volatileText{text: value(p.err), mtime: f.started, key: "store/" + p.name + "/" + p.err})
}

// storeStat tells what a node of a store's directory is.
func (f *fsys) storeStat(n synth) (synth, error) {
	p, err := f.partOf(n.id)
	if err != nil {
		return n, err
	}
	switch n.id.file() {
	case 0:
		n.nlink = 4
		return n, nil
	case storeDiff:
		return n, nil
	}
	text := p.file(n.id.file())
	if text == nil {
		return n, syscall.ENOENT
	}
	n.mode, n.nlink, n.size, n.valid = fileMode, 1, uint64(len(text)), forever
	return n, nil
}

// forgetParts makes the kernel forget names of the stores that are no longer so.
func (f *fsys) forgetParts(now, old *snapshot) {
	for _, p := range now.parts {
		was := old.part(p.name)
		if was == nil || was == p {
			continue
		}
		p.tree.Diff(was.tree, func(s names.Stale) { f.forgetEntry(f.repoNode(repo{part: p.name, path: s.Dir}), s.Name) })
		if p.err != was.err {
			f.forgetEntry(f.storeNode(p.name), "error")
		}
	}
}

// relistParts makes the kernel forget the listings of stores/ that are others now.
func (f *fsys) relistParts(now, old *snapshot) {
	if len(now.parts) != len(old.parts) {
		f.forgetList(rootNode)
		f.forgetList(storesNode)
	}
	for _, p := range now.parts {
		was := old.part(p.name)
		if was == nil || was == p {
			continue
		}
		p.tree.Relisted(was.tree, func(path string) { f.forgetList(f.repoNode(repo{part: p.name, path: path})) })
		if (p.err == "") != (was.err == "") {
			f.forgetList(f.storeNode(p.name))
		}
	}
}
