package engines

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"imagefs/integration/harness"
)

// TestDrivers reads the data roots of dockerd's other storage drivers while it
// lives: the texts are those that it prints, the layers those of the archive
// that it saves, loaded into a store of our own, and the root file system is
// the whole tree where the driver has one.
func TestDrivers(t *testing.T) {
	harness.Need(t, "root", "/dev/fuse", "fuse-overlayfs")
	for _, driver := range []string{"vfs", "overlay", "fuse-overlayfs"} {
		t.Run(driver, func(t *testing.T) {
			root := filepath.Join(t.TempDir(), "docker")
			d := harness.StartDockerWith(t, root, driver)
			context := oddContext(t)
			d.Build(t, false, "odd:1", context)
			d.Build(t, true, "kit:1", context)
			saved := filepath.Join(t.TempDir(), "saved.tar")
			d.Run(t, "save", "-o", saved, "odd:1", "kit:1")
			own := harness.NewStore(t)
			own.Run(t, "load", "-i", saved)
			s := harness.Imagefs{Store: root}
			sameList(t, d, s)
			s.Run(t, "check")
			m := s.Mount(t)
			for _, ref := range []string{"odd:1", "kit:1"} {
				img := image(t, harness.ReadRoot(t, own.Store), ref)
				// Where diff directories are read, the root is theirs; the archive has none.
				img.AnyRoot = driver == "fuse-overlayfs"
				says(t, d, m, ref)
				if ref != "kit:1" { // whose files have what no tar has
					harness.CheckImage(t, m, img)
				}
				if dir := wholeTree(t, d, driver, ref); dir != "" {
					want, got := seen(t, dir), seen(t, m.Path("ids", img.ID[7:], "rootfs"))
					if ref == "kit:1" {
						// BuildKit mounts files in it as it runs commands; of the time that
						// this changes the layer does not tell.
						want, got = without(want, `"/etc" `), without(got, `"/etc" `)
					}
					harness.Same(t, ref+": rootfs, not the driver's tree,", want, got)
				}
			}
			if _, msg := s.Fail(t, "rmi", "odd:1"); !strings.Contains(msg, driver) {
				t.Errorf("rmi: %s", msg)
			}
		})
	}
}

var nlink = regexp.MustCompile(` (\d+,\d+) \d+ "`)

// seen lists a whole tree without what it cannot share with a merge of layers:
// the time of the root, which is when the driver made it, and counts of links
// some of which an upper layer hides.
func seen(t *testing.T, dir string) harness.Manifest {
	t.Helper()
	m := harness.ReadManifest(t, dir)[1:]
	for n := range m {
		m[n] = nlink.ReplaceAllString(m[n], ` $1 "`)
	}
	return m
}

func without(m harness.Manifest, prefix string) harness.Manifest {
	return slices.DeleteFunc(m, func(line string) bool { return strings.HasPrefix(line, prefix) })
}

// wholeTree returns the directory that has all of an image, "" if the driver has none.
func wholeTree(t *testing.T, d *harness.Docker, driver, ref string) string {
	t.Helper()
	layerdb := filepath.Join(d.Root, "image", driver, "layerdb/sha256")
	var ids []string
	if err := json.Unmarshal([]byte(d.Run(t, "image", "inspect", "-f", "{{json .RootFS.Layers}}", ref)), &ids); err != nil {
		t.Fatal(err)
	}
	chains := harness.ChainIDs(ids)
	cache, err := os.ReadFile(filepath.Join(layerdb, strings.TrimPrefix(chains[len(chains)-1], "sha256:"), "cache-id"))
	if err != nil {
		t.Fatal(err)
	}
	switch driver {
	case "vfs":
		return filepath.Join(d.Root, "vfs/dir", string(cache))
	case "overlay":
		// BuildKit's layers have an upper directory and the name of a whole tree below it.
		own := filepath.Join(d.Root, "overlay", string(cache))
		if lower, err := os.ReadFile(filepath.Join(own, "lower-id")); err == nil {
			return harness.KernelMount(t, filepath.Join(d.Root, "overlay", string(lower), "root"), filepath.Join(own, "upper"))
		}
		return filepath.Join(own, "root")
	}
	return ""
}
