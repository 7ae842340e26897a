package fusefs_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"imagefs/fusefs"
	"imagefs/store"
	"imagefs/store/union"
)

// What file operations do is what commands do: the same files on the disk.
func TestFileOperationsAreCommands(t *testing.T) {
	type step struct{ file, ctl string }
	steps := func(id digest.Digest) []step {
		return []step{
			{"mkdir -p images/me/app && ln -s nginx:1 images/me/app/v1", "echo nginx:1 me/app:v1 >ctl/tag"},
			{"ln -sfn nginx:2 images/me/app/v1", "echo nginx:2 me/app:v1 >ctl/tag"},
			{"mv -T images/me/app/v1 images/me/other", "echo nginx:2 me:other >ctl/tag; echo me/app:v1 >ctl/rmi"},
			{"rm images/nginx/1", "echo nginx:1 >ctl/rmi"}, // others have the image
			{"rm -r images/keep", "echo keep:1 >ctl/rmi; echo keep:2 >ctl/rmi"},
			{"rmdir ids/" + id.Encoded(), "echo " + id.String() + " >ctl/rmi"},
		}
	}
	result := func(s store.Store) string {
		repos := text(t, s.Root(), "image/overlay2/repositories.json")
		ids, err := s.IDs(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(repos, ids)
	}
	var results [2][]string
	for n := range results {
		s := newStore(t)
		load(t, s, "1", []string{"nginx:1", "spare:1", "keep:1"}, layerTar(t, "f=1"))
		load(t, s, "2", []string{"nginx:2", "keep:2"}, layerTar(t, "f=2"))
		id := load(t, s, "3", []string{"gone:1"}, layerTar(t, "f=3"))
		dir := mount(t, s, fusefs.Options{})
		for _, st := range steps(id) {
			if got := shell(t, dir, []string{st.file, st.ctl}[n]); got != "" {
				t.Errorf("%s: %s", []string{st.file, st.ctl}[n], got)
			}
			results[n] = append(results[n], result(s))
		}
	}
	for n, st := range steps("sha256:x") {
		if results[0][n] != results[1][n] {
			t.Errorf("%s gives\n%s\n%s gives\n%s", st.file, results[0][n], st.ctl, results[1][n])
		}
	}
}

// What became of an operation is in ctl/last and ctl/errors.
func TestFileOperationsAreTold(t *testing.T) {
	s := newStore(t)
	a := load(t, s, "a", []string{"a:1"}, layerTar(t, "f=a"))
	dir := mount(t, s, fusefs.Options{})
	for _, c := range []struct{ command, last string }{
		{"mkdir images/b", `{"ok":true,"op":"mkdir"}`},
		{"ln -s a:1 images/b/1", `{"ok":true,"op":"tag","id":"` + a.String() + `","tags":["b:1"]}`},
		{"ln -s nothing images/b/2", `{"ok":false,"op":"tag","error":"no such image: nothing:latest: not found"}`},
		{"mv images/b/1 images/b/2", `{"ok":true,"op":"rename","id":"` + a.String() + `","tags":["b:2"]}`},
		{"rm images/b/2", `{"ok":true,"op":"untag","id":"` + a.String() + `","tags":["b:2"]}`},
		{"rmdir images/a", `{"ok":false,"op":"rmdir","error":"images/a has names in it: directory not empty"}`},
		{"rmdir images/b", `{"ok":true,"op":"rmdir"}`},
		{"rmdir ids/" + a.Encoded(), `{"ok":true,"op":"rmi","tags":["a:1"],"deleted":["` + a.String() + `"`},
	} {
		shell(t, dir, c.command)
		if got := text(t, dir, "ctl/last"); !strings.HasPrefix(got, c.last) {
			t.Errorf("%s: last is %s, want %s", c.command, got, c.last)
		}
	}
	if got := text(t, dir, "ctl/errors"); strings.Count(got, "\n") != 2 || !strings.Contains(got, `"args":"nothing images/b/2"`) {
		t.Errorf("errors: %s", got)
	}
}

// Where nothing can be changed, each operation says so.
func TestFileOperationsRefused(t *testing.T) { bothTransports(t, testRefused) }

func testRefused(t *testing.T, o fusefs.Options) {
	all := []string{"mkdir images/new", "ln -sn a:1 images/a/2", "rm images/a/1", "mv images/a/1 images/a/2", "rmdir ids/ID"}
	for _, c := range []struct {
		what  string
		o     func(*fusefs.Options)
		store func(t *testing.T, root string) store.Store
		want  string
		some  int // operations that are not refused otherwise
	}{
		{"a read-only mount", func(o *fusefs.Options) { o.ReadOnly = true }, nil, "Read-only file system", 0},
		{"a store that a daemon runs on", nil, func(t *testing.T, root string) store.Store {
			if err := os.MkdirAll(root+"/volumes", 0o700); err != nil {
				t.Fatal(err)
			}
			f, err := os.Create(root + "/volumes/metadata.db")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { f.Close() })
			if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
				t.Fatal(err)
			}
			return openStore(t, root)
		}, "Read-only file system", 1}, // mkdir is no matter of the store
		{"a store that cannot name images", nil, func(t *testing.T, root string) store.Store {
			return struct{ store.Store }{openStore(t, root)}
		}, "Operation not supported", 0},
		{"a store that was found", nil, func(t *testing.T, root string) store.Store {
			u, err := union.New([]store.Part{{Name: "found", Store: openStore(t, root), Fixed: "name it to change it"}}, union.Options{})
			if err != nil {
				t.Fatal(err)
			}
			return u
		}, "Operation not supported", 0},
		{"a store that was found, beside another", nil, func(t *testing.T, root string) store.Store {
			u, err := union.New([]store.Part{{Name: "found", Store: openStore(t, root), Fixed: "name it to change it"},
				{Name: "other", Store: newStore(t)}}, union.Options{})
			if err != nil {
				t.Fatal(err)
			}
			return u
		}, "Read-only file system", 1},
	} {
		s := newStore(t)
		id := load(t, s, "a", []string{"a:1"}, layerTar(t, "f=a"))
		var st store.Store = s
		o := o
		if c.o != nil {
			c.o(&o)
		}
		if c.store != nil {
			s.Close()
			st = c.store(t, s.Root())
		}
		dir := mount(t, st, o)
		for _, command := range all[c.some:] {
			command = strings.ReplaceAll(command, "ID", id.Encoded())
			if got := shell(t, dir, command); !strings.HasSuffix(got, c.want) {
				t.Errorf("%s: %s: %q, want %q", c.what, command, got, c.want)
			}
		}
		if got := list(t, dir, "images/a"); got != "1" {
			t.Errorf("%s: images/a lists %q", c.what, got)
		}
	}
}

// Other users may look, if they are let in, and change nothing.
func TestFileOperationsOfOthers(t *testing.T) {
	s := newStore(t)
	a := load(t, s, "a", []string{"a:1"}, layerTar(t, "f=a"))
	root := os.Geteuid() == 0
	dir := mount(t, s, fusefs.Options{AllowOther: root})
	for _, d := range []string{"images", "images/a", "ids"} {
		if st := stat(t, dir, d); st.Mode != unix.S_IFDIR|0o755 || int(st.Uid) != os.Geteuid() {
			t.Errorf("%s has the mode %o and the owner %d", d, st.Mode, st.Uid)
		}
	}
	if !root {
		return // nobody else can be asked
	}
	for p := dir; p != "/tmp" && p != "/"; p = filepath.Dir(p) {
		_ = os.Chmod(p, 0o755) // the mount itself refuses
	}
	for _, command := range []string{"mkdir images/b", "ln -s a:1 images/a/2", "rm -f images/a/1", "mv images/a/1 images/a/2", "rmdir ids/" + a.Encoded()} {
		if got := shell(t, dir, "setpriv --reuid=65534 --regid=65534 --clear-groups "+command); !strings.HasSuffix(got, "Permission denied") {
			t.Errorf("%s: %q", command, got)
		}
	}
}

// Names and targets that nobody types do no harm.
func TestHostileNames(t *testing.T) { bothTransports(t, testHostileNames) }

func testHostileNames(t *testing.T, o fusefs.Options) {
	s := newStore(t)
	load(t, s, "a", []string{"a:1"}, layerTar(t, "f=a"))
	dir := mount(t, s, o)
	long := strings.Repeat("x", 255)
	for _, name := range []string{long, "\xff\xfe", " ", "a b", "\n", "\"", ":", "::", ":a:", "@", "@sha256:", "a@", "%s", "...", "-", "Ä", ":" + long[:200]} {
		path := filepath.Join(dir, "images/a", name)
		wantErr(t, fmt.Sprintf("symlink %.20q", name), os.Symlink("a:1", path), unix.EINVAL)
		wantErr(t, fmt.Sprintf("rename to %.20q", name), os.Rename(filepath.Join(dir, "images/a/1"), path), unix.EINVAL)
		wantErr(t, fmt.Sprintf("mkdir %.20q", name), os.Mkdir(path, 0o755), unix.EINVAL)
		wantErr(t, fmt.Sprintf("unlink %.20q", name), unix.Unlink(path), unix.ENOENT)
		wantErr(t, fmt.Sprintf("rmdir %.20q", name), unix.Rmdir(path), unix.ENOENT)
	}
	for _, target := range []string{strings.Repeat("y", 4095), strings.Repeat("../", 1365), strings.Repeat("/", 4000), strings.Repeat("1/../", 800), "\xff", "@", "sha256:", "sha256:zz", dir, dir + "/", dir + "/..", "/proc/self/root" + dir + "/images/a/1", "..", "."} {
		if err := os.Symlink(target, filepath.Join(dir, "images/a/2")); !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			t.Errorf("link to %.20q: %v", target, err)
		}
	}
	if got := list(t, dir, "images/a"); got != "1" {
		t.Errorf("images/a lists %q", got)
	}
	// What would be no command of one line fails for what it asks, or not at all.
	lines := filepath.Join(dir, "images", "b\nc")
	wantErr(t, "symlink to a target with a newline", os.Symlink("./b\nc", filepath.Join(dir, "images/a/2")), unix.ENOENT)
	wantErr(t, "symlink in an image", os.Symlink("a:1", filepath.Join(dir, "images/a/1/b\nc")), unix.EEXIST)
	wantErr(t, "a directory's rename", os.Rename(filepath.Join(dir, "images/a"), lines), unix.EPERM)
	if errors := text(t, dir, "ctl/errors"); !strings.Contains(errors, `"args":"a:1 b\nc"`) {
		t.Errorf("errors: %s", errors)
	}
	wantErr(t, "symlink to a long path", os.Symlink(strings.Repeat("./", 2046)+"1", filepath.Join(dir, "images/a/2")), nil)
	if got := list(t, dir, "images/a"); got != "1 2" {
		t.Errorf("images/a lists %q", got)
	}
}

// With several stores, a store's own names are changed in it.
func TestFileOperationsInStores(t *testing.T) { bothTransports(t, testInStores) }

func testInStores(t *testing.T, o fusefs.Options) {
	s := newTwoStores(t)
	dir := mount(t, s.all, o)
	labels := map[digest.Digest]string{s.ida: "a", s.idb: "b", s.shared: "s"}
	denied := "Operation not permitted"
	if os.Geteuid() != 0 {
		denied = "Permission denied"
	}
	const first, second = "app:1=a both:x=a same:1=s team/app:a=a", "app:2=b both:x=b same:1=s"
	for _, c := range []struct{ command, fails, first, second string }{
		{"mkdir stores/second/images/me && ln -s ../app/2 stores/second/images/me/1", "", first, strings.Replace(second, "same", "me:1=b same", 1)},
		{"test $(readlink stores/second/images/me/1) = ../../../../ids/" + s.idb.Encoded() + " && cat images/me/1/id >/dev/null", "", first, strings.Replace(second, "same", "me:1=b same", 1)},
		{"ln -sfn same:1 stores/second/images/me/1", "", first, strings.Replace(second, "same", "me:1=s same", 1)},
		{"rm -r stores/second/images/me && test ! -e images/me && test ! -e stores/second/images/me", "", first, second},
		{"mkdir stores/second/images/me && test ! -e images/me && rmdir stores/second/images/me", "", first, second},
		{"ln -s app:1 stores/second/images/app/x", "No such file", first, second},
		{"ln -s app:2 images/app/3", "", first, "app:2=b app:3=b both:x=b same:1=s"},
		{"mv -T images/app/3 images/app/1", "File exists", first, "app:2=b app:3=b both:x=b same:1=s"},
		{"mv -T stores/second/images/app/3 stores/second/images/app/4", "", first, "app:2=b app:4=b both:x=b same:1=s"},
		{"mv images/app/1 stores/first/images/both/y", "No such file", first, "app:2=b app:4=b both:x=b same:1=s"},
		{"rm images/app/4", "", first, second},
		{"rm images/both/x && test $(cat images/both/x/id) = " + s.idb.String(), "", strings.Replace(first, "both:x=a ", "", 1), second},
		{"mkdir stores/third", denied, strings.Replace(first, "both:x=a ", "", 1), second},
		{"rm -rf stores/first/kind", denied, strings.Replace(first, "both:x=a ", "", 1), second},
	} {
		if got := shell(t, dir, c.command); got != "" && c.fails == "" || !strings.Contains(got, c.fails) {
			t.Errorf("%s: %q, want %q", c.command, got, c.fails)
		}
		for _, x := range []struct {
			name, want string
			st         store.Store
		}{{"first", c.first, s.a}, {"second", c.second, s.b}} {
			if got := namesOf(t, x.st, labels); got != x.want {
				t.Errorf("after %s, %s has %s, want %s", c.command, x.name, got, x.want)
			}
			if got := shownOf(t, dir+"/stores/"+x.name+"/images", labels); got != x.want {
				t.Errorf("after %s, %s shows %s, want %s", c.command, x.name, got, x.want)
			}
		}
	}
}

// A digest reference goes when it is asked for, and its directory not without.
func TestUntagDigest(t *testing.T) {
	s := newStore(t)
	a := load(t, s, "a", []string{"spare:1"}, layerTar(t, "f=a"))
	ref := "sha256:" + strings.Repeat("ab", 32)
	file := filepath.Join(s.Root(), "image/overlay2/repositories.json")
	b := bytes.Replace([]byte(text(t, file)), []byte(`{"Repositories":{`), fmt.Appendf(nil, `{"Repositories":{"foo":{"foo@%s":"%s"},`, ref, a), 1)
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	s = openStore(t, s.Root())
	dir := mount(t, s, fusefs.Options{})
	labels := map[digest.Digest]string{a: "a"}
	for _, c := range []struct{ command, fails, names string }{
		{"rmdir images/foo", "not empty", "foo@=a spare:1=a"},
		{"mv images/foo/@" + ref + " images/foo/x", "not permitted", "foo@=a spare:1=a"},
		{"rm images/foo/@" + strings.Replace(ref, ":", "-", 1), "", "spare:1=a"},
		{"test ! -e digests/sha256/" + strings.Repeat("ab", 32) + " && rmdir images/foo", "", "spare:1=a"},
	} {
		if got := shell(t, dir, c.command); got != "" && c.fails == "" || !strings.Contains(got, c.fails) {
			t.Errorf("%s: %q, want %q", c.command, got, c.fails)
		}
		if got := namesOf(t, s, labels); got != c.names {
			t.Errorf("after %s: %s, want %s", c.command, got, c.names)
		}
	}
}
