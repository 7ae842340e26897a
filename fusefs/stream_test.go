package fusefs_test

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"imagefs/fusefs"
	"imagefs/store"
)

// keeper is a Loader that keeps what it read to the end.
type keeper struct{ got chan []byte }

func (k keeper) Load(ctx context.Context, r io.Reader) ([]store.Loaded, error) {
	b, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	k.got <- b
	return []store.Loaded{{Names: []string{"x:1"}}}, nil
}

func (k keeper) LoadPath(context.Context, string) ([]store.Loaded, error) {
	return nil, store.ErrNotFound
}

// What a program leaves out of a file that it copies is zeros; what comes in
// another order is no archive.
func TestStreamOffsets(t *testing.T) { bothTransports(t, testStreamOffsets) }

func testStreamOffsets(t *testing.T, o fusefs.Options) {
	k := keeper{make(chan []byte, 1)}
	o.Loader = k
	dir := mount(t, newStore(t), o)
	hole := strings.Repeat("\x00", 1<<20+7)
	for what, c := range map[string]struct {
		flags int
		do    func(f *os.File) error
		want  string
	}{
		"a hole": {0, func(f *os.File) error {
			f.WriteString("a\x00")
			f.Seek(int64(len(hole)), io.SeekCurrent)
			_, err := f.WriteString("b")
			return err
		}, "a\x00" + hole + "b"},
		"a hole at the beginning": {0, func(f *os.File) error {
			_, err := f.WriteAt([]byte("/b"), int64(len(hole)))
			return err
		}, hole + "/b"},
		"a hole at the end": {0, func(f *os.File) error {
			f.WriteString("a\x00")
			return f.Truncate(int64(len(hole) + 2))
		}, "a\x00" + hole},
		"appended": {os.O_APPEND, func(f *os.File) error {
			f.WriteString("a\x00")
			_, err := f.WriteString("b")
			return err
		}, "a\x00b"},
		"cut before it began": {os.O_TRUNC, func(f *os.File) error {
			f.Truncate(0)
			_, err := f.WriteString("a\x00")
			return err
		}, "a\x00"},
		"backwards": {0, func(f *os.File) error {
			f.WriteString("a\x00b")
			_, err := f.WriteAt([]byte("c"), 1)
			return err
		}, ""},
		"cut": {0, func(f *os.File) error {
			f.WriteString("a\x00b")
			return f.Truncate(1)
		}, ""},
	} {
		f, err := os.OpenFile(filepath.Join(dir, "ctl/load"), os.O_WRONLY|c.flags, 0)
		if err != nil {
			t.Fatal(err)
		}
		if c.want == "" {
			wantErr(t, what, c.do(f), unix.EINVAL)
			wantErr(t, what+", close", f.Close(), unix.EINVAL)
			if last := text(t, dir, "ctl/last"); !strings.Contains(last, `"ok":false`) || !strings.Contains(last, "an archive is taken in order") {
				t.Errorf("%s: last is %s", what, last)
			}
			continue
		}
		if err := c.do(f); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if err := f.Close(); err != nil {
			t.Errorf("%s: close: %v", what, err)
			continue
		}
		if got := <-k.got; !bytes.Equal(got, []byte(c.want)) {
			t.Errorf("%s: %d bytes came, %d went, or they are others", what, len(got), len(c.want))
		}
	}
	select {
	case got := <-k.got:
		t.Errorf("%d bytes were taken in that came out of order", len(got))
	default:
	}
}

// cp -p gives the copy a mode, an owner and times when all has been taken in.
func TestStreamAttributes(t *testing.T) {
	dir := mount(t, newStore(t), fusefs.Options{Loader: keeper{make(chan []byte, 1)}})
	load, tag := filepath.Join(dir, "ctl/load"), filepath.Join(dir, "ctl/tag")
	for _, err := range []error{os.Chmod(load, 0o640), os.Chown(load, os.Getuid(), os.Getgid()), os.Chtimes(load, time.Now(), time.Now())} {
		if err != nil {
			t.Error(err)
		}
	}
	if st := stat(t, load); st.Mode&0o7777 != 0o200 {
		t.Errorf("mode is %o", st.Mode)
	}
	wantErr(t, "chmod", os.Chmod(tag, 0o644), unix.EPERM)
	wantErr(t, "truncate", os.Truncate(load, 5), unix.EINVAL)
}

// That an archive had no bytes cannot be said by close(2), but ctl/last says it.
func TestEmptyStream(t *testing.T) {
	dir := mount(t, newStore(t), fusefs.Options{Loader: keeper{make(chan []byte, 1)}})
	for _, file := range []string{"load", "import"} {
		f, err := os.OpenFile(filepath.Join(dir, "ctl", file), os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
		eventually(t, "last tells of "+file, func() bool {
			last := text(t, dir, "ctl/last")
			return strings.Contains(last, `"op":"`+file+`"`) && strings.Contains(last, "nothing was written")
		})
	}
}
