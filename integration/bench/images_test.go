package bench

import (
	"archive/tar"
	"bufio"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// at is the time of all files and images.
var at = time.Unix(1700000000, 0)

// layerTar is a layer on disk: the images here are too large for memory.
type layerTar struct {
	file   string
	diffID string // hexadecimal
	size   int64
}

// tarWriter writes entries and keeps the first error.
type tarWriter struct {
	*tar.Writer
	err error
}

func (w *tarWriter) add(h tar.Header, content []byte) {
	if w.err != nil {
		return
	}
	h.ModTime, h.Size = at, int64(len(content))
	if w.err = w.WriteHeader(&h); w.err == nil {
		_, w.err = w.Write(content)
	}
}

func (w *tarWriter) dir(name string) {
	w.add(tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o755}, nil)
}

func (w *tarWriter) regular(name string, content []byte) {
	w.add(tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644}, content)
}

func (w *tarWriter) symlink(name, to string) {
	w.add(tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: to, Mode: 0o777}, nil)
}

func (w *tarWriter) link(name, to string) {
	w.add(tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: to, Mode: 0o644}, nil)
}

// makeLayer writes a layer into dir.
func makeLayer(t testing.TB, dir string, fill func(w *tarWriter)) layerTar {
	t.Helper()
	f, err := os.CreateTemp(dir, "layer-")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	sum := sha256.New()
	buf := bufio.NewWriterSize(io.MultiWriter(f, sum), 1<<20)
	w := &tarWriter{Writer: tar.NewWriter(buf)}
	fill(w)
	err = errors.Join(w.err, w.Close(), buf.Flush())
	st, statErr := f.Stat()
	if err := errors.Join(err, statErr); err != nil {
		t.Fatal(err)
	}
	return layerTar{f.Name(), fmt.Sprintf("%x", sum.Sum(nil)), st.Size()}
}

// imageOf is an image: its tags, and its layers from the bottom.
type imageOf struct {
	tags   []string
	layers []layerTar
}

// writeArchive writes images as `docker save` does.
func writeArchive(t testing.TB, name string, images ...imageOf) {
	t.Helper()
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := &tarWriter{Writer: tar.NewWriter(f)}
	type entry struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	var manifest []entry
	written := map[string]bool{}
	for _, i := range images {
		e := entry{RepoTags: i.tags}
		var diffIDs []string
		for _, l := range i.layers {
			name := l.diffID + "/layer.tar"
			e.Layers, diffIDs = append(e.Layers, name), append(diffIDs, "sha256:"+l.diffID)
			if !written[name] {
				written[name] = true
				copyIn(t, w, name, l)
			}
		}
		config, err := json.Marshal(map[string]any{"architecture": "amd64", "os": "linux", "created": at,
			"config": map[string]any{"Labels": map[string]string{"is": i.tags[0]}},
			"rootfs": map[string]any{"type": "layers", "diff_ids": diffIDs}})
		if err != nil {
			t.Fatal(err)
		}
		e.Config = fmt.Sprintf("%x.json", sha256.Sum256(config))
		w.regular(e.Config, config)
		manifest = append(manifest, e)
	}
	b, err := json.Marshal(manifest)
	if err != nil {
		t.Fatal(err)
	}
	w.regular("manifest.json", b)
	if err := errors.Join(w.err, w.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}
}

func copyIn(t testing.TB, w *tarWriter, name string, l layerTar) {
	t.Helper()
	f, err := os.Open(l.file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	err = w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: l.size})
	if err == nil {
		_, err = io.Copy(w, f)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// filesImage makes an image of three layers with about n files, small ones, in
// a directory for every twelve, a fifth of them in /var: most in the lowest layer; a quarter in the next,
// half of them in directories of the lowest; in the top one, files that replace
// others, whiteouts and links.
func filesImage(t testing.TB, dir string, n int) imageOf {
	t.Helper()
	rnd := rand.New(rand.NewPCG(3, 4))
	text := words(rnd, 1<<20)
	content := func() []byte {
		size := 64 + rnd.IntN(2500)
		if rnd.IntN(200) == 0 {
			size *= 8
		}
		off := rnd.IntN(len(text) - size)
		return text[off : off+size]
	}
	leaf := func(d int) string {
		top := "usr"
		if d/20%5 == 0 {
			top = "var"
		}
		return fmt.Sprintf("%s/a%02d/b%02d/c%02d", top, d/400, d/20%20, d%20)
	}
	fill := func(w *tarWriter, from, to, perDir, offset int, made map[string]bool) {
		for d := from; d < to; d++ {
			p := leaf(d)
			for i := range p {
				if p[i] == '/' && !made[p[:i]] {
					made[p[:i]] = true
					w.dir(p[:i])
				}
			}
			w.dir(p)
			for f := range perDir {
				w.regular(fmt.Sprintf("%s/file%02d.txt", p, offset+f), content())
			}
		}
	}
	dirs := max(4, n/12)
	low := makeLayer(t, dir, func(w *tarWriter) { fill(w, 0, dirs*3/4, 12, 0, map[string]bool{}) })
	middle := makeLayer(t, dir, func(w *tarWriter) {
		made := map[string]bool{}
		fill(w, 0, dirs/4, 6, 20, made)
		fill(w, dirs*3/4, dirs, 6, 0, made)
	})
	top := makeLayer(t, dir, func(w *tarWriter) {
		for d := 0; d < dirs*3/4; d += 4 {
			p := leaf(d)
			w.regular(p+"/file00.txt", content())
			switch d / 4 % 3 {
			case 0:
				w.symlink(p+"/link", "file01.txt")
			case 1:
				w.link(p+"/name2", p+"/file00.txt")
			case 2:
				w.regular(p+"/.wh.file02.txt", nil)
			}
		}
	})
	return imageOf{[]string{"files:1"}, []layerTar{low, middle, top}}
}

// words makes text of lines.
func words(rnd *rand.Rand, size int) []byte {
	var b []byte
	for len(b) < size {
		for range 3 + rnd.IntN(6) {
			for range 1 + rnd.IntN(9) {
				b = append(b, byte('a'+rnd.IntN(26)))
			}
			b = append(b, ' ')
		}
		b[len(b)-1] = '\n'
	}
	return b
}

// bigFile is the path of the one file of bigImage.
const bigFile = "srv/big"

// bigImage makes an image with one file of size bytes that cannot be compressed.
func bigImage(t testing.TB, dir string, size int64) imageOf {
	t.Helper()
	low := makeLayer(t, dir, func(w *tarWriter) {
		w.dir("srv")
		if w.err == nil {
			w.err = w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: bigFile, Mode: 0o644, Size: size, ModTime: at})
		}
		if w.err == nil {
			_, w.err = io.CopyN(w, rand.NewChaCha8([32]byte{5}), size)
		}
	})
	top := makeLayer(t, dir, func(w *tarWriter) { w.dir("etc"); w.regular("etc/name", []byte("big\n")) })
	return imageOf{[]string{"big:1"}, []layerTar{low, top}}
}

// manyImages makes n images of two layers, the lower one shared, with tags names each.
func manyImages(t testing.TB, dir string, n, tags int) []imageOf {
	t.Helper()
	base := makeLayer(t, dir, func(w *tarWriter) {
		w.dir("etc")
		for i := range 20 {
			w.regular(fmt.Sprintf("etc/f%02d", i), []byte("x\n"))
		}
	})
	var out []imageOf
	for i := range n {
		own := makeLayer(t, dir, func(w *tarWriter) { w.dir("etc"); w.regular("etc/name", fmt.Appendf(nil, "%d\n", i)) })
		img := imageOf{layers: []layerTar{base, own}}
		for tag := range tags {
			img.tags = append(img.tags, fmt.Sprintf("team%02d/app%03d:v%d", i%40, i, tag))
		}
		out = append(out, img)
	}
	return out
}

// ownFiles makes two images that share most layers, of about size bytes of this
// machine's files.
func ownFiles(t testing.TB, dir string, size int64) []imageOf {
	t.Helper()
	enough := errors.New("enough")
	base := makeLayer(t, dir, func(w *tarWriter) {
		var had int64
		err := filepath.WalkDir("/usr", func(p string, e fs.DirEntry, err error) error {
			if err != nil {
				return nil // a file that went away
			}
			name := strings.TrimPrefix(p, "/")
			switch {
			case e.IsDir():
				w.dir(name)
			case e.Type() == fs.ModeSymlink:
				if to, err := os.Readlink(p); err == nil {
					w.symlink(name, to)
				}
			case e.Type().IsRegular():
				if info, err := e.Info(); err != nil || info.Size() > size/4 {
					return nil
				}
				content, err := os.ReadFile(p)
				if err != nil {
					return nil
				}
				w.regular(name, content)
				if had += int64(len(content)); had > size {
					return enough
				}
			}
			return w.err
		})
		if err != nil && !errors.Is(err, enough) {
			t.Fatal(err)
		}
	})
	gone := makeLayer(t, dir, func(w *tarWriter) {
		w.dir("usr")
		w.regular("usr/.wh.include", nil)
		w.regular("top", []byte("1"))
	})
	more := makeLayer(t, dir, func(w *tarWriter) { w.regular("top", []byte("2")); w.regular("more", []byte("2")) })
	return []imageOf{{[]string{"own:1"}, []layerTar{base, gone}}, {[]string{"own:2"}, []layerTar{base, gone, more}}}
}
