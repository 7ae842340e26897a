package archive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"imagefs/store"
	"imagefs/store/docker"
	"imagefs/store/storetest"
)

var ctx = context.Background()

// Two images that share their base.
var (
	base = storetest.Tar(storetest.Entry{Name: "bin/"}, storetest.Entry{Name: "bin/sh", Body: "#!", Mode: 0o755},
		storetest.Entry{Name: "etc/"}, storetest.Entry{Name: "etc/motd", Body: strings.Repeat("hello\n", 1000)})
	app1 = storetest.Image{Names: []string{"app:1", "app:latest"}, Layers: [][]byte{base, storetest.Files("etc/motd=one", "one=1")}}
	app2 = storetest.Image{Names: []string{"team/app:2"}, Layers: [][]byte{base, storetest.Files("etc/.wh.motd=", "two=2"), storetest.Files("three=3")}}
)

func want(images ...storetest.Image) []store.Loaded {
	var out []store.Loaded
	for _, i := range images {
		out = append(out, store.Loaded{ID: i.ID(), Names: i.Names})
	}
	return out
}

// pipe hides everything but Read.
func pipe(b []byte) io.Reader { return struct{ io.Reader }{bytes.NewReader(b)} }

func write(t testing.TB, b []byte) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), "archive")
	if err := os.WriteFile(p, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

// ways are all ways in which an archive gets in.
var ways = map[string]func(testing.TB, *Loader, []byte) ([]store.Loaded, error){
	"path": func(t testing.TB, l *Loader, b []byte) ([]store.Loaded, error) { return l.LoadPath(ctx, write(t, b)) },
	"pipe": func(t testing.TB, l *Loader, b []byte) ([]store.Loaded, error) { return l.Load(ctx, pipe(b)) },
	"drip": func(t testing.TB, l *Loader, b []byte) ([]store.Loaded, error) {
		return l.Load(ctx, iotest.DataErrReader(iotest.HalfReader(bytes.NewReader(b))))
	},
	"file": func(t testing.TB, l *Loader, b []byte) ([]store.Loaded, error) {
		f, err := os.Open(write(t, append([]byte("before"), b...)))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		f.Seek(6, io.SeekStart)
		out, err := l.Load(ctx, f)
		if at, _ := f.Seek(0, io.SeekCurrent); err == nil && at != int64(len(b)+6) {
			t.Errorf("file is left at %d of %d", at, len(b)+6)
		}
		return out, err
	},
	"fifo": func(t testing.TB, l *Loader, b []byte) ([]store.Loaded, error) {
		p := filepath.Join(t.TempDir(), "fifo")
		if err := unix.Mkfifo(p, 0o600); err != nil {
			t.Fatal(err)
		}
		go func() {
			time.Sleep(20 * time.Millisecond)
			f, err := os.OpenFile(p, os.O_WRONLY, 0)
			if err == nil {
				f.Write(b)
				f.Close()
			}
		}()
		return l.LoadPath(ctx, p)
	},
}

// loadBy loads into a Sink in a way and makes sure that nothing is left open.
func loadBy(t testing.TB, way string, b []byte, o Options) ([]store.Loaded, error) {
	t.Helper()
	var sink storetest.Sink
	out, err := ways[way](t, NewLoader(&sink, o), b)
	if sink.Open() != 0 {
		t.Errorf("%s: the load was neither committed nor aborted", way)
	}
	if err != nil && (out != nil || len(sink.Images()) > 0) {
		t.Errorf("%s: an error and images: %v", way, out)
	}
	return out, err
}

// loadAll is loadBy in the two ways that matter, whose results must be the same.
func loadAll(t testing.TB, a *storetest.Archive, o Options) ([]store.Loaded, error) {
	t.Helper()
	out, err := loadBy(t, "pipe", a.Tar(), o)
	out2, err2 := loadBy(t, "path", a.Tar(), o)
	if !reflect.DeepEqual(out, out2) || fmt.Sprint(err) != fmt.Sprint(err2) {
		t.Errorf("pipe: %v %v\npath: %v %v", out, err, out2, err2)
	}
	return out, err
}

// forms are the archives of app1 and app2 in every form.
func forms() map[string]*storetest.Archive {
	f := map[string]*storetest.Archive{
		"docker": storetest.Docker(app1, app2),
		"hybrid": storetest.Hybrid(app1, app2),
	}
	for name, c := range map[string]storetest.Compress{"plain": storetest.Plain, "gzip": storetest.Gzip, "two gzips": storetest.GzipTwice, "zstd": storetest.Zstd, "xz": storetest.XZ} {
		f["oci "+name] = storetest.OCI(c, app1, app2)
	}
	first := storetest.OCI(storetest.Gzip, app1, app2)
	first.First("index.json")
	f["oci with the index first"] = first
	first = storetest.Docker(app1, app2)
	first.First("manifest.json")
	f["docker with the manifest first"] = first
	gz := storetest.Docker(app1, app2)
	for i, m := range gz.Members {
		if strings.HasSuffix(m.Name, "/layer.tar") && m.Link == "" {
			gz.Members[i].Body = storetest.Gzip(m.Body)
		}
	}
	f["docker with gzip layers"] = gz
	return f
}

func TestEveryFormInEveryWay(t *testing.T) {
	for form, a := range forms() {
		for outer, c := range map[string]storetest.Compress{"plain": storetest.Plain, "gzip": storetest.Gzip, "two gzips": storetest.GzipTwice, "zstd": storetest.Zstd, "xz": storetest.XZ} {
			for way := range ways {
				out, err := loadBy(t, way, c(a.Tar()), Options{})
				if err != nil || !reflect.DeepEqual(out, want(app1, app2)) {
					t.Errorf("%s, %s, by %s: %v %v", form, outer, way, out, err)
				}
			}
		}
	}
}

func TestIntoAStore(t *testing.T) {
	for form, a := range forms() {
		s, err := docker.Open(filepath.Join(t.TempDir(), "store"), docker.Options{Create: true})
		if err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		if err := a.Write(dir); err != nil {
			t.Fatal(err)
		}
		l := NewLoader(s, Options{})
		for range 2 { // the second time all layers are there
			if out, err := l.LoadPath(ctx, dir); err != nil || !reflect.DeepEqual(out, want(app1, app2)) {
				t.Errorf("%s: %v %v", form, out, err)
			}
		}
		if out, err := l.Load(ctx, pipe(a.Tar())); err != nil || !reflect.DeepEqual(out, want(app1, app2)) {
			t.Errorf("%s again: %v %v", form, out, err)
		}
		if err := s.Check(ctx, true, func(p store.Problem) { t.Errorf("%s: check: %s: %v", form, p.What, p.Err) }); err != nil {
			t.Error(err)
		}
		names, err := s.Names(ctx)
		if err != nil || len(names.Tags) != 3 || names.Tags["team/app:2"] != app2.ID() {
			t.Errorf("%s: %v %v", form, names, err)
		}
		s.Close()
	}
}

// TestBzip2 loads a Docker archive of app1 and app2 made with storetest and bzip2 1.0.8.
func TestBzip2(t *testing.T) {
	b, err := os.ReadFile("testdata/docker.tar.bz2")
	if err != nil {
		t.Fatal(err)
	}
	for way := range ways {
		if out, err := loadBy(t, way, b, Options{}); err != nil || !reflect.DeepEqual(out, want(app1, app2)) {
			t.Errorf("%s: %v %v", way, out, err)
		}
	}
}

func TestKnownLayersAreNotRead(t *testing.T) {
	for form, a := range forms() {
		sink := storetest.Sink{Has: map[digest.Digest]bool{}}
		sink.Has[store.ChainID(app1.DiffIDs()[:1])] = true
		sink.Has[store.ChainID(app1.DiffIDs())] = true
		for i, m := range a.Members {
			if m.Link == "" && len(m.Body) > 5000 { // the base
				a.Members[i].Body = make([]byte, len(m.Body))
			}
		}
		var last Progress
		l := NewLoader(&sink, Options{Progress: func(p Progress) { last = p }})
		out, err := l.LoadPath(ctx, write(t, a.Tar()))
		if strings.HasPrefix(form, "oci") && form != "oci plain" {
			continue // the base is too small to be told from the rest
		}
		if err != nil || !reflect.DeepEqual(out, want(app1, app2)) || sink.Unpacked() != 2 {
			t.Errorf("%s: %v %v, %d unpacked", form, out, err, sink.Unpacked())
		}
		if last.Read != last.Total || last.What != "commit" {
			t.Errorf("%s: %+v", form, last)
		}
	}
}

func TestMissingLayer(t *testing.T) {
	a := storetest.Hybrid(app1)
	name := "blobs/sha256/" + app1.DiffIDs()[0].Encoded()
	a.Remove(name)
	if _, err := loadAll(t, a, Options{}); !errors.Is(err, store.ErrCorrupt) || !strings.Contains(err.Error(), name) {
		t.Error(err)
	}
	for _, way := range []string{"pipe", "path"} {
		sink := storetest.Sink{Has: map[digest.Digest]bool{app1.DiffIDs()[0]: true}}
		if _, err := ways[way](t, NewLoader(&sink, Options{}), a.Tar()); err != nil {
			t.Errorf("%s: the store has it: %v", way, err)
		}
	}
}

func TestLayersElsewhere(t *testing.T) {
	l := storetest.NewLayout()
	m := storetest.Manifest{SchemaVersion: 2, MediaType: storetest.TypeManifest, Config: l.Blob(storetest.TypeConfig, app1.Config())}
	for i, tar := range app1.Layers {
		d := l.Blob("application/vnd.oci.image.layer.nondistributable.v1.tar", tar)
		if i == 0 {
			d.URLs = []string{"https://example.com/base"}
			l.Remove("blobs/sha256/" + d.Digest.Encoded())
		}
		m.Layers = append(m.Layers, d)
	}
	l.Index(l.JSON(storetest.TypeManifest, m))
	if _, err := loadAll(t, &l.Archive, Options{}); !errors.Is(err, store.ErrNotFound) || !strings.Contains(err.Error(), "example.com") {
		t.Error(err)
	}
}

func TestLinks(t *testing.T) {
	id := app1.ID().Encoded()
	for name, change := range map[string]func(*storetest.Archive){
		"symbolic link": func(a *storetest.Archive) {
			a.Symlink("../../elsewhere", "blobs/sha256/"+id)
			a.Set("elsewhere", app1.Config())
		},
		"absolute link": func(a *storetest.Archive) {
			a.Symlink("/elsewhere", "blobs/sha256/"+id)
			a.Set("elsewhere", app1.Config())
		},
		"hard link": func(a *storetest.Archive) {
			a.Hardlink("elsewhere", "blobs/sha256/"+id)
			a.Set("elsewhere", app1.Config())
		},
		"directory": func(a *storetest.Archive) { move(a, "blobs/", "content/"); a.Symlink("content", "blobs") },
		"link to a link": func(a *storetest.Archive) {
			a.Symlink("a", "manifest.json")
			a.Symlink("b", "a")
			a.Set("b", storetest.Hybrid(app1).Get("manifest.json"))
		},
		"names with dots":      func(a *storetest.Archive) { move(a, "", "./x/../") },
		"absolute names":       func(a *storetest.Archive) { move(a, "", "/") },
		"names above the root": func(a *storetest.Archive) { move(a, "", "../../") },
		"the last of a name":   func(a *storetest.Archive) { double(a, "blobs/sha256/"+id, []byte("{}")) },
		"a file after its link": func(a *storetest.Archive) {
			a.Members = append([]storetest.Member{{Name: "blobs/sha256/" + id, Link: "nothing"}}, a.Members...)
		},
	} {
		a := storetest.Hybrid(app1)
		change(a)
		if out, err := loadAll(t, a, Options{}); err != nil || !reflect.DeepEqual(out, want(app1)) {
			t.Errorf("%s: %v %v", name, out, err)
		}
	}
	for name, change := range map[string]func(*storetest.Archive){
		"circle": func(a *storetest.Archive) {
			a.Symlink("b", "a")
			a.Symlink("a", "b")
			a.Symlink("../../a", "blobs/sha256/"+id)
		},
		"to itself": func(a *storetest.Archive) { a.Hardlink("blobs/sha256/"+id, "blobs/sha256/"+id) },
		"dangling":  func(a *storetest.Archive) { a.Symlink("nothing", "blobs/sha256/"+id) },
		"too many": func(a *storetest.Archive) {
			for i := range 100 {
				a.Symlink(fmt.Sprint("l", i+1), fmt.Sprint("l", i))
			}
			a.Set("l100", app1.Config())
			a.Symlink("../../l0", "blobs/sha256/"+id)
		},
	} {
		a := storetest.Hybrid(app1)
		change(a)
		if _, err := loadAll(t, a, Options{}); !errors.Is(err, store.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func move(a *storetest.Archive, from, to string) {
	for i, m := range a.Members {
		if rest, ok := strings.CutPrefix(m.Name, from); ok {
			a.Members[i].Name = to + rest
		}
	}
}

func double(a *storetest.Archive, name string, body []byte) {
	a.Members = append([]storetest.Member{{Name: name, Body: body}}, a.Members...)
}

func TestLinksInADirectory(t *testing.T) {
	outside := write(t, app1.Config())
	id := app1.ID().Encoded()
	for name, c := range map[string]struct {
		link string
		ok   bool
	}{
		"inside":         {"../../elsewhere", true},
		"to a link":      {"../../link", true},
		"absolute":       {outside, false},
		"above":          {"../../../archive/../x", false},
		"dangling":       {"nothing", false},
		"to itself":      {id, false},
		"a directory":    {"..", false},
		"through a file": {"../../elsewhere/x", false},
	} {
		a := storetest.Hybrid(app1)
		a.Symlink(c.link, "blobs/sha256/"+id)
		a.Set("elsewhere", app1.Config())
		a.Symlink("elsewhere", "link")
		dir := t.TempDir()
		if err := a.Write(dir); err != nil {
			t.Fatal(err)
		}
		var sink storetest.Sink
		_, err := NewLoader(&sink, Options{}).LoadPath(ctx, dir)
		if c.ok != (err == nil) || err != nil && !errors.Is(err, store.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestPaths(t *testing.T) {
	l := NewLoader(&storetest.Sink{}, Options{})
	for path, is := range map[string]error{
		filepath.Join(t.TempDir(), "none"): store.ErrNotFound,
		"/dev/null":                        store.ErrInvalid,
		t.TempDir():                        store.ErrCorrupt,
		write(t, nil):                      store.ErrCorrupt,
		write(t, []byte("hello")):          store.ErrCorrupt,
		write(t, make([]byte, 10240)):      store.ErrCorrupt,
		write(t, storetest.Files("bin/=", "bin/sh=#!")): store.ErrCorrupt,
	} {
		if out, err := l.LoadPath(ctx, path); !errors.Is(err, is) || out != nil {
			t.Errorf("%s: %v %v", path, out, err)
		}
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(write(t, storetest.Docker(app1).Tar()), link); err != nil {
		t.Fatal(err)
	}
	if _, err := l.LoadPath(ctx, link); err != nil {
		t.Error(err)
	}
}

// goroutines fails the test if more goroutines run at its end than now.
func goroutines(t testing.TB) {
	t.Helper()
	before := runtime.NumGoroutine()
	t.Cleanup(func() {
		for range 100 {
			if runtime.NumGoroutine() <= before {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		buf := make([]byte, 1<<20)
		t.Errorf("%d goroutines, %d before\n%s", runtime.NumGoroutine(), before, buf[:runtime.Stack(buf, true)])
	})
}
