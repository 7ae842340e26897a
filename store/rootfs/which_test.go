package rootfs

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"imagefs/overlay"
	"imagefs/store"
	"imagefs/store/storetest"
)

func TestWhich(t *testing.T) {
	f, s := open(t, storetest.Tar(
		storetest.Entry{Name: "usr/bin/"}, storetest.Entry{Name: "usr/bin/tool", Body: "1"}, storetest.Entry{Name: "usr/bin/old", Body: "1"},
		storetest.Entry{Name: "bin", Link: "usr/bin"}, storetest.Entry{Name: "gone", Link: "usr"}, storetest.Entry{Name: "loop", Link: "loop"},
	), storetest.Tar(
		storetest.Entry{Name: "usr/bin/tool", Body: "1", Mode: 0o755}, storetest.Entry{Name: "usr/bin/.wh.old"}, storetest.Entry{Name: ".wh.gone"},
	))
	id, _, err := store.Resolve(ctx, s, "a:1")
	if err != nil {
		t.Fatal(err)
	}
	img, err := s.Image(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		path   string
		follow bool
		want   string
		err    error
	}{
		{"/usr/bin/tool", false, "/usr/bin/tool 0A 1Cmode", nil},
		{"bin/tool", false, "/usr/bin/tool 0A 1Cmode", nil},
		{"/bin/../../bin/./tool", false, "/usr/bin/tool 0A 1Cmode", nil},
		{"bin", false, "/bin 0A", nil},
		{"bin", true, "/usr/bin 0A", nil},
		{"bin/", false, "/usr/bin 0A", nil},
		{"bin/old", false, "/usr/bin/old 0A 1Dwhiteout:usr/bin/old", nil},
		{"gone", false, "/gone 0A 1Dwhiteout:gone", nil},
		{"gone/bin/tool", false, "/usr/bin/tool 0A 1Cmode", nil},
		{"never", false, "", unix.ENOENT}, {"bin/never", false, "", unix.ENOENT}, {"usr/bin/tool/x", false, "", unix.ENOTDIR},
		{"loop", true, "", unix.ELOOP}, {"loop", false, "/loop 0A", nil}, {strings.Repeat("n", 256), false, "", unix.ENAMETOOLONG},
	} {
		got := ""
		w, err := Which(ctx, img, c.path, c.follow)
		if err == nil {
			got = w.Path
			for _, s := range w.Steps {
				got += fmt.Sprintf(" %d%c%s", s.Layer, s.Op, s.What)
				if s.Op == 'D' {
					got += s.By.String() + ":" + s.At
				}
			}
		}
		if got != c.want || !errors.Is(err, c.err) {
			t.Errorf("%s, %v: %q %v, want %q %v", c.path, c.follow, got, err, c.want, c.err)
		}
		if w.Steps != nil && w.There() {
			if n, err := f.Find(w.Path, false); err != nil || n.Attr.Mode != w.Steps[len(w.Steps)-1].Mode {
				t.Errorf("%s: found as %+v, %v", w.Path, n, err)
			}
		}
	}
	if _, err := Which(ctx, broken{}, "/", false); !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("%v", err)
	}
}

// Content is read where sizes do not tell, and compared with what was there before.
func TestWhichContent(t *testing.T) {
	file := func(name, body string, mode int64) storetest.Entry {
		return storetest.Entry{Name: name, Body: body, Mode: mode}
	}
	twice := storetest.Tar(file("twice", "T", 0), file("kind", "K", 0))
	_, s := open(t,
		storetest.Tar(file("f", "abc", 0), file("empty", "", 0), storetest.Entry{Name: "kind", Link: "f"}, storetest.Entry{Name: "l", Link: "f"}, storetest.Entry{Name: "d/"}),
		twice,
		storetest.Tar(file("f", "abc", 0o600), file("empty", "", 0), storetest.Entry{Name: "l", Link: "f"}, storetest.Entry{Name: "d/"}),
		storetest.Tar(file("f", "abd", 0o600)),
		storetest.Tar(file("f", "longer", 0o600)),
		twice,
		storetest.Tar(storetest.Entry{Name: ".wh.f"}, storetest.Entry{Name: "hard", Type: '1', Link: "twice"}),
		storetest.Tar(file("f", "longer", 0o600)),
		storetest.Tar(file("f", "longer", 0o600)),
	)
	id, _, err := store.Resolve(ctx, s, "a:1")
	if err != nil {
		t.Fatal(err)
	}
	img, err := s.Image(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	look := func(img store.Image, path string) string {
		w, err := Which(ctx, img, path, false)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, s := range w.Steps {
			got += fmt.Sprintf(" %d%c", s.Layer, s.Op)
			if s.Op == 'C' {
				got += fmt.Sprintf("%s=%s", s.What, s.Content)
			}
		}
		return got
	}
	for path, want := range map[string]string{
		"f":     " 0A 2Cmode=same 3Ccontent=changed 4Ccontent=changed 6D 7A 8C=same",
		"empty": " 0A 2C=same",
		"kind":  " 0A 1Ctype= 5C=same",
		"twice": " 1A 5C=same",
		"l":     " 0A 2C=",
		"d":     " 0A 2C=",
	} {
		if got := look(img, path); got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
	// What cannot be read is told of all the same, and what needs no reading is not read.
	lost := unreadable{img}
	for path, want := range map[string]string{
		"f":     " 0A 2Cmode=unknown 3C=unknown 4Ccontent=changed 6D 7A 8C=unknown",
		"empty": " 0A 2C=same",
	} {
		if got := look(lost, path); got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
}

// unreadable is an image whose layers have lost their files.
type unreadable struct{ store.Image }

type unreadableLayer struct{ store.Layer }

func (u unreadable) Layers() (out []store.Layer) {
	for _, l := range u.Image.Layers() {
		out = append(out, unreadableLayer{l})
	}
	return out
}

func (unreadableLayer) Open(context.Context, overlay.Ino) (store.File, error) {
	return nil, store.ErrGone
}
