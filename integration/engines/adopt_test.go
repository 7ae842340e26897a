package engines

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"imagefs/integration/harness"
)

// Archives that docker saved load here; a daemon adopts the store that this
// wrote, and saves from it what it was loaded from.
func TestAdopted(t *testing.T) {
	harness.Need(t, "root", "/dev/fuse")
	var archives map[string]string // by one image that is in it
	var from *harness.Docker
	if e := harness.SharedEngine(t); e != nil {
		from, archives = e.Docker, map[string]string{"tiny:1": e.Archives["tiny:1"], "many:1": e.Archives["many:1"], e.New: e.Both}
	} else {
		from, archives = oddArchives(t)
	}
	s := harness.NewStore(t)
	for ref, archive := range archives {
		s.Run(t, "load", "-i", archive)
		if got := harness.Lines(s.Run(t, "images", "-q", "--no-trunc", ref)); !slices.Equal(got, []string{from.ID(t, ref)}) {
			t.Errorf("%s is %v, docker says %s", ref, got, from.ID(t, ref))
		}
	}
	m := s.Mount(t)
	for _, img := range harness.ReadRoot(t, s.Store) {
		t.Run(img.Names[0], func(t *testing.T) { harness.CheckImage(t, m, img) })
	}
	t.Run("dockerd", func(t *testing.T) { adopt(t, s, archives) })
}

// adopt starts a daemon on a copy of a store.
func adopt(t *testing.T, s harness.Imagefs, archives map[string]string) {
	root := filepath.Join(t.TempDir(), "docker")
	harness.Run(t, "cp", "-a", s.Store, root)
	d := harness.StartDocker(t, root)
	sameList(t, d, s)
	runner := "tiny:1"
	if _, ok := archives[runner]; !ok {
		runner = "odd:1"
	}
	d.Run(t, "run", "--rm", "--network", "none", "--entrypoint", "/bin/busybox", runner, "true")
	for ref, archive := range archives {
		if ref == "many:1" && testing.Short() {
			continue
		}
		saved := filepath.Join(t.TempDir(), "saved.tar")
		refs := []string{ref}
		if ref == "web:2" {
			refs = []string{"web:1", "web:2"}
		}
		d.Run(t, append([]string{"save", "-o", saved}, refs...)...)
		if got := sum(t, saved); !bytes.Equal(got, sum(t, archive)) {
			if len(refs) == 1 {
				t.Errorf("docker save %v is not what it was loaded from", refs)
			}
			// docker saves several images in an order that it makes up.
			sameSave(t, s, fmt.Sprintf("%x", got), refs, backwards(refs))
		}
		again := harness.NewStore(t)
		again.Run(t, "load", "-i", saved)
		want := s.Run(t, "images", "-q", "--no-trunc", ref)
		if got := again.Run(t, "images", "-q", "--no-trunc", ref); got != want {
			t.Errorf("%s comes back as %s, want %s", ref, got, want)
		}
		if err := os.Remove(saved); err != nil {
			t.Error(err)
		}
	}
	// What a daemon builds on an image of ours shows here.
	context := t.TempDir()
	if err := os.WriteFile(filepath.Join(context, "Dockerfile"), []byte("FROM "+runner+"\nCOPY Dockerfile /copied\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	d.Build(t, false, "child:1", context)
	adopted := harness.Imagefs{Store: root}
	checkAgainst(t, d, adopted.Mount(t), "child:1")
	d.Run(t, "rmi", "child:1")
}

// oddArchives are the archives of small images, for machines without the reference scripts.
func oddArchives(t *testing.T) (*harness.Docker, map[string]string) {
	t.Helper()
	d := harness.StartDocker(t, filepath.Join(t.TempDir(), "docker"))
	out := map[string]string{}
	for _, ref := range buildOdd(t, d) {
		out[ref] = filepath.Join(t.TempDir(), "saved.tar")
		d.Run(t, "save", "-o", out[ref], ref)
	}
	return d, out
}

func sum(t *testing.T, file string) []byte {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Fatal(err)
	}
	return h.Sum(nil)
}
