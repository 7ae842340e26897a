package storetest

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Fixtures returns the directory of real archives and stores: $IMAGEFS_FIXTURES,
// or ../shared/fixtures beside the repository. Without it the test is skipped;
// with CI=true it fails instead, unless IMAGEFS_FIXTURES=none says that it is meant.
func Fixtures(t testing.TB) string {
	t.Helper()
	dir, set := os.LookupEnv("IMAGEFS_FIXTURES")
	if dir == "none" {
		t.Skip("IMAGEFS_FIXTURES=none")
	}
	if !set || dir == "" {
		dir = filepath.Join(Root(t), "..", "shared", "fixtures")
	}
	if st, err := os.Stat(dir); err == nil && st.IsDir() {
		return dir
	}
	switch {
	case set && os.Getenv("IMAGEFS_FIXTURES") != "":
		t.Fatalf("IMAGEFS_FIXTURES: no directory %s", dir)
	case os.Getenv("CI") == "true":
		t.Fatalf("no fixtures in %s (set IMAGEFS_FIXTURES to their directory, or to none)", dir)
	}
	t.Skipf("no fixtures in %s (set IMAGEFS_FIXTURES to their directory)", dir)
	return ""
}

// Root returns the repository's directory.
func Root(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		up := filepath.Dir(dir)
		if up == dir {
			t.Fatal("the test does not run in the repository")
		}
		dir = up
	}
}

// Extract unpacks a tar, gzipped or not, into a directory of the test and
// returns it: files, directories and links, nothing outside.
func Extract(t testing.TB, file string) string {
	t.Helper()
	dir := t.TempDir()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var r io.Reader = f
	if strings.HasSuffix(file, "gz") {
		if r, err = gzip.NewReader(f); err != nil {
			t.Fatal(err)
		}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if err == io.EOF {
			return dir
		}
		if err == nil {
			err = extract(root, h, tr)
		}
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
	}
}

func extract(root *os.Root, h *tar.Header, r io.Reader) error {
	name := filepath.Clean(h.Name)
	if err := root.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	switch h.Typeflag {
	case tar.TypeDir:
		err := root.MkdirAll(name, 0o755)
		if errors.Is(err, fs.ErrExist) {
			err = nil
		}
		return err
	case tar.TypeSymlink:
		return root.Symlink(h.Linkname, name)
	case tar.TypeLink:
		return root.Link(filepath.Clean(h.Linkname), name)
	case tar.TypeReg:
		f, err := root.Create(name)
		if err != nil {
			return err
		}
		_, err = io.Copy(f, r)
		return errors.Join(err, f.Close())
	}
	return nil
}

// Packed returns the archives that a packed fixture (…-small-cases.tar.gz) holds, sorted.
func Packed(t testing.TB, fixture string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(Extract(t, filepath.Join(Fixtures(t), fixture)), "*"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%s: %d files, %v", fixture, len(files), err)
	}
	slices.Sort(files)
	return files
}
