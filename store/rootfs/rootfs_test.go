package rootfs

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"imagefs/store"
	"imagefs/store/archive"
	"imagefs/store/docker"
	"imagefs/store/storetest"
)

var ctx = context.Background()

// open loads an image of layers and opens its root file system.
func open(t testing.TB, layers ...[]byte) (*FS, *docker.Store) {
	t.Helper()
	s, err := docker.Open(filepath.Join(t.TempDir(), "store"), docker.Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	img := storetest.Image{Names: []string{"a:1"}, Layers: layers}
	if _, err := archive.NewLoader(s, archive.Options{}).Load(ctx, bytes.NewReader(storetest.Docker(img).Tar())); err != nil {
		t.Fatal(err)
	}
	got, err := s.Image(ctx, img.ID())
	if err != nil {
		t.Fatal(err)
	}
	f, err := Open(ctx, got)
	if err != nil {
		t.Fatal(err)
	}
	return f, s
}

func TestFind(t *testing.T) {
	f, _ := open(t, storetest.Tar(
		storetest.Entry{Name: "etc/"}, storetest.Entry{Name: "etc/passwd", Body: "root"},
		storetest.Entry{Name: "etc/here", Link: "passwd"}, storetest.Entry{Name: "abs", Link: "/etc/here"},
		storetest.Entry{Name: "up", Link: "../../../../etc"}, storetest.Entry{Name: "etc/back", Link: ".."},
		storetest.Entry{Name: "loop", Link: "loop2"}, storetest.Entry{Name: "loop2", Link: "loop"},
		storetest.Entry{Name: "dangling", Link: "nothing/x"}, storetest.Entry{Name: "twice", Link: "twice/twice"},
		storetest.Entry{Name: "empty"},
	), storetest.Files("etc/.wh.group=", "etc/new=n"))
	for _, c := range []struct {
		path   string
		follow bool
		want   string // a file's content, "dir", "link"
		err    error
	}{
		{"/", true, "dir", nil}, {"", false, "dir", nil}, {"..", true, "dir", nil}, {"/../../etc/passwd", false, "root", nil},
		{"etc/passwd", false, "root", nil}, {"//etc/./passwd", false, "root", nil}, {"/etc/new", true, "n", nil}, {"empty", true, "", nil},
		{"/etc/here", true, "root", nil}, {"/etc/here", false, "link", nil}, {"abs", true, "root", nil},
		{"up/passwd", true, "root", nil}, {"up", false, "link", nil}, {"up/", false, "dir", nil}, {"etc/back/etc/back/empty", true, "", nil},
		{"etc/passwd/", true, "", unix.ENOTDIR}, {"etc/passwd/x", true, "", unix.ENOTDIR}, {"etc/passwd/..", true, "", unix.ENOTDIR},
		{"nothing", true, "", unix.ENOENT}, {"dangling", true, "", unix.ENOENT}, {"dangling", false, "link", nil}, {"etc/group", true, "", unix.ENOENT},
		{"loop", true, "", unix.ELOOP}, {"loop", false, "link", nil}, {"twice", true, "", unix.ELOOP}, {"loop/x", false, "", unix.ELOOP},
		{strings.Repeat("n", 256), true, "", unix.ENAMETOOLONG}, {"etc/.wh.group", true, "", unix.ENOENT},
	} {
		n, err := f.Find(c.path, c.follow)
		got := ""
		switch {
		case err != nil:
		case n.IsDir():
			got = "dir"
		case n.Type() == unix.S_IFLNK:
			got = "link"
		default:
			var b bytes.Buffer
			err = f.Copy(&b, n)
			got = b.String()
		}
		if got != c.want || !errors.Is(err, c.err) {
			t.Errorf("%s, %v: %q %v, want %q %v", c.path, c.follow, got, err, c.want, c.err)
		}
	}
}

// The tar of a tree has every kind of entry, in order.
func TestExport(t *testing.T) {
	f, s := open(t, storetest.Tar(
		storetest.Entry{Name: "b", Body: "hard"}, storetest.Entry{Name: "a", Link: "b", Type: tar.TypeLink},
		storetest.Entry{Name: "d/", Mode: 0o1777}, storetest.Entry{Name: "d/s", Link: "/else/where"},
		storetest.Entry{Name: "d/u", Body: "x", Mode: 0o4755, UID: os.Getuid(), GID: os.Getgid(), Xattrs: map[string]string{"user.a%": "v\x00w"}},
		storetest.Entry{Name: "d/p", Type: tar.TypeFifo}, storetest.Entry{Name: "gone", Body: "g"},
		storetest.Entry{Name: "bad\xffname", Body: "y"},
	), storetest.Files(".wh.gone=", "d/.wh.p=", "d-e=z"))
	var b, again bytes.Buffer
	var last Progress
	skipped, err := f.Export(&b, func(p Progress) { last = p })
	if err != nil || len(skipped) > 0 {
		t.Fatal(skipped, err)
	}
	if last.Done != 7 || last.What != "d-e" {
		t.Errorf("progress ends with %+v", last)
	}
	if _, err := f.Export(&again, nil); err != nil || !bytes.Equal(b.Bytes(), again.Bytes()) {
		t.Errorf("twice is not the same: %v", err)
	}
	var got []string
	for r := tar.NewReader(&b); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		line := fmt.Sprintf("%q %c %o %s %s", h.Name, h.Typeflag, h.Mode, h.Linkname, body)
		for k, v := range h.PAXRecords {
			if strings.HasPrefix(k, "SCHILY") || k == "hdrcharset" {
				line += fmt.Sprintf(" %s=%q", k, v)
			}
		}
		got = append(got, line)
	}
	want := []string{
		`"./" 5 755  `, `"a" 0 644  hard`, `"b" 1 644 a `, `"bad\xffname" 0 644  y hdrcharset="BINARY"`,
		`"d/" 5 1777  `, `"d/s" 2 777 /else/where `, `"d/u" 0 4755  x SCHILY.xattr.user.a%25="v\x00w"`, `"d-e" 0 644  z`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}

	// What is lost on disk is an error, and no shorter file.
	files, err := filepath.Glob(filepath.Join(s.Root(), "overlay2/*/diff/d/u"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	if err := os.Remove(files[0]); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Export(io.Discard, nil); !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("a file that is lost: %v", err)
	}
}

func TestBroken(t *testing.T) {
	if _, err := Open(ctx, broken{}); !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("%v", err)
	}
}

// broken is an image that lacks its layers.
type broken struct{ store.Image }

func (broken) RawConfig() []byte     { return nil }
func (broken) Config() store.Config  { return store.Config{} }
func (broken) Layers() []store.Layer { return nil }
func (broken) Err() error            { return store.ErrCorrupt }
