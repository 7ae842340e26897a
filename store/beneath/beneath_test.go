package beneath

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestNothingLeadsOut(t *testing.T) {
	top := t.TempDir()
	secret := filepath.Join(top, "secret")
	must(t, os.WriteFile(secret, []byte("s"), 0o600))
	must(t, os.MkdirAll(filepath.Join(top, "root/d"), 0o755))
	must(t, os.Symlink(secret, filepath.Join(top, "root/link")))
	must(t, os.Symlink("..", filepath.Join(top, "root/up")))
	must(t, os.Symlink("d", filepath.Join(top, "root/alias")))
	r, err := Open(filepath.Join(top, "root"))
	must(t, err)
	defer r.Close()
	for _, p := range []string{"link", "../secret", "up/secret", "d/../../secret", secret, "alias/x"} {
		if _, err := r.Read(p, 10); err == nil {
			t.Errorf("read %s", p)
		}
		if err := r.Write(p+"x", []byte("w"), 0o600); err == nil && p != "link" {
			t.Errorf("wrote %s", p)
		}
		if err := r.Rename("d", p+"/y"); err == nil {
			t.Errorf("renamed to %s", p)
		}
	}
	must(t, r.Write("link", []byte("mine"), 0o600)) // replaces the link, not what it points to
	if b, _ := os.ReadFile(secret); string(b) != "s" {
		t.Error("written through a link")
	}
	must(t, os.Symlink(top, filepath.Join(top, "root/d/out")))
	must(t, r.RemoveAll("d"))
	if _, err := os.Stat(secret); err != nil {
		t.Error("removed through a link")
	}
}

func TestFiles(t *testing.T) {
	r, err := Open(t.TempDir())
	must(t, err)
	defer r.Close()
	must(t, r.Mkdir("a", 0o710))
	must(t, r.Mkdir("a", 0o700))
	if st, _ := r.Stat("a"); st.Mode&0o777 != 0o710 {
		t.Errorf("mode %o", st.Mode)
	}
	must(t, r.Write("a/f", []byte("one"), 0o644))
	must(t, r.Write("a/f", []byte("two"), 0o600))
	if b, err := r.Read("a/f", 3); err != nil || string(b) != "two" {
		t.Errorf("%q %v", b, err)
	}
	if _, err := r.Read("a/f", 2); !errors.Is(err, ErrTooLarge) {
		t.Error(err)
	}
	if names, _ := r.List("a"); len(names) != 1 {
		t.Errorf("left behind: %v", names)
	}
	must(t, unix.Mkfifo(filepath.Join(r.Name(), "fifo"), 0o600))
	if _, err := r.Read("fifo", 10); err == nil {
		t.Error("read a fifo")
	}
	must(t, r.Remove("nothing"))
	must(t, r.RemoveAll("a"))
	if r.Exists("a") {
		t.Error("still there")
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
