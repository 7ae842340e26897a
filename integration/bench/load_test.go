package bench

import (
	"archive/tar"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"imagefs/integration/harness"
)

const loading = "load"

// The contestants of loading.
const (
	dockerLoad = "docker load"
	tarX       = "tar x"
	tarSync    = "tar x, synced"
)

// loads measures how long it takes to take in an archive that is in the page
// cache: `imagefs load`, which is durable when it returns, `docker load`, which
// is not, and unpacking the layers with tar, with and without syncing.
func (b *bench) loads(n int) {
	layers := layersOf(b.t, b.archive)
	var d *harness.Docker
	if _, err := exec.LookPath("dockerd"); err != nil {
		b.missing = append(b.missing, "dockerd is not installed")
	} else {
		d = harness.StartDocker(b.t, filepath.Join(b.t.TempDir(), "docker"))
		defer d.Stop(b.t)
	}
	for range n {
		b.warmUp(layers)
		s := harness.NewStore(b.t)
		b.add(loading, warm, ours, b.time(func() { s.Run(b.t, "load", "-i", b.archive) }))
		b.remove(s.Store)
		if d != nil {
			b.warmUp(layers)
			b.add(loading, warm, dockerLoad, b.time(func() { d.Run(b.t, "load", "-i", b.archive) }))
			d.Run(b.t, "image", "prune", "-af")
		}
		for _, c := range []struct{ name, after string }{{tarX, "true"}, {tarSync, "sync -f ."}} {
			dir := b.t.TempDir()
			b.warmUp(layers)
			b.add(loading, warm, c.name, b.time(func() {
				b.shell("cd " + dir + " && for l in " + strings.Join(layers, " ") + "; do mkdir ./$(basename $l) && tar -C ./$(basename $l) -xpf $l || exit 1; done && " + c.after)
			}))
			b.remove(dir)
		}
	}
}

// warmUp reads what is about to be loaded, and lets earlier writes finish.
func (b *bench) warmUp(layers []string) {
	b.shell("cat " + b.archive + " " + strings.Join(layers, " ") + " >/dev/null; sync")
}

func (b *bench) remove(dir string) {
	if err := os.RemoveAll(dir); err != nil {
		b.t.Fatal(err)
	}
}

// layersOf unpacks the layers' tars from an archive.
func layersOf(t testing.TB, archive string) (files []string) {
	t.Helper()
	f, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	dir := t.TempDir()
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Typeflag != tar.TypeReg || filepath.Base(h.Name) != "layer.tar" {
			continue
		}
		name := filepath.Join(dir, filepath.Base(filepath.Dir(h.Name))+".tar")
		out, err := os.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(out, r); err != nil {
			t.Fatal(err)
		}
		if err := out.Close(); err != nil {
			t.Fatal(err)
		}
		files = append(files, name)
	}
}
