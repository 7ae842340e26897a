package docker

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"imagefs/store"
)

func TestState(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	s, err := Open(dir, Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if st := s.State(); st.Fixed != nil || st.Daemon {
		t.Errorf("a store of one's own: %+v", st)
	}
	r, err := Open(dir, Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if st := r.State(); !errors.Is(st.Fixed, store.ErrReadOnly) || st.Daemon {
		t.Errorf("opened read-only: %+v", st)
	}
	// A daemon keeps its databases locked.
	if err := os.MkdirAll(filepath.Join(dir, "volumes"), 0o700); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(dir, daemonFiles[0]))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := flock(f, unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if st := s.State(); !errors.Is(st.Fixed, store.ErrReadOnly) || !st.Daemon {
		t.Errorf("with a daemon: %+v", st)
	}
}
