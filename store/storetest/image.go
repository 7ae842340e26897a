package storetest

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"strings"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	digest "github.com/opencontainers/go-digest"
	"github.com/ulikunitz/xz"
)

// Time is when everything that is built here was made.
var Time = time.Unix(1700000000, 0).UTC()

// Entry is an entry of a layer's tar.
type Entry struct {
	Name     string
	Body     string
	Link     string
	Type     byte  // 0: a directory if Name ends in "/", a symbolic link if Link is set, else a file
	Mode     int64 // 0: 0644, and 0755 for a directory
	UID, GID int
	Xattrs   map[string]string
}

// Tar packs entries.
func Tar(entries ...Entry) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := &tar.Header{Name: e.Name, Linkname: e.Link, Typeflag: e.Type, Mode: e.Mode, Uid: e.UID, Gid: e.GID, ModTime: Time}
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
			if strings.HasSuffix(e.Name, "/") {
				h.Typeflag = tar.TypeDir
			} else if e.Link != "" {
				h.Typeflag = tar.TypeSymlink
			}
		}
		if h.Typeflag == tar.TypeReg {
			h.Size = int64(len(e.Body))
		}
		if h.Mode == 0 {
			h.Mode = 0o644
			if h.Typeflag == tar.TypeDir {
				h.Mode = 0o755
			}
		}
		for k, v := range e.Xattrs {
			if h.PAXRecords == nil {
				h.PAXRecords = map[string]string{}
			}
			h.PAXRecords["SCHILY.xattr."+k] = v
		}
		must(w.WriteHeader(h))
		if h.Typeflag == tar.TypeReg {
			_, err := w.Write([]byte(e.Body))
			must(err)
		}
	}
	must(w.Close())
	return b.Bytes()
}

// Files packs files, each written "name=content"; a name that ends in "/" is a directory.
func Files(files ...string) []byte {
	var entries []Entry
	for _, f := range files {
		name, body, _ := strings.Cut(f, "=")
		entries = append(entries, Entry{Name: name, Body: body})
	}
	return Tar(entries...)
}

// Image is an image to be put into an archive.
type Image struct {
	Names    []string // "app:1"
	Layers   [][]byte // uncompressed tars, bottom first
	Platform string   // "os/arch[/variant]"; "": linux/amd64
	Comment  string   // goes into the config, and so makes images with the same layers differ
}

// Config is the image's config: the same image gives the same bytes.
func (i Image) Config() []byte {
	p := platformJSON(i.Platform)
	c := map[string]any{"created": Time, "architecture": p["architecture"], "os": p["os"],
		"config": map[string]any{"Env": []string{"PATH=/bin"}, "Cmd": []string{"/bin/sh"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": i.DiffIDs()}}
	if v, ok := p["variant"]; ok {
		c["variant"] = v
	}
	if i.Comment != "" {
		c["comment"] = i.Comment
	}
	var history []any
	for range i.Layers {
		history = append(history, map[string]any{"created": Time, "created_by": "COPY . /"})
	}
	c["history"] = append(history, map[string]any{"created": Time, "created_by": `CMD ["/bin/sh"]`, "empty_layer": true})
	return toJSON(c)
}

// ID is the image's ID.
func (i Image) ID() digest.Digest { return digest.FromBytes(i.Config()) }

// DiffIDs are those of the layers, bottom first.
func (i Image) DiffIDs() []digest.Digest {
	ids := make([]digest.Digest, len(i.Layers))
	for n, l := range i.Layers {
		ids[n] = digest.FromBytes(l)
	}
	return ids
}

func platformJSON(s string) map[string]string {
	if s == "" {
		s = "linux/amd64"
	}
	part := strings.Split(s, "/")
	p := map[string]string{"os": part[0], "architecture": part[1]}
	if len(part) > 2 {
		p["variant"] = part[2]
	}
	return p
}

// Compress makes other bytes of a layer or of a whole archive.
type Compress func([]byte) []byte

// Plain leaves everything as it is.
func Plain(b []byte) []byte { return b }

// Gzip compresses to one member.
func Gzip(b []byte) []byte {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, err := w.Write(b)
	must(err)
	must(w.Close())
	return out.Bytes()
}

// GzipTwice compresses to two members, one after the other.
func GzipTwice(b []byte) []byte { return append(Gzip(b[:len(b)/2]), Gzip(b[len(b)/2:])...) }

// Zstd compresses to one frame.
func Zstd(b []byte) []byte {
	w, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	must(err)
	defer w.Close()
	return w.EncodeAll(b, nil)
}

// XZ compresses to one stream.
func XZ(b []byte) []byte {
	var out bytes.Buffer
	w, err := xz.WriterConfig{DictCap: 1 << 20}.NewWriter(&out)
	must(err)
	_, err = w.Write(b)
	must(err)
	must(w.Close())
	return out.Bytes()
}

func toJSON(v any) []byte {
	b, err := json.Marshal(v)
	must(err)
	return b
}

func must(err error) {
	if err != nil {
		panic(err) // of a writer to memory: the test that asked for it is wrong
	}
}
