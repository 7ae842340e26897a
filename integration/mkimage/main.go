// Command mkimage writes an image archive with two tags that differ a little:
// from the layers of a real archive, or from this machine's own busybox.
//
//	mkimage -o out.tar -repo demo/app [-from real.tar]
package main

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"imagefs/integration/images"
)

func main() {
	out := flag.String("o", "image.tar", "the archive to write")
	repo := flag.String("repo", "demo/app", "repository of the tags 1.0 and 1.1")
	from := flag.String("from", "", "a docker-archive whose first image becomes the base")
	flag.Parse()
	if err := run(*out, *repo, *from); err != nil {
		fmt.Fprintln(os.Stderr, "mkimage:", err)
		os.Exit(1)
	}
}

func run(out, repo, from string) error {
	now := time.Now().Truncate(time.Second)
	var base []images.Step
	var err error
	if from != "" {
		base, err = readArchive(from)
	} else {
		base, err = fromMachine(now)
	}
	if err != nil {
		return err
	}
	app := func(v string) (images.Layer, error) {
		t := &images.Tar{Time: now}
		t.Dir("srv", 0o755).Dir("srv/app", 0o755).
			File("srv/app/config", 0o644, []byte("listen = 8080\nversion = "+v+"\n")).
			File("srv/app/run", 0o755, []byte("#!/bin/sh\nexec cat /srv/app/config\n"))
		if v == "1.0" {
			t.File("srv/app/secret.key", 0o644, []byte("not a real key\n"))
		} else {
			t.File("srv/app/CHANGES", 0o644, []byte("1.1: the key is no longer shipped\n"))
		}
		return t.Layer()
	}
	one, err := app("1.0")
	if err != nil {
		return err
	}
	two, err := app("1.1")
	if err != nil {
		return err
	}
	gone, err := (&images.Tar{Time: now}).Dir("srv", 0o755).Dir("srv/app", 0o755).File("srv/app/.wh.secret.key", 0o644, nil).Layer()
	if err != nil {
		return err
	}
	run := images.Step{By: `CMD ["/srv/app/run"]`}
	config := map[string]any{"Cmd": []string{"/srv/app/run"}, "Env": []string{"PATH=/bin"}}
	steps := func(s ...images.Step) []images.Step { return append(append([]images.Step{}, base...), s...) }
	copied := "COPY app /srv/app"
	f, err := os.Create(out)
	if err != nil {
		return err
	}
	defer f.Close()
	err = images.Write(f,
		images.Image{Tags: []string{repo + ":1.0"}, Created: now, Config: config,
			Steps: steps(images.Step{By: copied, Layer: one}, run)},
		images.Image{Tags: []string{repo + ":1.1"}, Created: now, Config: config,
			Steps: steps(images.Step{By: copied, Layer: one}, images.Step{By: copied, Layer: two},
				images.Step{By: "RUN rm /srv/app/secret.key", Layer: gone}, run)})
	if err != nil {
		return err
	}
	return f.Close()
}

// readArchive takes the layers of the first image of a docker-archive.
func readArchive(name string) ([]images.Step, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	files := map[string][]byte{}
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		if files[h.Name], err = io.ReadAll(io.LimitReader(r, 256<<20)); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	var manifest []struct {
		Config string
		Layers []string
	}
	if err := json.Unmarshal(files["manifest.json"], &manifest); err != nil {
		return nil, fmt.Errorf("%s: manifest.json: %w", name, err)
	}
	if len(manifest) == 0 {
		return nil, fmt.Errorf("%s: no image in it", name)
	}
	var config struct {
		History []struct {
			CreatedBy  string `json:"created_by"`
			EmptyLayer bool   `json:"empty_layer"`
		}
	}
	if err := json.Unmarshal(files[manifest[0].Config], &config); err != nil {
		return nil, fmt.Errorf("%s: image config: %w", name, err)
	}
	var steps []images.Step
	next := 0
	for _, h := range config.History {
		s := images.Step{By: h.CreatedBy}
		if !h.EmptyLayer {
			if next >= len(manifest[0].Layers) {
				return nil, fmt.Errorf("%s: fewer layers than its history says", name)
			}
			s.Layer = files[manifest[0].Layers[next]]
			next++
		}
		steps = append(steps, s)
	}
	return steps, nil
}

// fromMachine makes a base layer of this machine's busybox, or of its shell
// and ls, with the libraries that they need.
func fromMachine(now time.Time) ([]images.Step, error) {
	t := &images.Tar{Time: now}
	for _, d := range []string{"bin", "dev", "etc", "proc", "sys"} {
		t.Dir(d, 0o755)
	}
	t.Add(tar.Header{Typeflag: tar.TypeDir, Name: "tmp/", Mode: 0o1777}, nil)
	have := map[string]bool{}
	add := func(path, name string) error {
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		t.File(name, 0o755, b)
		if bytes.HasPrefix(b, []byte(elf.ELFMAG)) {
			for _, lib := range libraries(path) {
				if have[lib] {
					continue
				}
				have[lib] = true
				b, err := os.ReadFile(lib)
				if err != nil {
					return err
				}
				t.File(strings.TrimPrefix(lib, "/"), 0o755, b)
			}
		}
		return nil
	}
	by := "ADD the busybox of this machine"
	if path, err := exec.LookPath("busybox"); err == nil {
		if err := add(path, "bin/busybox"); err != nil {
			return nil, err
		}
		for _, applet := range []string{"sh", "ls", "cat", "echo", "true"} {
			t.Link("bin/"+applet, "bin/busybox")
		}
	} else {
		by = "ADD the shell of this machine"
		for _, tool := range []string{"sh", "ls", "cat", "echo", "true"} {
			path, err := exec.LookPath(tool)
			if err != nil {
				return nil, err
			}
			if err := add(path, "bin/"+tool); err != nil {
				return nil, err
			}
		}
	}
	t.File("etc/passwd", 0o644, []byte("root:x:0:0:root:/:/bin/sh\n")).
		File("etc/group", 0o644, []byte("root:x:0:\n")).
		Symlink("etc/mtab", "../proc/mounts")
	l, err := t.Layer()
	return []images.Step{{By: by, Layer: l}}, err
}

// libraries asks the dynamic linker what a program loads; nothing for a static one.
func libraries(path string) []string {
	out, err := exec.Command("ldd", path).Output()
	if err != nil {
		return nil
	}
	var libs []string
	for _, f := range strings.Fields(string(out)) {
		if strings.HasPrefix(f, "/") {
			libs = append(libs, f)
		}
	}
	return libs
}
