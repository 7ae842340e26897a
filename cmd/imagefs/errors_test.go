package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"imagefs/store"
	"imagefs/store/report"
)

func TestSentence(t *testing.T) {
	denied := "open /x: permission denied"
	if os.Geteuid() != 0 {
		denied += "; try it as root (sudo imagefs …), or with a store of your own (--store)"
	}
	for _, c := range []struct {
		err  error
		want string
	}{
		{fmt.Errorf("no such image: x:1: %w", store.ErrNotFound), "no such image: x:1"},
		{fmt.Errorf("load a.tar: %w", store.ErrCorrupt), "load a.tar: corrupt"},
		{fmt.Errorf("reference %q: %w", "A", store.ErrInvalid), `reference "A": invalid`},
		{fmt.Errorf("reference %q: %w: %w", "A", store.ErrInvalid, errors.New("invalid reference format")), `reference "A": invalid reference format`},
		{fmt.Errorf("image ID ab is ambiguous: %w", store.ErrInvalid), "image ID ab is ambiguous"},
		{fmt.Errorf("tag: %w", store.ErrUnsupported), "tag: not supported by this kind of store"},
		{advised{fmt.Errorf("no store at /x: %w", store.ErrNotFound), "make one"}, "no store at /x; make one"},
		{fmt.Errorf("mount: %w", advised{fmt.Errorf("no store at /x: %w", store.ErrNotFound), "make one"}), "mount: no store at /x; make one"},
		{fmt.Errorf("load x: %w", context.Canceled), "load x: interrupted"},
		{errors.New("two\nlines\x1b[2J"), `two; lines\x1b[2J`},
		{&fs.PathError{Op: "open", Path: "/x", Err: unix.EACCES}, denied},
	} {
		if got := sentence(c.err); got != c.want {
			t.Errorf("%v: got %q, want %q", c.err, got, c.want)
		}
	}
}

func TestFail(t *testing.T) {
	for _, c := range []struct {
		err    error
		caught os.Signal
		code   int
		lines  int
	}{
		{nil, nil, 0, 0},
		{errors.New("x"), nil, 1, 1},
		{failed, nil, 1, 0},
		{fmt.Errorf("x: %w", &exitError{7}), nil, 7, 0},
		{usagef("x"), nil, 2, 1},
		{fmt.Errorf("x: %w", report.ErrTemplate), nil, 2, 1},
		{fmt.Errorf("write: %w", unix.EPIPE), nil, 1, 0},
		{context.Canceled, unix.SIGINT, 130, 1},
		{context.Canceled, unix.SIGTERM, 143, 1},
		{context.Canceled, nil, 1, 1},
	} {
		var out bytes.Buffer
		a := newApp(nil, &bytes.Buffer{}, &out)
		a.caught = c.caught
		if code := a.fail(c.err); code != c.code || strings.Count(out.String(), "\n") != c.lines {
			t.Errorf("%v: exit code %d, want %d; said %q", c.err, code, c.code, out.String())
		}
	}
}

func TestPanicIsOneLine(t *testing.T) {
	var out bytes.Buffer
	a := newApp(nil, nil, &out) // no standard output: printing panics
	if code := a.run([]string{"version"}); code != exitInternal || strings.Count(out.String(), "\n") != 1 || !strings.HasPrefix(out.String(), "imagefs: internal error: ") {
		t.Errorf("exit code %d, said %q", code, out.String())
	}
}

func TestLog(t *testing.T) {
	var out bytes.Buffer
	log := newLog(&out, slog.LevelInfo, false).With("store", "/s")
	log.Debug("not this")
	log.Warn("index is\ndamaged", "layer", "sha256:1", "err", errors.New("a\x1bb"))
	log.WithGroup("g").Info("done")
	want := "imagefs: warning: index is; damaged store=/s layer=sha256:1 err=a\\x1bb\nimagefs: done store=/s\n"
	if out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
}

func TestOverlap(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{"store/overlay2", "storefront", "other"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for d, overlaps := range map[string]bool{
		"store": true, "store/overlay2": true, ".": true, "/": true, "storefront": false, "other": false,
	} {
		at := d
		if !filepath.IsAbs(d) {
			at = filepath.Join(dir, d)
		}
		if err := refuseOverlap(at, filepath.Join(dir, "store")); (err != nil) != overlaps {
			t.Errorf("%s: %v", d, err)
		}
	}
}

func TestMountOptions(t *testing.T) {
	o := mountOptions{words: []string{"rw", "ro", "allow_other", "x-systemd.automount", "noauto", "suid"}}
	if err := o.apply(); err != nil || !o.readOnly || !o.allowOther || !o.suid || o.dev {
		t.Errorf("%+v, %v", o, err)
	}
	o = mountOptions{words: []string{"lowerdir=/x"}}
	if err := o.apply(); !isUsage(err) {
		t.Errorf("lowerdir: %v", err)
	}
}

func TestShellWord(t *testing.T) {
	for in, want := range map[string]string{
		"app.tar": "app.tar", "/a/b-c_d.tar:1": "/a/b-c_d.tar:1", "my app.tar": "'my app.tar'", "it's": `'it'\''s'`, "": "''",
		"https://x/?a=1&b=2": "'https://x/?a=1&b=2'", "$HOME": "'$HOME'", "a b": "'a b'", "~x": "'~x'", "a*b": "'a*b'", "-x": "-x",
	} {
		if got := shellWord(in); got != want {
			t.Errorf("%s is %s, want %s", in, got, want)
		}
	}
}
