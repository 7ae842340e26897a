package rootfs

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

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
