package fusefs_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"imagefs/fusefs"
	"imagefs/store/archive"
)

// last is what ctl/last says.
type last struct {
	OK        bool
	ID        string
	Tags      []string
	Deleted   []string
	Reclaimed int64
	DryRun    bool `json:"dry_run"`
	Skipped   []string
	Error     string
}

func lastOf(t *testing.T, dir string) (l last) {
	t.Helper()
	if err := json.Unmarshal([]byte(text(t, dir, "ctl/last")), &l); err != nil {
		t.Error(err)
	}
	return l
}

func TestPrune(t *testing.T) { bothTransports(t, testPrune) }

func testPrune(t *testing.T, o fusefs.Options) {
	s := newStore(t)
	load(t, s, "named", []string{"a:1"}, layerTar(t, "f=1"))
	loose := load(t, s, "loose", nil, layerTar(t, "g=22"))
	held := load(t, s, "held", nil, layerTar(t, "h=333"))
	dir := mount(t, s, o)
	f, err := os.Open(filepath.Join(dir, "ids", held.Encoded(), "rootfs/h"))
	if err != nil {
		t.Fatal(err)
	}
	ids := list(t, dir, "ids")

	if err := command(dir, "prune", "dangling dry-run\n"); err != nil {
		t.Error(err)
	}
	if l := lastOf(t, dir); !l.OK || !l.DryRun || len(l.Deleted) != 2 || l.Deleted[0] != string(loose) || l.Reclaimed != 2 || len(l.Skipped) != 1 {
		t.Errorf("dry run: %+v", l)
	}
	if got := list(t, dir, "ids"); got != ids {
		t.Errorf("after a dry run there are %q, before %q", got, ids)
	}

	if err := command(dir, "prune", "dangling"); err != nil {
		t.Error(err)
	}
	if l := lastOf(t, dir); !l.OK || l.DryRun || len(l.Deleted) != 2 || l.Reclaimed != 2 || len(l.Skipped) != 1 || !strings.Contains(l.Skipped[0], string(held)) {
		t.Errorf("prune: %+v", l)
	}
	if b, err := io.ReadAll(f); err != nil || string(b) != "333" {
		t.Errorf("the open file: %q, %v", b, err)
	}
	if got := list(t, dir, "ids"); strings.Contains(got, loose.Encoded()) || !strings.Contains(got, held.Encoded()) {
		t.Errorf("ids: %q", got)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	eventually(t, "prune of all", func() bool { // a close takes its time to come here
		return command(dir, "prune", "all until=24h") == nil && list(t, dir, "ids") == ""
	})
	wantErr(t, "nonsense", command(dir, "prune", "everything"), unix.EINVAL)
	wantErr(t, "bad time", command(dir, "prune", "until=soon"), unix.EINVAL)
}

func TestImport(t *testing.T) { bothTransports(t, testImport) }

func testImport(t *testing.T, o fusefs.Options) {
	s := newStore(t)
	o.Importer = archive.NewLoader(s, archive.Options{})
	dir := mount(t, s, o)
	tar := layerTar(t, "etc/", "etc/f=1")
	file := filepath.Join(t.TempDir(), "root.tar")
	if err := os.WriteFile(file, tar, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := command(dir, "import", file+" me/app:v1\n"); err != nil {
		t.Error(err)
	}
	if got := text(t, dir, "images/me/app/v1/rootfs/etc/f"); got != "1" {
		t.Errorf("the file is %q", got)
	}
	if l := lastOf(t, dir); !l.OK || len(l.Tags) != 1 || l.Tags[0] != "me/app:v1" || !strings.HasPrefix(l.ID, "sha256:") {
		t.Errorf("last: %+v", l)
	}
	spaced := filepath.Join(t.TempDir(), `my "root" it's.tar`)
	if err := os.WriteFile(spaced, tar, 0o600); err != nil {
		t.Fatal(err)
	}
	for n, q := range []string{`"` + strings.ReplaceAll(spaced, `"`, `\"`) + `"`, "'" + strings.ReplaceAll(spaced, "'", `'\''`) + "'"} {
		name := fmt.Sprintf("me/quoted:v%d", n)
		if err := command(dir, "import", q+" "+name+"\n"); err != nil {
			t.Errorf("%s: %v", q, err)
		}
		if l := lastOf(t, dir); !l.OK || len(l.Tags) != 1 || l.Tags[0] != name {
			t.Errorf("%s: last: %+v", q, l)
		}
	}
	// As cp does it.
	if err := command(dir, "import", string(tar)); err != nil {
		t.Error(err)
	}
	l := lastOf(t, dir)
	if got := text(t, dir, "ids", strings.TrimPrefix(l.ID, "sha256:"), "rootfs/etc/f"); got != "1" || len(l.Tags) != 0 {
		t.Errorf("the file is %q, last %+v", got, l)
	}
	before := list(t, dir, "ids")
	wantErr(t, "cut short", command(dir, "import", string(tar[:700])), unix.EBADMSG)
	wantErr(t, "no tar", command(dir, "import", "rubbish"), unix.EBADMSG)
	wantErr(t, "no file", command(dir, "import", "/nothing x:1"), unix.ENOENT)
	wantErr(t, "a directory", command(dir, "import", "/tmp x:1"), unix.EINVAL)
	wantErr(t, "bad name", command(dir, "import", file+" A"), unix.EINVAL)
	wantErr(t, "blanks", command(dir, "import", "/a b c"), unix.EINVAL)
	wantErr(t, "a relative path in quotes", command(dir, "import", `"a b" c`), unix.EINVAL)
	wantErr(t, "a quote that is not closed", command(dir, "import", `"`+spaced+"\n"), unix.EINVAL)
	if l := lastOf(t, dir); l.OK || !strings.Contains(l.Error, "a quote is not closed") {
		t.Errorf("last: %+v", l)
	}
	if got := list(t, dir, "ids"); got != before {
		t.Errorf("failures left %q, before %q", got, before)
	}
	if _, err := os.ReadFile(filepath.Join(dir, "ctl/import")); !errors.Is(err, unix.EACCES) {
		t.Errorf("reading ctl/import: %v", err)
	}
}
