package fusefs_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	digest "github.com/opencontainers/go-digest"

	"imagefs/fusefs"
	"imagefs/store"
)

// shell runs a command in a directory and returns what went wrong, "" if nothing did.
func shell(t testing.TB, dir, command string) string {
	t.Helper()
	c := exec.Command("sh", "-c", command)
	c.Dir = dir
	c.Env = append(os.Environ(), "LC_ALL=C")
	out, err := c.CombinedOutput()
	if err != nil && len(out) == 0 {
		return err.Error()
	}
	return strings.TrimSpace(string(out))
}

// sorted brings words into order.
func sorted(words string) string {
	w := strings.Fields(words)
	slices.Sort(w)
	return strings.Join(w, " ")
}

// namesOf lists a store's names, "name=image" with the image's label.
func namesOf(t testing.TB, s store.Store, labels map[digest.Digest]string) string {
	t.Helper()
	n, err := s.Names(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, m := range []map[string]digest.Digest{n.Tags, n.Digests} {
		for ref, id := range m {
			if repo, _, ok := strings.Cut(ref, "@"); ok {
				ref = repo + "@"
			}
			out = append(out, ref+"="+labels[id])
		}
	}
	return sorted(strings.Join(out, " "))
}

// shownOf lists the names that a mount shows, in the same form.
func shownOf(t testing.TB, dir string, labels map[digest.Digest]string) string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		id, err := os.ReadFile(p + "/id")
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, p)
		repo, tag := filepath.Split(rel)
		out = append(out, strings.TrimSuffix(repo, "/")+":"+strings.TrimPrefix(tag, ":")+"="+labels[digest.Digest(strings.TrimSpace(string(id)))])
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	return sorted(strings.Join(out, " "))
}

func TestFileOperations(t *testing.T) { bothTransports(t, testFileOperations) }

// testFileOperations gives one command after the other, as a user would type them.
func testFileOperations(t *testing.T, o fusefs.Options) {
	s := newStore(t)
	a := load(t, s, "a", []string{"nginx:1.25", "foo:bar", "foo/bar:v1"}, layerTar(t, "f=a"))
	b := load(t, s, "b", []string{"nginx:1.24"}, layerTar(t, "f=b"))
	c := load(t, s, "c", []string{"x:1", "y:1"}, layerTar(t, "f=c"))
	d := load(t, s, "d", nil, layerTar(t, "f=d"))
	labels := map[digest.Digest]string{a: "a", b: "b", c: "c"}
	dir := mount(t, s, o)
	const start = "foo/bar:v1=a foo:bar=a nginx:1.24=b nginx:1.25=a x:1=c y:1=c"
	const (
		exists, missing, invalid = "File exists", "No such file", "Invalid argument"
		eperm, notEmpty, busy    = "Operation not permitted", "not empty", "Device or resource busy"
	)
	denied := eperm
	if os.Geteuid() != 0 {
		denied = "Permission denied" // the kernel says it of what nobody may write
	}
	intoImage := exists
	if os.Geteuid() != 0 {
		intoImage = denied
	}
	for _, step := range []struct {
		command string
		fails   string // "": it works
		names   string // "": as before
	}{
		// Targets, in all forms.
		{"mkdir -p images/me/app", "", ""},
		{"ln -s ../../../ids/" + a.Encoded() + " images/me/app/v1", "", start + " me/app:v1=a"},
		{"ln -sT ../../../ids/" + a.Encoded() + " images/me/app/v1", exists, ""},
		{"rm images/me/app/v1 && ls images/me/app", "", start},
		{"ln -s $PWD/ids/" + a.Encoded()[:12] + " images/me/app/v1 && rm images/me/app/v1", "", start},
		{"ln -s $PWD/images/nginx/1.25 images/me/app/v1 && rm images/me/app/v1", "", start},
		{"ln -sr images/nginx/1.25 images/me/app/v1 && rm images/me/app/v1", "", start},
		{"ln -s images/nginx/1.25 images/me/app/v1 && rm images/me/app/v1", "", start},
		{"ln -s " + a.Encoded() + " images/me/app/v1 && rm images/me/app/v1", "", start},
		{"ln -s " + a.String() + " images/me/app/v1 && rm images/me/app/v1", "", start},
		{"ln -s " + a.Encoded()[:12] + " images/me/app/v1 && rm images/me/app/v1", "", start},
		{"ln -s nginx:1.25 images/me/app/v1 && rm images/me/app/v1", "", start},
		{"ln -s docker.io/library/nginx:1.25 images/me/app/v1 && rm images/me/app/v1", "", start},
		{"ln -s 1.25 images/nginx/same && rm images/nginx/same", "", start},
		{"cd images/nginx && ln -s 1.25 same && rm same", "", start},
		{"ln -s /no/where images/me/app/v1", missing, ""},
		{"ln -s ../nothing images/me/app/v1", missing, ""},
		{"ln -s ../../../../images/nginx/1.25 images/me/app/v1", missing, ""},
		{"ln -s ../../nginx images/me/app/v1", invalid, ""},
		{"ln -s ../../nginx/1.25/rootfs images/me/app/v1", invalid, ""},
		{"ln -s nothing:here images/me/app/v1", missing, ""},
		{"ln -s 'no reference' images/me/app/v1", invalid, ""},
		{"ln -s \"$(printf 'nginx:1.25\\nx')\" images/me/app/v1", invalid, ""},
		// Places.
		{"ln -s nginx:1.25 images/nginx/:live && rm images/nginx/live", "", start},
		{"ln -s nginx:1.25 images/new:live && rm images/new/live && rmdir images/new", "", start},
		{"ln -s nginx:1.25 images/me/other:live && rm images/me/other:live", "", start},
		{"ln -s nginx:1.24 images/foo/bar/v2 && rm images/foo/bar/v2", "", start},
		{"ln -sn nginx:1.24 images/foo/:bar", exists, ""},
		{"ln -s nginx:1.24 images/live", invalid, ""},
		{"ln -s nginx:1.24 images/nginx/-live", invalid, ""},
		{"ln -s nginx:1.24 images/nginx/@sha256:" + a.Encoded(), invalid, ""},
		{"ln -s nginx:1.24 ids/x", eperm, ""},
		{"ln -s nginx:1.24 x", denied, ""},
		{"ln -s nginx:1.24 images/nginx/1.25", intoImage, ""},
		{"ln -s nginx:1.24 images/nginx/1.25/rootfs/x", denied, ""},
		{"ln images/nginx/1.25 images/nginx/hard", eperm, ""},
		{"touch images/nginx/file", eperm, ""},
		// Retagging.
		{"ln -sfn nginx:1.24 images/nginx/live", "", start + " nginx:live=b"},
		{"ln -sfn ../nginx/1.25 images/nginx/live", "", start + " nginx:live=a"},
		{"test $(readlink images/nginx/live) = ../../ids/" + a.Encoded(), "", ""},
		{"mv -T images/nginx/live images/me/app/v1", "", "foo/bar:v1=a foo:bar=a me/app:v1=a nginx:1.24=b nginx:1.25=a x:1=c y:1=c"},
		{"test $(readlink images/me/app/v1) = ../../../ids/" + a.Encoded(), "", ""},
		{"cat images/me/app/v1/rootfs/f >/dev/null; test ! -e images/nginx/live", "", ""},
		{"mv images/me/app/v1 images/foo", "", "foo/bar:v1=a foo:bar=a foo:v1=a nginx:1.24=b nginx:1.25=a x:1=c y:1=c"},
		{"test $(readlink images/foo/v1) = ../../ids/" + a.Encoded() + " && cat images/foo/v1/id > /dev/null", "", ""},
		{"mv -nT images/foo/v1 images/nginx/1.24; test -L images/foo/v1", "", ""},
		{"mv -T images/foo/v1 images/nginx/1.24", "", "foo/bar:v1=a foo:bar=a nginx:1.24=a nginx:1.25=a x:1=c y:1=c"},
		{"ln -sfn " + b.Encoded() + " images/nginx/1.24", "", start},
		{"mv images/nginx/1.24 images/nginx/x/y", missing, ""},
		{"mv images/nginx/1.24 images/foo/bar", "", "foo/bar:1.24=b foo/bar:v1=a foo:bar=a nginx:1.25=a x:1=c y:1=c"},
		{"mv images/foo/bar/1.24 images/nginx/", "", start},
		{"mv images/foo/:bar images/foo/baz && mv images/foo/baz images/foo:bar", "", start},
		{"mv images/nginx/1.25 images/nginx/bad@name", "to a subdirectory of itself", ""},
		{"mv -T images/nginx/1.25 images/foo/bar", "cannot overwrite directory", ""},
		{"mv -T images/nginx images/engine", eperm, ""},
		{"mv images/nginx/1.25 ids/", eperm, ""},
		{"mv images/nginx/1.25 /tmp/imagefs-no/such/", "cannot", ""},
		{"mv ids/" + a.Encoded() + " images/nginx/x", eperm, ""},
		{"mv README images/nginx/x", denied, ""},
		// Directories.
		{"mkdir images/nginx", exists, ""},
		{"mkdir images/-bad", invalid, ""},
		{"mkdir images/nginx/1.25", exists, ""},
		{"mkdir images/library && mkdir images/library/x && ln -s nginx:1.25 images/library/x/1", invalid, ""},
		{"rm -r images/library", "", ""},
		{"mkdir images/" + strings.Repeat("x", 250) + " && mkdir images/" + strings.Repeat("x", 250) + "/" + strings.Repeat("y", 9), invalid, ""},
		{"mkdir images/localhost:5000 && ln -s nginx:1.25 images/localhost:5000/x", invalid, ""},
		{"mkdir images/localhost:5000/x && ln -s nginx:1.25 images/localhost:5000/x/1", "", "foo/bar:v1=a foo:bar=a localhost:5000/x:1=a nginx:1.24=b nginx:1.25=a x:1=c y:1=c"},
		{"rm -r images/localhost:5000", "", start},
		{"mkdir ids/x", eperm, ""},
		{"mkdir x", denied, ""},
		{"mkdir stores", denied, ""},
		{"rmdir images/nginx", notEmpty, ""},
		{"rmdir images/foo/bar/v1", "Not a directory", ""},
		{"rmdir images/nothing", missing, ""},
		{"rmdir images", denied, ""},
		{"rmdir ctl", denied, ""},
		{"mkdir -p images/q/w/e && rmdir images/q/w/e && rmdir images/q/w && rmdir images/q && test ! -e images/q", "", ""},
		{"mkdir images/q && cd images/q && pwd -P >/dev/null && mkdir ../q/w && cd w && ln -s nginx:1.25 x && rm -r ../../q", "", ""},
		{"mkdir images/q && ln -s nginx:1.25 images/q/1 && rm -r images/q && mkdir images/q && ln -s nginx:1.25 images/q/1 && rm -r images/q", "", ""},
		// Removing.
		{"rm images/nginx/1.26", missing, ""},
		{"rm images/nginx", "Is a directory", ""},
		{"rm ids/" + a.Encoded()[:12], eperm, ""},
		{"rm README", denied, ""},
		{"rm -f ids/" + d.Encoded() + "/config.json", eperm, ""},
		{"rm -rf ids/" + d.Encoded(), eperm, ""},
		{"rmdir ids/" + a.Encoded()[:12], "Not a directory", ""},
		{"rmdir ids/" + c.Encoded(), busy, ""},
		{"rmdir ids/" + strings.Repeat("0", 64), missing, ""},
		{"exec 3<ids/" + b.Encoded() + "/rootfs/f; rmdir ids/" + b.Encoded(), busy, ""},
		{"rm -r images/x images/y && rmdir ids/" + c.Encoded(), "", "foo/bar:v1=a foo:bar=a nginx:1.24=b nginx:1.25=a"},
		{"rm -r images/foo && test ! -e images/foo", "", "nginx:1.24=b nginx:1.25=a"},
		{"rm images/nginx/* && test -z \"$(ls images/nginx)\" && rmdir images/nginx && test ! -e images/nginx", "", "-"},
		{"test \"$(cat ids/" + b.Encoded() + "/rootfs/f)\" = b", "", ""},
		{"rmdir ids/" + b.Encoded() + " && test ! -e ids/" + b.Encoded() + "", "", ""},
		{"mkdir images/again && ln -s " + a.Encoded() + " images/again/1", "", "again:1=a"},
		{"rmdir ids/" + a.Encoded() + " && test $(ls ids) = " + d.Encoded(), "", "-"},
	} {
		before := namesOf(t, s, labels)
		switch got := shell(t, dir, step.command); {
		case step.fails == "" && got != "":
			t.Errorf("%s: %s", step.command, got)
		case step.fails != "" && !strings.Contains(got, step.fails):
			t.Errorf("%s: %q, want %q", step.command, got, step.fails)
		}
		want := sorted(strings.TrimPrefix(step.names, "-"))
		if step.names == "" {
			want = before
		}
		if got := namesOf(t, s, labels); got != want {
			t.Errorf("after %s the names are\n%s, want\n%s", step.command, got, want)
		}
		if got := shownOf(t, dir+"/images", labels); got != want {
			t.Errorf("after %s what shows is\n%s, want\n%s", step.command, got, want)
		}
	}
	ids, err := s.IDs(ctx)
	if err != nil || len(ids) != 1 || ids[0] != d {
		t.Errorf("images left: %q, %v", ids, err)
	}
	for _, p := range problems(t, s) {
		t.Errorf("the store afterwards: %s", p)
	}
}

// problems are what check finds in a store.
func problems(t testing.TB, s store.Checker) (out []string) {
	t.Helper()
	if err := s.Check(ctx, true, func(p store.Problem) { out = append(out, p.What+": "+p.Err.Error()) }); err != nil {
		t.Error(err)
	}
	return out
}
