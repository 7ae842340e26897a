package storetest

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	digest "github.com/opencontainers/go-digest"
)

// Member is a file or link in an archive.
type Member struct {
	Name string
	Body []byte
	Link string // its target: a symbolic link
	Hard bool   // a hard link
}

// Archive is an image archive in the making: change it, then take Tar or Write.
type Archive struct{ Members []Member }

// Set adds a file, or replaces it where it is.
func (a *Archive) Set(name string, body []byte) { a.put(Member{Name: name, Body: body}) }

// SetJSON is Set with JSON of v.
func (a *Archive) SetJSON(name string, v any) { a.Set(name, toJSON(v)) }

// Symlink puts a symbolic link at name.
func (a *Archive) Symlink(target, name string) { a.put(Member{Name: name, Link: target}) }

// Hardlink puts a hard link at name.
func (a *Archive) Hardlink(target, name string) { a.put(Member{Name: name, Link: target, Hard: true}) }

func (a *Archive) put(m Member) {
	if i := a.find(m.Name); i >= 0 {
		a.Members[i] = m
	} else {
		a.Members = append(a.Members, m)
	}
}

func (a *Archive) find(name string) int {
	return slices.IndexFunc(a.Members, func(m Member) bool { return m.Name == name })
}

// Get returns a file's content, nil if it is not there.
func (a *Archive) Get(name string) []byte {
	if i := a.find(name); i >= 0 {
		return a.Members[i].Body
	}
	return nil
}

// Remove takes a member out.
func (a *Archive) Remove(name string) {
	a.Members = slices.DeleteFunc(a.Members, func(m Member) bool { return m.Name == name })
}

// First moves a member to the front.
func (a *Archive) First(name string) {
	m := a.Members[a.find(name)]
	a.Remove(name)
	a.Members = slices.Insert(a.Members, 0, m)
}

// Tar packs the archive, in the order of its members.
func (a *Archive) Tar() []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	dirs := map[string]bool{".": true}
	for _, m := range a.Members {
		// Engines write directories too.
		if d := path.Dir(path.Clean(m.Name)); !dirs[d] && !strings.HasPrefix(d, ".") && d != "/" {
			dirs[d] = true
			must(w.WriteHeader(&tar.Header{Name: d + "/", Typeflag: tar.TypeDir, Mode: 0o755, ModTime: Time}))
		}
		h := &tar.Header{Name: m.Name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(m.Body)), ModTime: Time}
		switch {
		case m.Hard:
			h.Typeflag, h.Linkname, h.Size = tar.TypeLink, m.Link, 0
		case m.Link != "":
			h.Typeflag, h.Linkname, h.Size = tar.TypeSymlink, m.Link, 0
		}
		must(w.WriteHeader(h))
		if h.Typeflag == tar.TypeReg {
			_, err := w.Write(m.Body)
			must(err)
		}
	}
	must(w.Close())
	return b.Bytes()
}

// Write unpacks the archive into a directory.
func (a *Archive) Write(dir string) error {
	for _, m := range a.Members {
		p := filepath.Join(dir, m.Name)
		err := os.MkdirAll(filepath.Dir(p), 0o755)
		switch {
		case err != nil:
		case m.Hard:
			err = os.Link(filepath.Join(dir, m.Link), p)
		case m.Link != "":
			err = os.Symlink(m.Link, p)
		default:
			err = os.WriteFile(p, m.Body, 0o644)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

type dockerImage struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// Docker makes what `docker save` wrote from Docker 1.10 to 24: a directory for
// each layer, manifest.json, repositories. A layer that is there already becomes
// a symbolic link.
func Docker(images ...Image) *Archive {
	a := &Archive{}
	var list []dockerImage
	repos := map[string]map[string]string{}
	at := map[digest.Digest]string{}
	for _, img := range images {
		d := dockerImage{Config: img.ID().Encoded() + ".json", RepoTags: img.Names}
		var id string
		for n, l := range img.Layers {
			id = digest.FromString(id + string(img.DiffIDs()[n]) + img.Comment).Encoded()
			a.Set(id+"/VERSION", []byte("1.0"))
			a.SetJSON(id+"/json", map[string]any{"id": id, "created": Time, "os": "linux"})
			name := id + "/layer.tar"
			if first := at[img.DiffIDs()[n]]; first == "" {
				at[img.DiffIDs()[n]] = name
				a.Set(name, l)
			} else if first != name {
				a.Symlink("../"+first, name)
			}
			d.Layers = append(d.Layers, name)
		}
		a.Set(d.Config, img.Config())
		addNames(repos, img.Names, id)
		list = append(list, d)
	}
	a.SetJSON("manifest.json", list)
	if len(repos) > 0 {
		a.SetJSON("repositories", repos)
	}
	return a
}

func addNames(repos map[string]map[string]string, names []string, id string) {
	for _, n := range names {
		i := strings.LastIndexByte(n, ':')
		if repos[n[:i]] == nil {
			repos[n[:i]] = map[string]string{}
		}
		repos[n[:i]][n[i+1:]] = id
	}
}

// Hybrid makes what `docker save` writes since Docker 25: an OCI layout with a manifest.json.
func Hybrid(images ...Image) *Archive {
	l := NewLayout()
	var list []dockerImage
	var index []Descriptor
	for _, img := range images {
		m := l.Manifest(img, Plain)
		d := dockerImage{Config: "blobs/sha256/" + img.ID().Encoded(), RepoTags: img.Names}
		for _, id := range img.DiffIDs() {
			d.Layers = append(d.Layers, "blobs/sha256/"+id.Encoded())
		}
		list = append(list, d)
		index = append(index, named(m, img.Names)...)
	}
	l.Index(index...)
	l.SetJSON("manifest.json", list)
	return &l.Archive
}

// Legacy makes what `docker save` wrote before Docker 1.10: no configs, and the
// images are chains of parents. Use img.Names only; IDs are made up by whoever loads it.
func Legacy(images ...Image) *Archive {
	a := &Archive{}
	repos := map[string]map[string]string{}
	for _, img := range images {
		var id string
		for n, l := range img.Layers {
			parent := id
			id = digest.FromString(parent + string(img.DiffIDs()[n]) + img.Comment).Encoded()
			v1 := map[string]any{"id": id, "created": Time, "os": "linux", "architecture": "amd64", "docker_version": "1.6.0", "comment": img.Comment}
			if parent != "" {
				v1["parent"] = parent
			}
			a.Set(id+"/VERSION", []byte("1.0"))
			a.SetJSON(id+"/json", v1)
			a.Set(id+"/layer.tar", l)
		}
		addNames(repos, img.Names, id)
	}
	if len(repos) > 0 {
		a.SetJSON("repositories", repos)
	}
	return a
}

// Edit changes a JSON file of the archive through a value of its type.
func Edit[T any](a *Archive, name string, change func(*T)) {
	var v T
	must(json.Unmarshal(a.Get(name), &v))
	change(&v)
	a.SetJSON(name, v)
}
