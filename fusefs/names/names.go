// Package names maps image references to paths below images/ and back. It is
// pure: it reads no store and knows no file system.
//
// Repositories keep Docker's familiar form and become directories, a tag is an
// entry of its repository's directory:
//
//	nginx:1.25                 nginx/1.25
//	localhost:5000/x/y:v1      localhost:5000/x/y/v1
//
// Besides what is listed, these names resolve:
//
//	nginx/:1.25                always the tag, also where a deeper repository has the plain name
//	nginx/@sha256:…            a repository digest; also @sha256-…
//	nginx:1.25, nginx@sha256:… in the directory that the repository's own directory is in
//
// No repository's component and no tag can have ":" or "@" in these places, but
// for a registry's port: a directory goes before a tag.
package names

import (
	"slices"
	"strings"

	digest "github.com/opencontainers/go-digest"
)

// Tree is the directory tree of all references. Immutable.
type Tree struct {
	dirs map[string]*Dir
}

// Dir is a directory: a repository, or what leads to deeper ones, or both. Immutable.
type Dir struct {
	path    string
	tree    *Tree
	subs    map[string]struct{}
	tags    map[string]digest.Digest
	digests map[digest.Digest]digest.Digest // manifest → image ID
}

// Entry is what a name stands for: a directory, or an image.
type Entry struct {
	Name string
	Dir  string        // path of the directory, "" if it is an image
	ID   digest.Digest // the image's ID, "" if it is a directory
	Ref  string        // the image's reference, "" if it is a directory
}

// New builds the tree of familiar tag references ("repo:tag") and digest
// references ("repo@sha256:…"). Others are left out. dirs are paths of
// directories that are there too, with nothing in them if nothing else puts it there.
func New(tags, digests map[string]digest.Digest, dirs ...string) *Tree {
	t := &Tree{dirs: map[string]*Dir{}}
	t.dir("")
	for ref, id := range tags {
		if i := strings.LastIndexByte(ref, ':'); i > 0 && i+1 < len(ref) && !strings.Contains(ref[i:], "/") {
			t.dir(ref[:i]).tags[ref[i+1:]] = id
		}
	}
	for ref, id := range digests {
		if repo, d, ok := strings.Cut(ref, "@"); ok && repo != "" {
			t.dir(repo).digests[digest.Digest(d)] = id
		}
	}
	for _, path := range dirs {
		t.dir(path)
	}
	return t
}

// dir makes a directory and those that lead to it.
func (t *Tree) dir(path string) *Dir {
	if d := t.dirs[path]; d != nil {
		return d
	}
	d := &Dir{path: path, tree: t, subs: map[string]struct{}{}, tags: map[string]digest.Digest{}, digests: map[digest.Digest]digest.Digest{}}
	t.dirs[path] = d
	if path != "" {
		up, base := split(path)
		t.dir(up).subs[base] = struct{}{}
	}
	return d
}

func split(path string) (dir, base string) {
	i := strings.LastIndexByte(path, '/')
	return path[:max(i, 0)], path[i+1:]
}

func join(dir, base string) string {
	if dir == "" {
		return base
	}
	return dir + "/" + base
}

// Dir returns the directory at a path, "" for the root; nil if there is none.
func (t *Tree) Dir(path string) *Dir { return t.dirs[path] }

// Path returns the directory's path, "" for the root.
func (d *Dir) Path() string { return d.path }

// Depth is the number of components of the directory's path.
func (d *Dir) Depth() int {
	if d.path == "" {
		return 0
	}
	return 1 + strings.Count(d.path, "/")
}

// List returns what a listing of the directory shows, sorted by name.
func (d *Dir) List() []Entry {
	out := make([]Entry, 0, len(d.subs)+len(d.tags))
	for s := range d.subs {
		out = append(out, Entry{Name: s, Dir: join(d.path, s)})
	}
	for tag, id := range d.tags {
		out = append(out, Entry{Name: d.TagName(tag), ID: id, Ref: d.path + ":" + tag})
	}
	slices.SortFunc(out, func(a, b Entry) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// TagName returns the name under which a tag is listed.
func (d *Dir) TagName(tag string) string {
	if _, taken := d.subs[tag]; taken {
		return ":" + tag
	}
	return tag
}

// Subdirs is the number of directories in it.
func (d *Dir) Subdirs() int { return len(d.subs) }

// Lookup finds a name, listed or not.
func (d *Dir) Lookup(name string) (Entry, bool) {
	if _, ok := d.subs[name]; ok {
		return Entry{Name: name, Dir: join(d.path, name)}, true
	}
	if id, ok := d.tags[name]; ok {
		return Entry{Name: name, ID: id, Ref: d.path + ":" + name}, true
	}
	if tag, ok := strings.CutPrefix(name, ":"); ok {
		id, ok := d.tags[tag]
		return Entry{Name: name, ID: id, Ref: d.path + ":" + tag}, ok
	}
	if base, dg, ok := strings.Cut(name, "@"); ok {
		repo := d
		if base != "" {
			repo = d.tree.dirs[join(d.path, base)]
		}
		if repo == nil {
			return Entry{}, false
		}
		if alg, hex, ok := strings.Cut(dg, "-"); ok {
			dg = alg + ":" + hex
		}
		id, ok := repo.digests[digest.Digest(dg)]
		return Entry{Name: name, ID: id, Ref: repo.path + "@" + dg}, ok
	}
	if i := strings.LastIndexByte(name, ':'); i > 0 {
		if repo := d.tree.dirs[join(d.path, name[:i])]; repo != nil {
			id, ok := repo.tags[name[i+1:]]
			return Entry{Name: name, ID: id, Ref: repo.path + ":" + name[i+1:]}, ok
		}
	}
	return Entry{}, false
}

// Stale is a name that may stand for something else in another tree.
type Stale struct{ Dir, Name string }

// Unkept tells whether the name of a tag or digest is to be looked up each time:
// it is a form that need not be listed, and Diff does not tell of it.
func Unkept(name string) bool { return strings.ContainsAny(name, ":@") }

// Diff calls yield with each name of old that is not the same in t, but for
// those that are Unkept.
func (t *Tree) Diff(old *Tree, yield func(Stale)) {
	for path, was := range old.dirs {
		now := t.dirs[path]
		up, base := split(path)
		if now == nil {
			yield(Stale{up, base})
		}
		for tag, id := range was.tags {
			if now == nil || now.tags[tag] != id || now.TagName(tag) != was.TagName(tag) {
				yield(Stale{path, tag})
			}
		}
		if now == nil {
			continue
		}
		// A new repository may take a tag's plain name.
		for s := range now.subs {
			if _, had := was.subs[s]; !had {
				yield(Stale{path, s})
			}
		}
	}
}

// Relisted calls yield with the path of each directory of t that lists other names than in old.
func (t *Tree) Relisted(old *Tree, yield func(path string)) {
	for path, now := range t.dirs {
		was := old.dirs[path]
		if was == nil || !sameKeys(now.subs, was.subs) || !sameKeys(now.tags, was.tags) {
			yield(path)
		}
	}
}

func sameKeys[V any](a, b map[string]V) bool {
	if len(a) != len(b) {
		return false
	}
	for k := range a {
		if _, ok := b[k]; !ok {
			return false
		}
	}
	return true
}
