// Package engines tests imagefs against real container engines: their stores
// and archives here, our stores there.
package engines

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"imagefs/integration/harness"
)

func TestMain(m *testing.M) { os.Exit(harness.Main(m)) }

// oddContext is a build context for the image in odd/.
func oddContext(t *testing.T) string {
	t.Helper()
	harness.Need(t, "/bin/busybox")
	dir := t.TempDir()
	harness.Run(t, "cp", filepath.Join(harness.Repo(), "integration/engines/odd/Dockerfile"), "/bin/busybox", dir)
	return dir
}

// buildOdd makes odd:1 and odd:2, which differ a little, with the classic
// builder, and kit:1 with BuildKit, whose layers hold what no tar does.
func buildOdd(t *testing.T, d *harness.Docker) []string {
	t.Helper()
	context := oddContext(t)
	d.Build(t, false, "odd:1", context, "--build-arg", "V=1")
	d.Build(t, false, "odd:2", context, "--build-arg", "V=2")
	d.Build(t, true, "kit:1", context)
	d.Run(t, "tag", "odd:2", "localhost:5000/team/odd:live")
	return []string{"odd:1", "odd:2", "kit:1"}
}

// image finds an image of a data root by its name.
func image(t *testing.T, in []harness.DiskImage, ref string) harness.DiskImage {
	t.Helper()
	n := slices.IndexFunc(in, func(i harness.DiskImage) bool { return slices.Contains(i.Names, ref) })
	if n < 0 {
		t.Fatalf("%s is not in the store", ref)
	}
	return in[n]
}

// checkAgainst compares what a mount of a daemon's store shows of an image with what the daemon says and with the kernel's view.
func checkAgainst(t *testing.T, d *harness.Docker, m *harness.Mount, ref string) {
	t.Helper()
	img := image(t, harness.ReadRoot(t, d.Root), ref)
	says(t, d, m, ref)
	harness.CheckImage(t, m, img)
}

// says compares the texts. Ages in words change as time goes by, so a difference gets more looks.
func says(t *testing.T, d *harness.Docker, m *harness.Mount, ref string) {
	t.Helper()
	repo, tag, _ := strings.Cut(ref, ":")
	for _, c := range []struct {
		file string
		args []string
	}{
		{"history", []string{"history", "--no-trunc", ref}},
		{"inspect.json", []string{"image", "inspect", ref}},
	} {
		var want, got string
		for range 5 {
			want, got = d.Run(t, c.args...), m.Read(t, "images", repo, tag, c.file)
			if want == got {
				break
			}
			time.Sleep(200 * time.Millisecond)
		}
		if want != got {
			harness.Same(t, ref+": "+c.file+" and docker "+c.args[0], harness.Lines(want), harness.Lines(got))
		}
	}
}

// sameList compares the listings of images.
func sameList(t *testing.T, d *harness.Docker, s harness.Imagefs) {
	t.Helper()
	const columns = "{{.Repository}}:{{.Tag}} {{.Digest}} {{.ID}} {{.CreatedAt}} {{.Size}}"
	// The order of the names of one image is whatever the daemon's map gives.
	want := slices.Sorted(slices.Values(harness.Lines(d.Run(t, "images", "--no-trunc", "--digests", "--format", columns))))
	got := slices.Sorted(slices.Values(harness.Lines(s.Run(t, "images", "--no-trunc", "--digests", "--format", columns))))
	harness.Same(t, "imagefs images and docker images", want, got)
}
