package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"imagefs/integration/harness"
	"imagefs/integration/images"
)

// named is a store with the images that the tree's README takes as its examples.
func named(t *testing.T) harness.Imagefs {
	t.Helper()
	at := time.Unix(1700000000, 0)
	layer := func(b *images.Tar) images.Layer {
		l, err := b.Layer()
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	base := layer((&images.Tar{Time: at}).Dir("etc", 0o755).File("etc/version", 0o644, []byte("1.24\n")))
	next := layer((&images.Tar{Time: at}).File("etc/version", 0o644, []byte("1.25.0\n")).File("etc/key", 0o600, []byte("password=x\n")))
	first := images.Step{By: "ADD nginx /", Layer: base}
	second := images.Step{By: "RUN upgrade", Layer: next}
	file := filepath.Join(t.TempDir(), "named.tar")
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	err = images.Write(f, images.Image{Tags: []string{"nginx:1.24"}, Created: at, Steps: []images.Step{first}},
		images.Image{Tags: []string{"nginx:1.25", "team/app:v3"}, Created: at, Steps: []images.Step{first, second}})
	if err != nil {
		t.Fatal(err)
	}
	s := harness.NewStore(t)
	s.Run(t, "load", "-q", "-i", file)
	return s
}

// TestFiveThings runs what the README of the tree says is worth trying.
func TestFiveThings(t *testing.T) {
	harness.Need(t, "root", "/dev/fuse", "sh", "grep")
	m := named(t).Mount(t)
	_, list, found := strings.Cut(m.Read(t, "README"), "\nFive things to try")
	if !found {
		t.Fatal("README has no five things to try")
	}
	want := map[string]string{ // what a part of their output is, by their program
		"ls images":    "images/nginx/1.24",
		"cat images":   "RUN upgrade",
		"ls -l images": "version",
		"cat diff":     "C /etc/version",
		"grep":         "layers/1/diff/etc/key",
	}
	tried := 0
	for line := range strings.Lines(list) {
		command, is := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "  ")
		if !is {
			continue
		}
		tried++
		c := exec.Command("sh", "-c", command)
		c.Dir = m.Dir
		out, err := c.CombinedOutput()
		if err != nil {
			t.Errorf("%s: %v\n%s", command, err, out)
		}
		known := false
		for begin, part := range want {
			if strings.HasPrefix(command, begin+"/") || strings.HasPrefix(command, begin+" ") {
				known = true
				if !strings.Contains(string(out), part) {
					t.Errorf("%s: no %q in\n%s", command, part, out)
				}
			}
		}
		if !known {
			t.Errorf("%s: what should it print?", command)
		}
	}
	if tried != 5 {
		t.Errorf("%d things to try", tried)
	}
}

// TestTreeIsExplained: each file and directory of the tree is in the help
// topic, in README.md, and in the tree's own README.
func TestTreeIsExplained(t *testing.T) {
	harness.Need(t, "root", "/dev/fuse")
	s := named(t)
	m := s.Mount(t)
	b, err := os.ReadFile(filepath.Join(harness.Repo(), "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	texts := map[string]string{"imagefs help tree": s.Run(t, "help", "tree"), "README.md": string(b), "the tree's README": m.Read(t, "README")}
	for _, dir := range []string{"", "images/nginx/1.25", "images/nginx/1.25/layers/1"} {
		entries, err := os.ReadDir(m.Path(dir))
		if err != nil || len(entries) < 4 {
			t.Fatalf("%s: %v, %v", dir, entries, err)
		}
		for _, e := range entries {
			for where, text := range texts {
				if e.Name() != "README" && !explained(text, e.Name()) {
					t.Errorf("%s/%s is not in %s", dir, e.Name(), where)
				}
			}
		}
	}
	control := s.Run(t, "help", "control") + string(b)
	entries, err := os.ReadDir(m.Path("ctl"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !strings.Contains(control, "ctl/"+e.Name()) {
			t.Errorf("ctl/%s is not in imagefs help control", e.Name())
		}
	}
}

// explained tells whether a text has a name of the tree as a word, or as a
// directory with what is in it.
func explained(text, name string) bool {
	for word := range strings.FieldsSeq(text) {
		if word = strings.Trim(word, ",.;:`"); word == name || strings.HasPrefix(word, name+"/") {
			return true
		}
	}
	return false
}
