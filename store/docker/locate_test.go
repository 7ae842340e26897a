package docker

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"imagefs/store"
)

// TestWhichDriver opens data roots that several drivers have used. A driver
// with "+" has an image, one with "-" a database without.
func TestWhichDriver(t *testing.T) {
	for _, c := range []struct {
		have, open, want string // open: below the root
		others           []string
	}{
		{"overlay2+", "", "overlay2", nil},
		{"overlay2+ aufs+ vfs+", "", "overlay2", []string{"aufs", "vfs"}},
		{"overlay2- aufs+", "", "aufs", nil},
		{"overlay2- vfs-", "", "overlay2", nil},
		{"vfs-", "", "vfs", nil},
		{"overlay2- aufs+ imagefs", "", "overlay2", []string{"aufs"}},
		{"overlay+ vfs+", "", "overlay", []string{"vfs"}},
		{"overlay2+ aufs+", "image/aufs", "aufs", nil},
		{"overlay2+ vfs+", "image/vfs/", "vfs", nil},
		{"overlay2+ btrfs+", "", "overlay2", nil},
		{"overlay2- btrfs+", "", "!btrfs", nil},
		{"zfs-", "", "!zfs", nil},
		{"devicemapper+", "", "!devicemapper", nil},
		{"overlay2+ zfs+", "image/zfs", "!zfs", nil},
		{"unheard-of+", "", "?", nil},
	} {
		root := filepath.Join(t.TempDir(), "docker")
		if err := os.Mkdir(root, 0o755); err != nil {
			t.Fatal(err)
		}
		for _, d := range strings.Fields(c.have) {
			if d == "imagefs" {
				if err := os.Mkdir(filepath.Join(root, d), 0o755); err != nil {
					t.Fatal(err)
				}
				continue
			}
			content := filepath.Join(root, "image", d[:len(d)-1], "imagedb/content/sha256")
			if err := os.MkdirAll(content, 0o755); err != nil {
				t.Fatal(err)
			}
			if strings.HasSuffix(d, "+") {
				if err := os.WriteFile(filepath.Join(content, strings.Repeat("a", 64)), nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}
		s, err := Open(filepath.Join(root, c.open), Options{ReadOnly: true})
		name, unreadable := strings.CutPrefix(c.want, "!")
		switch {
		case unreadable:
			if !errors.Is(err, store.ErrUnsupported) || !strings.Contains(err.Error(), "driver "+name) {
				t.Errorf("%s: %v", c.have, err)
			}
			continue
		case name == "?":
			if !errors.Is(err, store.ErrNotFound) {
				t.Errorf("%s: %v", c.have, err)
			}
			continue
		case err != nil:
			t.Errorf("%s: %v", c.have, err)
			continue
		}
		if s.at.name != name || s.Root() != root {
			t.Errorf("%s: %s at %s", c.have, s.at.name, s.Root())
		}
		if p, _, err := dataRoot(root); err == nil && c.open == "" && !slices.Equal(p.others, c.others) {
			t.Errorf("%s: others %v, want %v", c.have, p.others, c.others)
		}
		if ids, err := s.IDs(ctx); err != nil || len(ids) != strings.Count(c.have[strings.Index(c.have, name):][:len(name)+1], "+") {
			t.Errorf("%s: images %v %v", c.have, ids, err)
		}
		s.Close()
	}
}
