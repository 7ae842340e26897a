package docker

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"imagefs/store"
)

// FuzzJournal puts hostile records into the journal of a store: whatever they
// say, nothing outside the store changes, and what is refused is said to be corrupt.
func FuzzJournal(f *testing.F) {
	id := "sha256:" + strings.Repeat("a", 64)
	for _, s := range []string{
		`{"op":"load","stage":"0123456789abcdef","layers":[{"chain":"` + id + `","cache":"c1","link":"ABC","dir":"0"}],"images":[{"id":"` + id + `"}],"names":{"a:b":"` + id + `"}}`,
		`{"op":"unload","stage":"0123456789abcdef","layers":[{"chain":"` + id + `","cache":"c1"}]}`,
		`{"op":"remove","untag":{"a:b":"` + id + `"},"images":[{"id":"` + id + `","parent":"` + id + `"}],"layers":[{"chain":"` + id + `","cache":"l"}]}`,
		`{"op":"remove","layers":[{"chain":"` + id + `","cache":"..","link":"../x"}]}`, `[]`, `{`, `null`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var r record
		if json.Unmarshal(b, &r) == nil && r.valid() == nil {
			for _, l := range r.Layers {
				if strings.ContainsAny(l.Cache+l.Link+l.Dir, "/.") || l.Cache == "" || l.Cache == "l" {
					t.Fatalf("%+v is valid", l)
				}
			}
		}
		top := t.TempDir()
		s, err := Open(filepath.Join(top, "store"), Options{Create: true})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if err := os.WriteFile(filepath.Join(s.path, journalDir, "1.json"), b, 0o600); err != nil {
			t.Fatal(err)
		}
		unlock, err := s.lock(ctx)
		switch {
		case err == nil:
			unlock()
		case !errors.Is(err, store.ErrCorrupt) && !errors.Is(err, store.ErrTooLarge):
			t.Fatalf("%s: %v", b, err)
		}
		if names, err := os.ReadDir(top); err != nil || len(names) != 1 {
			t.Fatalf("outside the store: %v %v", names, err)
		}
		if names, err := s.root.List(overlay2.home); err != nil || len(names) > 1 {
			t.Fatalf("%v %v", names, err)
		}
	})
}
