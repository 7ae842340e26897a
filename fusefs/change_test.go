package fusefs_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"imagefs/fusefs"
	"imagefs/store"
)

func chainOf(t testing.TB, s store.Store, id digest.Digest, n int) string {
	t.Helper()
	img, err := s.Image(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	return img.Layers()[n].ChainID().Encoded()
}

// What another process does to the store shows within a second, although the kernel keeps names.
func TestRefresh(t *testing.T) { bothModes(t, testRefresh) }

func testRefresh(t *testing.T, o fusefs.Options) {
	s := newStore(t)
	other := openStore(t, s.Root())
	one := load(t, other, "1", []string{"a:1"}, layerTar(t, "f=1"))
	dir := mount(t, s, o)
	// The kernel keeps these listings.
	if got := list(t, dir, "images") + list(t, dir, "images/a") + list(t, dir, "ids"); got != "a/1"+one.Encoded()+"/" {
		t.Errorf("at first: %q", got)
	}
	before := list(t, dir, "ids", one.Encoded())
	link := func(name string) string {
		to, _ := os.Readlink(filepath.Join(dir, "images", name))
		return filepath.Base(to)
	}
	file := filepath.Join(dir, "images/a/1/rootfs/f")
	if got := text(t, file); got != "1" {
		t.Fatalf("f is %q", got)
	}
	two := load(t, other, "2", []string{"a:1", "b/c:new"}, layerTar(t, "f=2"))
	eventually(t, "retag", func() bool { return link("a/1") == two.Encoded() && link("b/c/new") == two.Encoded() })
	if got := text(t, file); got != "2" {
		t.Errorf("after the retag f is %q", got)
	}
	eventually(t, "listings", func() bool {
		return list(t, dir, "images") == "a/ b/" && list(t, dir, "images/b") == "c/" && strings.Count(list(t, dir, "ids"), "/") == 2 &&
			list(t, dir, "ids", one.Encoded()) == strings.Replace(before, " tags", "", 1)
	})
	if err := other.Untag(ctx, "b/c:new"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "untag", func() bool { return link("b/c/new") == "." && list(t, dir, "images") == "a/" })

	old := filepath.Join(dir, "ids", one.Encoded())
	open, err := os.Open(old + "/rootfs/f")
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	if _, err := other.Remove(ctx, one.String(), false); err != nil {
		t.Fatal(err)
	}
	eventually(t, "removal", func() bool { _, err := os.Stat(old); return errors.Is(err, unix.ENOENT) })
	if b, err := io.ReadAll(open); err != nil || string(b) != "1" {
		t.Errorf("an open file of a removed image: %q, %v", b, err)
	}
	if list(t, dir, "ids") != two.Encoded()+"/" {
		t.Errorf("ids lists %q", list(t, dir, "ids"))
	}
	// The same image comes back as a new directory.
	load(t, other, "1", []string{"again:1"}, layerTar(t, "f=1"))
	eventually(t, "return", func() bool { b, _ := os.ReadFile(old + "/rootfs/f"); return string(b) == "1" })
}

// A process that stands in a removed image learns it.
func TestStale(t *testing.T) { bothTransports(t, testStale) }

func testStale(t *testing.T, o fusefs.Options) {
	s := newStore(t)
	id := load(t, s, "", []string{"a:1"}, layerTar(t, "d/", "d/f=1"))
	dir := mount(t, s, o)
	d, err := unix.Open(filepath.Join(dir, "ids", id.Encoded(), "rootfs/d"), unix.O_DIRECTORY|unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(d)
	if err := command(dir, "rmi", "a:1"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "ESTALE", func() bool {
		fd, err := unix.Openat(d, "never-seen", unix.O_RDONLY, 0)
		if err == nil {
			unix.Close(fd)
		}
		return errors.Is(err, unix.ESTALE) || errors.Is(err, unix.ENOENT)
	})
}

func command(dir, file, cmd string) error {
	f, err := os.OpenFile(filepath.Join(dir, "ctl", file), os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(cmd)
	return errors.Join(err, f.Close())
}

func TestCommands(t *testing.T) { bothTransports(t, testCommands) }

func testCommands(t *testing.T, o fusefs.Options) {
	s := newStore(t)
	id := load(t, s, "", []string{"a:1"}, layerTar(t, "f=1"))
	load(t, s, "other", []string{"c:1"}, layerTar(t, "f=2"))
	dir := mount(t, s, o)
	for _, c := range []struct {
		file, cmd string
		want      error
	}{
		{"tag", "a:1 me/web:live\n", nil},
		{"tag", id.Encoded()[:12] + " again", nil},
		{"tag", "a:1", unix.EINVAL},
		{"tag", "a:1 b:1\na:1 b:2\n", unix.EINVAL},
		{"tag", "nope b:1", unix.ENOENT},
		{"tag", "a:1 UPPER", unix.EINVAL},
		{"tag", strings.Repeat("x", 5000), unix.EINVAL},
		{"rmi", "nope", unix.ENOENT},
		{"rmi", id.String(), unix.EBUSY},
		{"rmi", "again", nil},
		{"load", "/no/such/file", unix.EOPNOTSUPP},
	} {
		err := command(dir, c.file, c.cmd)
		if c.want == nil && err != nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%.60q > %s: %v, want %v", c.cmd, c.file, err, c.want)
		}
	}
	// Shows at once to whoever gave the command.
	if got := text(t, dir, "images/me/web/live/rootfs/f"); got != "1" {
		t.Errorf("the new tag shows %q", got)
	}
	if err := command(dir, "rmi", "-f "+id.Encoded()); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(filepath.Join(dir, "images/me")); !errors.Is(err, unix.ENOENT) {
		t.Errorf("after rmi -f: %v", err)
	}
	if got := text(t, dir, "ctl/last"); !strings.Contains(got, `"deleted":["`+id.String()) {
		t.Errorf("last: %s", got)
	}
	if n := strings.Count(text(t, dir, "ctl/errors"), "\n"); n != 8 {
		t.Errorf("%d failures in ctl/errors, want 8", n)
	}
	for _, f := range []string{"last", "errors", "help"} {
		err := command(dir, f, "x")
		if err == nil {
			t.Errorf("%s can be written", f)
		}
	}
	if _, err := os.ReadFile(filepath.Join(dir, "ctl/tag")); err == nil {
		t.Error("tag can be read")
	}
}

func TestOpenFileKeepsImage(t *testing.T) { bothTransports(t, testOpenFileKeepsImage) }

func testOpenFileKeepsImage(t *testing.T, o fusefs.Options) {
	s := newStore(t)
	load(t, s, "", []string{"a:1"}, layerTar(t, "f=1"))
	dir := mount(t, s, o)
	f, err := os.Open(filepath.Join(dir, "images/a/1/rootfs/f"))
	if err != nil {
		t.Fatal(err)
	}
	wantErr(t, "rmi of an image with an open file", command(dir, "rmi", "a:1"), unix.EBUSY)
	f.Close()
	eventually(t, "rmi after close", func() bool { return command(dir, "rmi", "a:1") == nil })
}

// loader takes "good" followed by as much as there is, up to "end".
type loader struct{ loaded, aborted chan string }

func (l loader) Load(ctx context.Context, r io.Reader) ([]store.Loaded, error) {
	b, err := io.ReadAll(r)
	if err != nil {
		l.aborted <- err.Error()
		return nil, err
	}
	if !strings.HasPrefix(string(b), "good") || !strings.HasSuffix(string(b), "end") {
		return nil, fmt.Errorf("no archive: %w", store.ErrCorrupt)
	}
	l.loaded <- fmt.Sprint(len(b))
	return nil, nil
}

func (l loader) LoadPath(ctx context.Context, path string) ([]store.Loaded, error) {
	if path != "/an/archive.tar" {
		return nil, fmt.Errorf("%s: %w", path, store.ErrNotFound)
	}
	return []store.Loaded{{Names: []string{"x:1"}}}, nil
}

func TestLoad(t *testing.T) { bothTransports(t, testLoad) }

func testLoad(t *testing.T, o fusefs.Options) {
	l := loader{make(chan string, 9), make(chan string, 9)}
	o.Loader = l
	dir := mount(t, newStore(t), o)
	open := func() *os.File {
		t.Helper()
		f, err := os.OpenFile(filepath.Join(dir, "ctl/load"), os.O_WRONLY|os.O_TRUNC, 0)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	if err := command(dir, "load", "/an/archive.tar\n"); err != nil {
		t.Error(err)
	}
	if got := text(t, dir, "ctl/last"); !strings.Contains(got, `"x:1"`) {
		t.Errorf("last: %s", got)
	}
	for _, q := range []string{`"/an/archive.tar"`, `'/an/archive.tar' ` + "\n"} {
		if err := command(dir, "load", q); err != nil {
			t.Errorf("%s: %v", q, err)
		}
	}
	wantErr(t, "no file", command(dir, "load", "/nothing\n"), unix.ENOENT)
	wantErr(t, "no file, with blanks", command(dir, "load", "/an archive.tar\n"), unix.ENOENT)
	wantErr(t, "two paths", command(dir, "load", `"/an/archive.tar" "/b"`), unix.EINVAL)
	wantErr(t, "a quote that is not closed", command(dir, "load", `'/an/archive.tar`), unix.EINVAL)
	wantErr(t, "no archive", command(dir, "load", "rubbish"), unix.EBADMSG)
	// A line of text is no archive, and the write says so: echo does not look at the close.
	f, err := os.OpenFile(filepath.Join(dir, "ctl/load"), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteString("archive.tar\n")
	wantErr(t, "a relative path", err, unix.EINVAL)
	if err := f.Close(); err != nil {
		t.Error(err)
	}

	big := "good" + strings.Repeat("x", 3<<20) + "end"
	f = open()
	dup, err := unix.Dup(int(f.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(dup) // a close before the first byte ends nothing
	if _, err := io.WriteString(f, big); err != nil {
		t.Error(err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	if got := <-l.loaded; got != fmt.Sprint(len(big)) {
		t.Errorf("%s bytes came, %d went", got, len(big))
	}

	// Two archives one after the other through one open file, as "cat a; cat b" of a shell does.
	f = open()
	for range 2 {
		io.WriteString(f, "good end")
		dup, err := unix.Dup(int(f.Fd()))
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Close(dup); err != nil {
			t.Error(err)
		}
		if got := <-l.loaded; got != "8" {
			t.Errorf("%s bytes came", got)
		}
	}
	f.Close()

	// Cut short: the error comes from close, and nothing is loaded.
	f = open()
	io.WriteString(f, "good but")
	wantErr(t, "cut short", f.Close(), unix.EBADMSG)
	select {
	case got := <-l.loaded:
		t.Errorf("loaded %s", got)
	case <-time.After(50 * time.Millisecond):
	}
}
