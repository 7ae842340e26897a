package fusefs

import (
	"maps"
	"slices"
	"strings"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
	digest "github.com/opencontainers/go-digest"

	"imagefs/fusefs/names"
)

// repoNames returns the names in a directory of images/, nil if it is not there.
func (s *snapshot) repoNames(r repo) *names.Dir {
	if r.removed {
		return nil
	}
	t := s.treeOf(r.part)
	if t == nil {
		return nil
	}
	return t.Dir(r.path)
}

// link is what the link of a reference in the directory is found by.
func (r repo) link(ref string) string { return r.dir() + "/" + r.path + "/" + ref }

// levels is how deep below the top of the mount the directory is.
func (r repo) levels() int {
	n := r.depth()
	if r.path != "" {
		n += 1 + strings.Count(r.path, "/")
	}
	return n
}

// repoLink is the link of an image's name.
func (f *fsys) repoLink(s *snapshot, r repo, e names.Entry) (nodeID, error) {
	return f.linkNode(r.link(e.Ref), idTarget(r.levels(), e.ID), s.at)
}

// repoChild finds a name in a directory of images/.
func (f *fsys) repoChild(r repo, name string) (nodeID, error) {
	s := f.snap.Load()
	d := s.repoNames(r)
	if d == nil {
		return 0, syscall.ENOENT
	}
	e, ok := d.Lookup(name)
	if !ok {
		return 0, syscall.ENOENT
	}
	if e.ID == "" {
		return f.repoDir(repo{part: r.part, path: e.Dir})
	}
	return f.repoLink(s, r, e)
}

func (f *fsys) repoDir(r repo) (nodeID, error) {
	slot, _, err := f.repos.intern(r.key(), maxSynthSlot, func(uint64) *repo { return &r })
	return synthID(typeRepo, slot, 0), err
}

func (f *fsys) repoList(r repo) ([]dirent, error) {
	s := f.snap.Load()
	d := s.repoNames(r)
	if d == nil {
		if r.path == "" {
			return nil, nil
		}
		return nil, syscall.ENOENT
	}
	var out []dirent
	for _, e := range d.List() {
		de := dirent{name: e.Name, mode: fuse.S_IFDIR}
		var err error
		if e.ID == "" {
			de.id, err = f.repoDir(repo{part: r.part, path: e.Dir})
		} else {
			de.mode = fuse.S_IFLNK
			de.id, err = f.repoLink(s, r, e)
		}
		if err != nil {
			return nil, err
		}
		out = append(out, de)
	}
	return out, nil
}

// splitDigest takes the digest of a digest reference apart.
func splitDigest(ref string) (alg, hex string, ok bool) {
	_, d, ok := strings.Cut(ref, "@")
	if !ok {
		return "", "", false
	}
	return strings.Cut(d, ":")
}

func (f *fsys) algChild(name string) (nodeID, error) {
	if f.snap.Load().digests[name] == nil {
		return 0, syscall.ENOENT
	}
	slot, _, err := f.algs.intern(name, maxSynthSlot, func(uint64) *string { return &name })
	return synthID(typeAlg, slot, 0), err
}

func (f *fsys) algList() ([]dirent, error) {
	var out []dirent
	for _, alg := range slices.Sorted(maps.Keys(f.snap.Load().digests)) {
		id, err := f.algChild(alg)
		if err != nil {
			continue // it went this moment
		}
		out = append(out, dirent{name: alg, id: id, mode: fuse.S_IFDIR})
	}
	return out, nil
}

func (f *fsys) digestChild(alg, hex string) (nodeID, error) {
	s := f.snap.Load()
	id, ok := s.digests[alg][hex]
	if !ok {
		return 0, syscall.ENOENT
	}
	return f.linkNode("digests/"+alg+"/"+hex, idTarget(2, id), s.at)
}

func (f *fsys) digestList(alg string) ([]dirent, error) {
	s := f.snap.Load()
	var out []dirent
	for _, hex := range slices.Sorted(maps.Keys(s.digests[alg])) {
		n, err := f.linkNode("digests/"+alg+"/"+hex, idTarget(2, s.digests[alg][hex]), s.at)
		if err != nil {
			return nil, err
		}
		out = append(out, dirent{name: hex, id: n, mode: fuse.S_IFLNK})
	}
	return out, nil
}

// idsChild finds an image by its ID, or by a prefix of it or an alias as a link.
func (f *fsys) idsChild(name string) (nodeID, error) {
	s := f.snap.Load()
	if id := digest.Digest("sha256:" + name); s.has(id) {
		im, err := f.image(id)
		if err != nil {
			return 0, err
		}
		return synthID(typeImage, im.slot, 0), nil
	}
	if id, ok := s.prefix(name); ok {
		return f.linkNode("ids/"+name, id.Encoded(), s.at)
	}
	return 0, syscall.ENOENT
}

func (f *fsys) idsList() ([]dirent, error) {
	s := f.snap.Load()
	out := make([]dirent, 0, len(s.ids))
	for _, id := range s.ids {
		// An image is looked at when somebody goes into it, not when it is listed.
		out = append(out, dirent{name: id.Encoded(), mode: fuse.S_IFDIR, costly: true})
	}
	return out, nil
}
