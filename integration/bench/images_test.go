package bench

import (
	"archive/tar"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"imagefs/integration/harness"
	"imagefs/integration/images"
)

// archiveOf returns an archive with two tags that share most of their layers:
// one that docker saved of real images, or one of this machine's own files.
func archiveOf(t *testing.T) (archive string, refs []string) {
	t.Helper()
	if *full {
		if e := harness.SharedEngine(t); e != nil {
			return e.Both, []string{e.Old, e.New}
		}
		return assemble(t, 400<<20), []string{"own:1", "own:2"}
	}
	return assemble(t, 4<<20), []string{"own:1", "own:2"}
}

// assemble makes an archive with about size bytes of this machine's files.
func assemble(t *testing.T, size int64) string {
	t.Helper()
	at := time.Unix(1700000000, 0)
	b := &images.Tar{Time: at}
	var had int64
	enough := errors.New("enough")
	err := filepath.WalkDir("/usr", func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return nil // a file that went away
		}
		name := strings.TrimPrefix(p, "/")
		switch {
		case e.IsDir():
			b.Dir(name, 0o755)
		case e.Type() == fs.ModeSymlink:
			if to, err := os.Readlink(p); err == nil {
				b.Symlink(name, to)
			}
		case e.Type().IsRegular():
			if info, err := e.Info(); err != nil || info.Size() > size/4 {
				return nil
			}
			content, err := os.ReadFile(p)
			if err != nil {
				return nil
			}
			b.File(name, 0o644, content)
			if had += int64(len(content)); had > size {
				return enough
			}
		}
		return nil
	})
	if err != nil && !errors.Is(err, enough) {
		t.Fatal(err)
	}
	layer := func(b *images.Tar) images.Layer {
		l, err := b.Layer()
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	base := images.Step{By: "ADD /usr", Layer: layer(b)}
	gone := images.Step{By: "RUN rm -rf /usr/share/doc", Layer: layer((&images.Tar{Time: at}).
		Add(tar.Header{Typeflag: tar.TypeDir, Name: "usr/", Mode: 0o755}, nil).File("usr/.wh.include", 0, nil).File("top", 0o644, []byte("1")))}
	more := images.Step{By: "RUN more", Layer: layer((&images.Tar{Time: at}).File("top", 0o644, []byte("2")).File("more", 0o644, []byte("2")))}
	name := filepath.Join(t.TempDir(), "own.tar")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := images.Write(f, images.Image{Tags: []string{"own:1"}, Created: at, Steps: []images.Step{base, gone}},
		images.Image{Tags: []string{"own:2"}, Created: at, Steps: []images.Step{base, gone, more}}); err != nil {
		t.Fatal(err)
	}
	return name
}
