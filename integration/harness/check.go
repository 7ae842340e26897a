package harness

import (
	"archive/tar"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// CheckImage compares one image of a mounted tree with what lies on disk: its
// root file systems with the kernel's overlay mounts of the same layers, each
// layer's tar with its diff ID, its config with its ID.
func CheckImage(t testing.TB, m *Mount, img DiskImage) {
	t.Helper()
	dir := m.Path("ids", strings.TrimPrefix(img.ID, "sha256:"))
	config, err := os.ReadFile(filepath.Join(dir, "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprintf("sha256:%x", sha256.Sum256(config)); got != img.ID {
		t.Errorf("config.json hashes to %s, want %s", got, img.ID)
	}
	layers, err := os.ReadDir(filepath.Join(dir, "layers"))
	if err != nil {
		t.Fatal(err)
	}
	if len(layers) != len(img.Dirs) {
		t.Fatalf("%d layers, want %d", len(layers), len(img.Dirs))
	}
	rootfs := filepath.Join(dir, "rootfs")
	if len(img.Dirs) == 0 {
		if e, err := os.ReadDir(rootfs); err != nil || len(e) != 0 {
			t.Errorf("rootfs of no layers: %v %v", e, err)
		}
		return
	}
	chains := ChainIDs(img.DiffIDs)
	// In the last root file system everything is read; below it the same inodes once.
	kernels, ours := &Lister{Memo: true}, &Lister{Memo: true}
	for n, l := range layers {
		layer := filepath.Join(dir, "layers", l.Name())
		if want := fmt.Sprintf("%0*d", len(strconv.Itoa(len(layers)-1)), n); l.Name() != want {
			t.Errorf("layer %d is called %s", n, l.Name())
		}
		checkValue(t, filepath.Join(layer, "diffid"), img.DiffIDs[n])
		checkValue(t, filepath.Join(layer, "chainid"), chains[n])
		checkTar(t, layer, img.DiffIDs[n])
		if n == len(layers)-1 {
			if to, err := os.Readlink(filepath.Join(layer, "rootfs")); err != nil || to != "../../rootfs" {
				t.Errorf("the last layer's rootfs: %q %v, want a link to ../../rootfs", to, err)
			}
			continue
		}
		mnt, unmount := kernelMount(t, img.Dirs[:n+1]...)
		Same(t, fmt.Sprintf("layers/%s/rootfs", l.Name()), img.trim(kernels.Manifest(t, mnt)), img.trim(ours.Manifest(t, filepath.Join(layer, "rootfs"))))
		unmount()
	}
	mnt, unmount := kernelMount(t, img.Dirs...)
	defer unmount()
	Same(t, "rootfs", img.trim(ReadManifest(t, mnt)), img.trim(ReadManifest(t, rootfs)))
	if s := Scripts(); s != "" {
		script := filepath.Join(s, "manifest.py")
		python := "/usr/bin/python3" // not one that wraps it, which would take most of the time
		if _, err := os.Stat(python); err != nil {
			python = "python3"
		}
		a, b := Run(t, python, script, mnt), Run(t, python, script, rootfs)
		Same(t, "manifest.py of rootfs", img.trim(Lines(a)), img.trim(Lines(b)))
	}
}

// trim leaves out the line of the root where nobody knows what it should be.
func (i DiskImage) trim(m Manifest) Manifest {
	if !i.AnyRoot {
		return m
	}
	return slices.DeleteFunc(m, func(line string) bool {
		return strings.HasPrefix(line, `"/" `) || strings.HasPrefix(line, `b'/' `)
	})
}

func checkValue(t testing.TB, file, want string) {
	t.Helper()
	if b, err := os.ReadFile(file); err != nil || string(b) != want+"\n" {
		t.Errorf("%s: %q %v, want %q", file, b, err, want)
	}
}

// checkTar reads a layer's tar: it must hash to the diff ID, have the size
// that stat told, and list the paths that diff/ shows.
func checkTar(t testing.TB, layer, diffID string) {
	t.Helper()
	name := filepath.Join(layer, "layer.tar")
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.New()
	n, err := io.Copy(sum, f)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	if got := fmt.Sprintf("sha256:%x", sum.Sum(nil)); got != diffID || n != st.Size() {
		t.Errorf("%s: %s and %d bytes, want %s and %d", name, got, n, diffID, st.Size())
	}
	want, err := tarPaths(name)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	var got []string
	err = filepath.WalkDir(filepath.Join(layer, "diff"), func(p string, _ os.DirEntry, err error) error {
		got = append(got, strings.TrimPrefix(p, filepath.Join(layer, "diff")))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(got)
	if !slices.Equal(want, got) {
		Same(t, layer+"/diff", want, got)
	}
}

// tarPaths returns the paths that a tar makes, those of parents that it does
// not name among them, sorted. What lies in a directory that is a whiteout
// (AUFS had those) is not a path.
func tarPaths(name string) ([]string, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	seen := map[string]bool{"": true}
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		for p := path.Join("/", h.Name); p != "/"; p = path.Dir(p) {
			if strings.HasPrefix(path.Base(p), ".wh.") && !strings.HasPrefix(path.Base(p), ".wh..wh.") {
				for q := range seen {
					if strings.HasPrefix(q, p+"/") {
						delete(seen, q)
					}
				}
			}
			seen[p] = true
		}
	}
	out := make([]string, 0, len(seen))
	for p := range seen {
		out = append(out, p)
	}
	slices.Sort(out)
	return out, nil
}

// kernelMount is KernelMount for less than a test's time.
func kernelMount(t testing.TB, dirs ...string) (string, func()) {
	t.Helper()
	mnt := overlayMount(t, dirs)
	return mnt, func() {
		if err := unix.Unmount(mnt, 0); err != nil {
			t.Errorf("unmount %s: %v", mnt, err)
			_ = unix.Unmount(mnt, unix.MNT_DETACH)
		}
	}
}
