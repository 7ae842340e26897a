package archive

import (
	_ "crypto/sha512" // blobs may have digests of this kind
	"fmt"
	"path"
	"regexp"
	"slices"
	"sync"

	digest "github.com/opencontainers/go-digest"

	"imagefs/store"
)

const (
	maxName  = 4096     // bytes of a name; longer ones cannot be meant
	maxNames = 16 << 20 // bytes of all names
	maxHops  = 40       // links on the way to a file, as in the kernel
)

// cleanName gives the name of a member its one form: relative, no ".", no
// ".."; "" for the archive's root. A name cannot leave the archive.
func cleanName(name string) string { return path.Clean("/" + name)[1:] }

// tree is the files and links of an archive by cleaned name. It is a map that
// knows links and has nothing to do with any file system.
type tree[T any] struct {
	files map[string]T
	links map[string]string // to the cleaned name
	count int
	bytes int
	limit int
	ended bool // the archive has the mark of its end
}

func newTree[T any](limit int) *tree[T] {
	return &tree[T]{files: map[string]T{}, links: map[string]string{}, limit: limit}
}

// seen counts a member of whatever kind.
func (t *tree[T]) seen(name, link string) error {
	t.count++
	t.bytes += len(name) + len(link)
	if t.count > t.limit {
		return fmt.Errorf("more than %d files, which is no image archive: %w", t.limit, store.ErrTooLarge)
	}
	if t.bytes > maxNames {
		return fmt.Errorf("names of more than %d bytes, which is no image archive: %w", maxNames, store.ErrTooLarge)
	}
	return nil
}

// The last member of a name counts.

func (t *tree[T]) addFile(name string, f T) {
	delete(t.links, name)
	t.files[name] = f
}

func (t *tree[T]) addLink(name, target string) {
	delete(t.files, name)
	t.links[name] = target
}

func (t *tree[T]) remove(name string) {
	delete(t.files, name)
	delete(t.links, name)
}

// resolve follows links to a file. false if nothing is there; an error for a chain without an end.
func (t *tree[T]) resolve(name string) (string, bool, error) {
	name = cleanName(name)
	for range maxHops + 1 {
		if _, ok := t.files[name]; ok {
			return name, true, nil
		}
		next, ok := t.follow(name)
		if !ok {
			return name, false, nil
		}
		name = next
	}
	return "", false, fmt.Errorf("%.200q: a link that leads in a circle or through more than %d others: %w", name, maxHops, store.ErrCorrupt)
}

// follow replaces the first component of a name that is a link.
func (t *tree[T]) follow(name string) (string, bool) {
	if len(t.links) == 0 {
		return "", false
	}
	for i := 0; i <= len(name); i++ {
		if i < len(name) && name[i] != '/' {
			continue
		}
		if to, ok := t.links[name[:i]]; ok {
			return cleanName(to + name[i:]), true
		}
	}
	return "", false
}

var legacyName = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^([0-9a-f]{64})/json$`) })

// legacy lists <id> of all names <id>/json, sorted. Newer archives have such
// names too, and what says that they are newer comes last: one without an end
// is no legacy archive, but a newer one that was cut off.
func (t *tree[T]) legacy() ([]string, error) {
	var ids []string
	add := func(name string) {
		if m := legacyName().FindStringSubmatch(name); m != nil {
			ids = append(ids, m[1])
		}
	}
	for n := range t.files {
		add(n)
	}
	for n := range t.links {
		add(n)
	}
	slices.Sort(ids)
	if len(ids) > 0 && !t.ended {
		return nil, errTruncated
	}
	return ids, nil
}

// blobName is where an OCI layout keeps a blob.
func blobName(d digest.Digest) string {
	return "blobs/" + d.Algorithm().String() + "/" + d.Encoded()
}

// digestOf returns the digest that a name claims for its content: of
// blobs/<alg>/<hex> and sha256:<hex>; "" if it claims none.
func digestOf(name string) digest.Digest {
	d := digest.Digest(path.Base(name))
	if dir, alg := path.Split(path.Dir(cleanName(name))); dir == "blobs/" {
		d = digest.Digest(alg + ":" + path.Base(name))
	}
	if d.Validate() != nil {
		return ""
	}
	return d
}

// algorithmOf returns the algorithm by which a file of this name is hashed.
func algorithmOf(name string) digest.Algorithm {
	if d := digestOf(name); d != "" {
		return d.Algorithm()
	}
	return digest.SHA256
}
