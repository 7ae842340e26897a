package fusefs_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	digest "github.com/opencontainers/go-digest"

	"imagefs/fusefs"
	"imagefs/store"
	"imagefs/store/docker"
)

// aliased is a store whose engine calls images by other digests than their IDs.
type aliased struct {
	*docker.Store

	mu      sync.Mutex
	aliases map[digest.Digest]digest.Digest
}

func (a *aliased) Names(ctx context.Context) (store.Names, error) {
	n, err := a.Store.Names(ctx)
	a.mu.Lock()
	defer a.mu.Unlock()
	n.Aliases = a.aliases
	return n, err
}

// An image is found by its aliases in digests/ and ids/, for as long as it has them.
func TestAliases(t *testing.T) {
	s := newStore(t)
	one, two := load(t, s, "one", []string{"one:1"}), load(t, s, "two", []string{"two:1"})
	a, b := digest.FromString("a"), digest.FromString("b")
	st := &aliased{Store: s, aliases: map[digest.Digest]digest.Digest{a: one, b: two}}
	dir := mount(t, st, fusefs.Options{})
	leads := func(path string, want digest.Digest) bool {
		to, err := filepath.EvalSymlinks(filepath.Join(dir, path))
		return err == nil && filepath.Base(to) == want.Encoded()
	}
	for alias, want := range map[digest.Digest]digest.Digest{a: one, b: two} {
		for _, p := range []string{"digests/sha256/" + alias.Encoded(), "ids/" + alias.Encoded(), "ids/" + alias.Encoded()[:12]} {
			if !leads(p, want) {
				t.Errorf("%s does not lead to %s", p, want)
			}
		}
	}
	if got := list(t, dir, "digests/sha256"); !strings.Contains(got, a.Encoded()) || !strings.Contains(got, b.Encoded()) {
		t.Errorf("digests/sha256 has %s", got)
	}
	if got := list(t, dir, "ids"); strings.Contains(got, a.Encoded()) {
		t.Errorf("ids has %s", got)
	}
	if _, err := os.Lstat(filepath.Join(dir, "ids", a.Encoded()[:11])); !os.IsNotExist(err) {
		t.Errorf("a prefix of 11 digits: %v", err)
	}
	st.mu.Lock()
	st.aliases = map[digest.Digest]digest.Digest{a: two}
	st.mu.Unlock()
	// Another change makes the mount look.
	if err := s.Tag(t.Context(), "other:1", one); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the aliases are others", func() bool {
		_, err := os.Lstat(filepath.Join(dir, "digests/sha256", b.Encoded()))
		return os.IsNotExist(err) && leads("digests/sha256/"+a.Encoded(), two)
	})
}
