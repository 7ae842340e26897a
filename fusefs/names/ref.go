package names

import (
	"fmt"
	"strings"

	"imagefs/store"
)

// maxRepo bounds a repository's name in bytes, as package reference does.
const maxRepo = 255

// TagRef returns the familiar tag reference that a new name in a directory
// stands for: "1.25" in nginx, ":1.25" in nginx and "nginx:1.25" above it are all
// nginx:1.25. store.ErrInvalid, wrapped, for what can name no image there.
func TagRef(dir, name string) (string, error) {
	ref := dir + ":" + name
	switch i := strings.LastIndexByte(name, ':'); {
	case i == 0:
		ref = dir + name
	case i > 0:
		ref = join(dir, name)
	}
	if strings.HasPrefix(ref, ":") {
		return "", fmt.Errorf("%.200q is a tag without a repository; make images/REPO/TAG, or images/REPO:TAG: %w", name, store.ErrInvalid)
	}
	f, err := store.FamiliarTag(ref)
	if err != nil {
		return "", err
	}
	if f != ref {
		return "", fmt.Errorf("%.200q is %s, and that is its place: %w", ref, f, store.ErrInvalid)
	}
	return ref, nil
}

// CheckDir fails, with store.ErrInvalid wrapped, for a path that is neither a
// repository nor leads to one.
func CheckDir(path string) error {
	if len(path) > maxRepo {
		return fmt.Errorf("the repository %.60q… has more than %d bytes: %w", path, maxRepo, store.ErrInvalid)
	}
	// A registry's name alone is none of a repository.
	for _, ref := range []string{path + ":t", path + "/r:t"} {
		if f, err := store.FamiliarTag(ref); err == nil && f == ref {
			return nil
		}
	}
	return fmt.Errorf("%.200q cannot be a repository, nor lead to one: %w", path, store.ErrInvalid)
}

// Empty tells whether the directory lists nothing.
func (d *Dir) Empty() bool { return len(d.subs) == 0 && len(d.tags) == 0 }

// Digests is the number of repository digests in the directory.
func (d *Dir) Digests() int { return len(d.digests) }
