package main

import (
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestAdditionalStores(t *testing.T) {
	root, other := t.TempDir(), t.TempDir()
	conf := filepath.Join(t.TempDir(), "storage.conf")
	t.Setenv("CONTAINERS_STORAGE_CONF", conf)
	log := slog.New(slog.DiscardHandler)
	for _, c := range []struct {
		text string
		want []string
	}{
		{"[storage]\ndriver = \"overlay\"\ngraphroot = \"" + root + "\"\n[storage.options]\nadditionalimagestores = [\n  \"/srv/a\",\n  \"relative\", \"/srv/b\",\n]\n", []string{"/srv/a", "/srv/b"}},
		{"[storage]\ngraphroot = \"" + other + "\"\n[storage.options]\nadditionalimagestores = [\"/srv/a\"]\n", nil},
		{"[storage]\ngraphroot = \"" + root + "\"\n", nil},
		{"[storage\n", nil},
		{"storage = 3\n", nil},
	} {
		if err := os.WriteFile(conf, []byte(c.text), 0o644); err != nil {
			t.Fatal(err)
		}
		if got := additionalStores(root, log); !slices.Equal(got, c.want) {
			t.Errorf("%q: %q, want %q", c.text, got, c.want)
		}
	}
}
