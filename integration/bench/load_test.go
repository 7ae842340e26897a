package bench

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/moby/sys/mountinfo"

	"imagefs/integration/harness"
)

// loaded is what the rows of loading leave for those after them: whole copies,
// since nothing is deleted before everything is measured.
type loaded struct {
	archive string     // of one image
	ref     string     // its tag
	layers  []layerTar // its layers' tars
	stores  []string   // stores of ours with it
	trees   []string   // directories with the layers as tar unpacks them
	docker  string     // a data root of dockerd's with it
}

// oneImage makes or finds the archive that is loaded, and its layers' tars.
func (b *bench) oneImage(t testing.TB) *loaded {
	t.Helper()
	l := &b.loaded
	if l.archive != "" {
		return l
	}
	archive, ref := realArchive("web-1.docker.tar"), "web:1"
	if archive == "" {
		dir := b.dir(t)
		archive, ref = filepath.Join(dir, "own.tar"), "own:1"
		writeArchive(t, archive, ownFiles(t, dir, int64(size(460<<20, 4<<20)))[0])
		if *full {
			b.lackOnce("web-1.docker.tar is not here: this machine's own files were loaded instead")
		}
	}
	l.layers = layersOf(t, archive, b.dir(t))
	l.archive, l.ref = archive, ref
	return l
}

// read has an archive in the page cache, and lets earlier writes finish.
func (l *loaded) read(t testing.TB) {
	t.Helper()
	var files []string
	for _, f := range l.layers {
		files = append(files, f.file)
	}
	shell(t, "cat "+l.archive+" "+strings.Join(files, " ")+" >/dev/null; sync")
}

// loading measures taking in one archive, by turns: each into an empty place of
// its own. The daemon's start is not part of the time, podman's is.
func loading(r *run) {
	l := r.oneImage(r.t)
	names := []string{ours, tarX, tarSync}
	if haveDocker(r) {
		names = append(names, dockerLoad)
	}
	if _, err := exec.LookPath("podman"); err == nil {
		names = append(names, podmanLoad)
	} else {
		r.without(podmanLoad, "podman is not installed")
	}
	r.everyRound(func(n int) {
		r.byTurns(n, names, func(t testing.TB, name string) {
			var took time.Duration
			switch name {
			case ours:
				took = r.loadOurs(t)
			case dockerLoad:
				d := harness.StartDocker(t, filepath.Join(r.dir(t), "docker"))
				defer d.Stop(t)
				l.read(t)
				took = timed(func() { d.Run(t, "load", "-i", l.archive) })
				l.docker = d.Root
			case podmanLoad:
				took = podman(t, r.dir(t), l)
			default:
				took = r.untar(t, name == tarSync)
			}
			r.add("", name, took)
		})
	})
}

func haveDocker(r *run) bool {
	for _, c := range []string{"dockerd", "docker", "containerd", "runc"} {
		if _, err := exec.LookPath(c); err != nil {
			r.without(dockerLoad, c+" is not installed")
			return false
		}
	}
	return true
}

// loadOurs loads the image into a new store.
func (b *bench) loadOurs(t testing.TB) time.Duration {
	t.Helper()
	s := harness.Imagefs{Store: filepath.Join(b.dir(t), "store")}
	b.loaded.read(t)
	took := timed(func() { s.Run(t, "load", "-q", "-i", b.loaded.archive) })
	b.loaded.stores = append(b.loaded.stores, s.Store)
	return took
}

// untar unpacks each layer's tar into a new directory.
func (b *bench) untar(t testing.TB, synced bool) time.Duration {
	t.Helper()
	dir := b.dir(t)
	line := "cd " + dir
	for n, l := range b.loaded.layers {
		line += fmt.Sprintf(" && mkdir %d && tar -C %d -xpf %s", n, n, l.file)
	}
	if synced {
		line += " && sync -f ."
	}
	b.loaded.read(t)
	took := timed(func() { shell(t, line) })
	b.loaded.trees = append(b.loaded.trees, dir)
	return took
}

// podman loads into a new store of containers/storage, with the overlay driver.
func podman(t testing.TB, dir string, l *loaded) time.Duration {
	t.Helper()
	root := filepath.Join(dir, "root")
	run, err := os.MkdirTemp("", "p") // podman takes no long path for it
	if err != nil {
		t.Fatal(err)
	}
	// The driver leaves its directory mounted on itself.
	defer func() {
		left, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
		if err != nil {
			t.Error(err)
		}
		for _, m := range slices.Backward(left) {
			harness.Run(t, "umount", m.Mountpoint)
		}
	}()
	l.read(t)
	return timed(func() {
		harness.Run(t, "podman", "--root", root, "--runroot", run, "--tmpdir", run, "--storage-driver", "overlay",
			"--cgroup-manager", "cgroupfs", "--events-backend", "none", "--runtime", "runc", "load", "-q", "-i", l.archive)
	})
}

// loadMemory measures the most that imagefs load has resident, for the archive
// above and two of other shapes.
func loadMemory(name string) func(r *run) {
	return func(r *run) {
		var archive string
		switch name {
		case rowLoad:
			archive = r.oneImage(r.t).archive
		case rowLoadBig:
			archive = r.set(r.t, setBig).archive
		case rowLoadMany:
			archive = r.set(r.t, setFiles).archive
		}
		// Memory varies little: two rounds tell.
		for range min(2, r.rounds) {
			store := filepath.Join(r.dir(r.t), "store")
			_, peak := job(r.t, jobCommand, harness.Binary(r.t), "--store", store, "load", "-q", "-i", archive)
			r.addBytes("", ours, peak)
		}
	}
}

// removing measures imagefs rmi of an image, with its durability, against rm -r
// of its layers' directories. It is the last row: see the package documentation.
func removing(r *run) {
	l := r.oneImage(r.t)
	for len(l.stores) < r.rounds {
		r.loadOurs(r.t)
	}
	for len(l.trees) < r.rounds {
		r.untar(r.t, false)
	}
	r.everyRound(func(n int) {
		r.byTurns(n, []string{ours, rmR}, func(t testing.TB, name string) {
			// Both sides find the inodes in memory, and nothing left to write.
			if name == ours {
				s := harness.Imagefs{Store: l.stores[n]}
				shell(t, "find "+s.Store+" -printf %s >/dev/null; sync")
				r.add("", name, timed(func() { s.Run(t, "rmi", l.ref) }))
			} else {
				shell(t, "find "+l.trees[n]+" -printf %s >/dev/null; sync")
				r.add("", name, timed(func() { shell(t, "rm -r "+l.trees[n]) }))
			}
		})
	})
}

// layersOf unpacks the layers' tars from a docker-archive into dir, bottom first.
func layersOf(t testing.TB, archive, dir string) (out []layerTar) {
	t.Helper()
	f, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Typeflag != tar.TypeReg || filepath.Base(h.Name) != "layer.tar" {
			continue
		}
		l := layerTar{file: filepath.Join(dir, filepath.Base(filepath.Dir(h.Name))+".tar"), size: h.Size}
		to, err := os.Create(l.file)
		if err == nil {
			_, err = io.Copy(to, r)
			err = errors.Join(err, to.Close())
		}
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, l)
	}
	if len(out) == 0 {
		t.Fatalf("%s has no layer.tar", archive)
	}
	return out
}

func loadRows() []row {
	return []row{
		{"load", rowLoad, 10, loading},
		{"load memory", rowLoad, 1, loadMemory(rowLoad)},
		{"load memory", rowLoadBig, 0.5, loadMemory(rowLoadBig)},
		{"load memory", rowLoadMany, 2, loadMemory(rowLoadMany)},
	}
}
