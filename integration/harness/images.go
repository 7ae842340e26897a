package harness

import (
	"archive/tar"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// Engine is a daemon with real images: one of busybox, nginx and python on a
// Debian root in two tags that share most layers, and one of 45 layers.
type Engine struct {
	Docker   *Docker
	Images   []string          // the references, those of one repository together
	Archives map[string]string // what `docker save` made of those that share nothing
	Both     string            // one archive with two tags that differ a little
	Old, New string            // those two tags
}

var engine struct {
	sync.Once
	e   *Engine
	err error
}

// SharedEngine returns a daemon with the images of the reference scripts,
// which it makes if they are not there; the daemon lives until the run ends, or
// on if it was there before. The test fails if they cannot be made. Without the
// scripts it is nil.
func SharedEngine(t testing.TB) *Engine {
	t.Helper()
	if Scripts() == "" {
		return nil
	}
	Need(t, "root", "dockerd", "docker", "mmdebstrap", "jq", "/bin/busybox")
	engine.Do(func() { engine.e, engine.err = makeShared() })
	if engine.err != nil {
		t.Fatal(engine.err)
	}
	return engine.e
}

// CacheDir is where the reference scripts keep images and daemons.
func CacheDir() (string, error) {
	if d := os.Getenv("ENGINES"); d != "" {
		return d, nil
	}
	d, err := os.UserCacheDir()
	return filepath.Join(d, "imagefs-engines"), err
}

func makeShared() (*Engine, error) {
	cache, err := CacheDir()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Join(cache, "images"), 0o755); err != nil {
		return nil, err
	}
	// One run at a time makes images; the others then find them made.
	lock, err := os.OpenFile(filepath.Join(cache, "lock"), os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return nil, err
	}
	e := &Engine{
		Docker: &Docker{Root: filepath.Join(cache, "docker"), Host: "unix://" + filepath.Join(cache, "docker.sock")},
		Images: []string{"tiny:1", "web:1", "web:2", "many:1"},
		Old:    "web:1", New: "web:2",
		Archives: map[string]string{},
	}
	if e.Docker.command("info").Run() != nil {
		if err := script(cache, "dockerd.sh", "start"); err != nil {
			return nil, err
		}
		atEnd = append(atEnd, func() {
			if err := script(cache, "dockerd.sh", "stop"); err != nil {
				fmt.Fprintln(os.Stderr, err)
			}
		})
	}
	var build []string
	for _, ref := range append([]string{"base:1"}, e.Images...) {
		name, _, _ := strings.Cut(ref, ":")
		if !e.Docker.Has(ref) && (len(build) == 0 || build[len(build)-1] != name) {
			build = append(build, name)
		}
	}
	if len(build) > 0 {
		fmt.Fprintln(os.Stderr, "building engine images (a few minutes, once):", strings.Join(build, " "))
		if err := script(cache, "make-images.sh", build...); err != nil {
			return nil, err
		}
	}
	for _, ref := range []string{"tiny:1", "many:1"} {
		if e.Archives[ref], err = e.save(cache, strings.Replace(ref, ":", "-", 1)+".docker.tar", ref); err != nil {
			return nil, err
		}
	}
	e.Both, err = e.save(cache, "web-both.docker.tar", e.Old, e.New)
	return e, err
}

// save keeps the archive of images that docker makes, under the name that the
// scripts use too. One that is there is good as long as it has these images.
func (e *Engine) save(cache, name string, refs ...string) (string, error) {
	path := filepath.Join(cache, "images", name)
	if ids, err := archiveIDs(path); err == nil {
		out, err := e.Docker.command(append([]string{"image", "inspect", "-f", "{{.Id}}"}, refs...)...).Output()
		if err != nil {
			return "", fmt.Errorf("docker image inspect %v: %w", refs, err)
		}
		if slices.Equal(ids, Lines(string(out))) {
			return path, nil
		}
	}
	tmp := path + ".tmp"
	defer os.Remove(tmp)
	out, err := e.Docker.command(append([]string{"save", "-o", tmp}, refs...)...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("docker save %v: %w\n%s", refs, err, out)
	}
	return path, os.Rename(tmp, path)
}

// archiveIDs returns the image IDs of an archive that dockerd 20.10 saved, in its order.
func archiveIDs(path string) ([]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if err != nil {
			return nil, err
		}
		if h.Name != "manifest.json" {
			continue
		}
		var images []struct{ Config string }
		if err := json.NewDecoder(r).Decode(&images); err != nil {
			return nil, err
		}
		var ids []string
		for _, i := range images {
			ids = append(ids, "sha256:"+strings.TrimSuffix(i.Config, ".json"))
		}
		return ids, nil
	}
}

// script runs one of the reference scripts. What it prints goes to a file: a
// daemon that it starts would keep a pipe open.
func script(cache, name string, args ...string) error {
	out, err := os.CreateTemp("", "script-")
	if err != nil {
		return err
	}
	defer os.Remove(out.Name())
	defer out.Close()
	c := exec.Command(filepath.Join(Scripts(), name), args...)
	// The daemon outlives what TMPDIR points to here.
	c.Env = append(os.Environ(), "TMPDIR=/tmp", "ENGINES="+cache, "DOCKER_HOST=unix://"+filepath.Join(cache, "docker.sock"))
	c.Stdout, c.Stderr = out, out
	if err := c.Run(); err != nil {
		b, _ := os.ReadFile(out.Name())
		return fmt.Errorf("%s %v: %w\n%s", name, args, err, tail(string(b)))
	}
	return nil
}
