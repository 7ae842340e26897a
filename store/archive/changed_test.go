package archive

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"imagefs/overlay"
	"imagefs/store"
	"imagefs/store/storetest"
)

// firstFile opens a regular file of a layer that is not empty.
func firstFile(t *testing.T, l store.Layer) store.File {
	t.Helper()
	x, err := l.Index(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for i := range overlay.Ino(x.Inodes()) {
		if a := x.Stat(i); a.Mode&0o170000 == 0o100000 && a.Size > 0 {
			f, err := l.Open(ctx, i)
			if err != nil {
				t.Fatal(err)
			}
			return f
		}
	}
	t.Fatal("no file")
	return nil
}

// only returns the image of an archive that has one.
func only(t *testing.T, s *Store) store.Image {
	t.Helper()
	ids, err := s.IDs(ctx)
	if err != nil || len(ids) != 1 {
		t.Fatalf("%d images, %v", len(ids), err)
	}
	img, err := s.Image(ctx, ids[0])
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func copyTo(t *testing.T, from, to string) []byte {
	t.Helper()
	b, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// An archive that is written to gives no more bytes of what it was; one that is
// replaced shows what it is now, and what is open stays as it was.
func TestArchiveChanges(t *testing.T) {
	dir := storetest.Fixtures(t)
	path := filepath.Join(t.TempDir(), "app.tar")
	old := copyTo(t, filepath.Join(dir, "da-docker182-pause.tar"), path)
	s, err := openInPlace(t, path, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	watch, stop := context.WithCancel(ctx)
	changes, err := s.Watch(watch)
	if err != nil {
		t.Fatal(err)
	}
	changed := func(what string) {
		t.Helper()
		select {
		case _, ok := <-changes:
			if !ok {
				t.Errorf("%s: the watch has ended", what)
			}
		case <-time.After(30 * time.Second):
			t.Errorf("%s: nobody is told", what)
		}
	}
	was := only(t, s)
	f := firstFile(t, was.Layers()[0])
	want := make([]byte, f.Size())
	if _, err := f.ReadAt(want, 0); err != nil && err != io.EOF {
		t.Fatal(err)
	}
	next := path + ".new"
	copyTo(t, filepath.Join(dir, "da-docker25-hello.tar"), next)
	if err := os.Rename(next, path); err != nil {
		t.Fatal(err)
	}
	changed("replaced")
	now := only(t, s)
	if now.ID() == was.ID() || now.Layers()[0].Key() == was.Layers()[0].Key() {
		t.Errorf("after the archive was replaced: image %s, was %s", now.ID(), was.ID())
	}
	if _, err := s.Image(ctx, was.ID()); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("the image of the archive that is gone: %v", err)
	}
	got := make([]byte, f.Size())
	if _, err := f.ReadAt(got, 0); err != nil && err != io.EOF || !bytes.Equal(got, want) {
		t.Errorf("a file that is open, of the archive that was replaced: %v", err)
	}

	g := firstFile(t, now.Layers()[0])
	time.Sleep(20 * time.Millisecond) // longer than what a file system's clock takes for one moment
	if err := os.WriteFile(path, old, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := g.ReadAt(got[:1], 0); !errors.Is(err, store.ErrGone) {
		t.Errorf("a file of an archive that was written to: %v", err)
	}
	changed("written to")
	if again := only(t, s); again.ID() != was.ID() {
		t.Errorf("image %s, want %s", again.ID(), was.ID())
	}
	if err := os.Truncate(path, 1000); err != nil {
		t.Fatal(err)
	}
	changed("cut off")
	if _, err := s.IDs(ctx); !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("an archive that was cut off: %v", err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	changed("removed")
	if _, err := s.Names(ctx); !errors.Is(err, store.ErrGone) {
		t.Errorf("an archive that is not there: %v", err)
	}
	stop()
	for range changes {
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if _, err := s.IDs(ctx); err == nil {
		t.Error("a closed store still answers")
	}
}

// A layer whose bytes are not those of its digest is found out when it is
// verified, and gives no more bytes.
func TestTamperedLayerInPlace(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join(storetest.Fixtures(t), "da-docker182-pause.tar"))
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.LastIndex(raw, []byte("\x7fELF"))
	if at < 0 {
		t.Fatal("no program in the archive")
	}
	raw[at+100] ^= 1
	path := filepath.Join(t.TempDir(), "app.tar")
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := openInPlace(t, path, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	img := only(t, s)
	if img.Err() != nil {
		t.Fatal(img.Err())
	}
	var tars []store.File
	for _, l := range img.Layers() {
		f, err := l.Tar(ctx)
		if err != nil {
			t.Fatal(err)
		}
		tars = append(tars, f)
	}
	problems := 0
	if err := s.Check(ctx, true, func(p store.Problem) {
		problems++
		if !errors.Is(p.Err, store.ErrCorrupt) {
			t.Errorf("%s: %v", p.What, p.Err)
		}
	}); err != nil || problems != 1 {
		t.Errorf("check: %d problems, %v", problems, err)
	}
	if err := only(t, s).Err(); !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("the image after the check: %v", err)
	}
	refused := 0
	for _, f := range tars {
		if _, err := f.ReadAt(make([]byte, 1), 0); errors.Is(err, store.ErrCorrupt) {
			refused++
		}
	}
	if refused != 1 {
		t.Errorf("%d layers give no more bytes", refused)
	}
}

func TestWhatIsNoArchive(t *testing.T) {
	dir := t.TempDir()
	file := func(name, content string) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	for path, want := range map[string]error{
		dir:                                     store.ErrNotFound,
		filepath.Join(dir, "nothing"):           store.ErrNotFound,
		"/dev/null":                             store.ErrInvalid,
		file("text", "some text"):               store.ErrCorrupt,
		file("empty", ""):                       store.ErrCorrupt,
		file("app.tar.xz", "\xfd7zXZ\x00 data"): store.ErrUnsupported,
		file("app.tar.bz2", "BZh9 data"):        store.ErrUnsupported,
		file("app.tar.gz", "\x1f\x8b\x08 data"): store.ErrCorrupt,
		file("app.tar.zst", "\x28\xb5\x2f\xfd"): store.ErrCorrupt,
	} {
		s, err := Open(path, StoreOptions{Cache: t.TempDir()})
		if !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", path, err, want)
		}
		if err == nil {
			s.Close()
		}
	}
	for path, want := range map[string]bool{dir: false, "/dev/null": false, filepath.Join(dir, "text"): false, filepath.Join(dir, "app.tar.xz"): true,
		filepath.Join(storetest.Fixtures(t), "da-docker25-hello.tar"): true} {
		if Is(path) != want {
			t.Errorf("Is(%s) is not %t", path, want)
		}
	}
}

// Who waits while another reads an archive that was replaced can give up.
func TestWaitForAnArchiveEnds(t *testing.T) {
	path := filepath.Join(t.TempDir(), "app.tar")
	copyTo(t, filepath.Join(storetest.Fixtures(t), "da-docker25-hello.tar"), path)
	s, err := openInPlace(t, path, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.reading.Take(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := s.IDs(ctx); err != nil {
		t.Errorf("what is known already: %v", err)
	}
	time.Sleep(20 * time.Millisecond) // longer than what a file system's clock takes for one moment
	copyTo(t, filepath.Join(storetest.Fixtures(t), "da-docker25-hello.tar"), path)
	short, stop := context.WithTimeout(ctx, 20*time.Millisecond)
	defer stop()
	if _, err := s.IDs(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("while another reads: %v", err)
	}
	s.reading.Give()
	only(t, s)
}
