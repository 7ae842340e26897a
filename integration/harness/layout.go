package harness

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// DiskImage is one image as it lies in a data root of Docker's, read by the
// simplest code that can, so that it can judge the store packages.
type DiskImage struct {
	ID      string // sha256:…
	Names   []string
	DiffIDs []string
	Dirs    []string // the layers' directories, bottom first
	AnyRoot bool     // these do not tell what the root directory itself is like
}

// ReadRoot reads the images of a data root of Docker's.
func ReadRoot(t testing.TB, root string) []DiskImage {
	t.Helper()
	var repos struct {
		Repositories map[string]map[string]string
	}
	image := filepath.Join(root, "image/overlay2")
	readJSON(t, filepath.Join(image, "repositories.json"), &repos)
	names := map[string][]string{}
	for _, refs := range repos.Repositories {
		for ref, id := range refs {
			names[id] = append(names[id], ref)
		}
	}
	entries, err := os.ReadDir(filepath.Join(image, "imagedb/content/sha256"))
	if err != nil {
		t.Fatal(err)
	}
	var out []DiskImage
	for _, e := range entries {
		d := DiskImage{ID: "sha256:" + e.Name()}
		d.Names = names[d.ID]
		slices.Sort(d.Names)
		var config struct {
			RootFS struct {
				DiffIDs []string `json:"diff_ids"`
			}
		}
		readJSON(t, filepath.Join(image, "imagedb/content/sha256", e.Name()), &config)
		d.DiffIDs = config.RootFS.DiffIDs
		for _, chain := range ChainIDs(d.DiffIDs) {
			id, err := os.ReadFile(filepath.Join(image, "layerdb/sha256", strings.TrimPrefix(chain, "sha256:"), "cache-id"))
			if err != nil {
				t.Fatal(err)
			}
			d.Dirs = append(d.Dirs, filepath.Join(root, "overlay2", string(id), "diff"))
		}
		out = append(out, d)
	}
	return out
}

// ChainIDs returns the chain ID of each layer, bottom first (OCI image spec, config.md).
func ChainIDs(diffIDs []string) []string {
	var out []string
	for n, d := range diffIDs {
		if n > 0 {
			d = fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(out[n-1]+" "+d)))
		}
		out = append(out, d)
	}
	return out
}

func readJSON(t testing.TB, path string, v any) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(b, v)
	}
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}
