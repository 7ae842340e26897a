package engines

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"imagefs/integration/harness"
)

// A daemon that lives on a store makes the changes to it: on the command line,
// in ctl/ and by names of the tree. Afterwards the daemon, the tree and the files
// agree, and imagefs has written nothing below the data root.
func TestLiveDaemon(t *testing.T) {
	liveDaemon(t, func(t *testing.T, root string) *harness.Docker { return harness.StartDocker(t, root) })
}

// liveDaemon is TestLiveDaemon with a daemon that start starts.
func liveDaemon(t *testing.T, start func(t *testing.T, root string) *harness.Docker) {
	harness.Need(t, "root", "/dev/fuse", "strace")
	root := filepath.Join(t.TempDir(), "docker")
	d := start(t, root)
	buildOdd(t, d)
	t.Setenv("IMAGEFS_DOCKER_HOST", d.Host)
	s := harness.Imagefs{Store: root}
	m := s.Mount(t)
	// wrong tells what the tree has otherwise than the daemon.
	wrong := func(t *testing.T) (out []string) {
		for _, line := range harness.Lines(d.Run(t, "images", "--no-trunc", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}")) {
			name, id, _ := strings.Cut(line, " ")
			if i := strings.LastIndex(name, ":"); !strings.Contains(name, "<none>") {
				to, err := filepath.EvalSymlinks(m.Path("images", name[:i], name[i+1:]))
				if err != nil || "sha256:"+filepath.Base(to) != id {
					out = append(out, fmt.Sprintf("%s: %s %v, docker says %s", name, to, err, id))
				}
			}
		}
		return out
	}
	agree := func(t *testing.T) {
		t.Helper()
		sameList(t, d, s)
		// The mount hears of it a moment after a command has asked the daemon.
		var bad []string
		if harness.Until(func() bool { bad = wrong(t); return len(bad) == 0 }) < 0 {
			t.Error(strings.Join(bad, "\n"))
		}
	}
	gone := func(t *testing.T, ref string) {
		t.Helper()
		name, tag, _ := strings.Cut(ref, ":")
		if _, err := os.Lstat(m.Path("images", name, tag)); !errors.Is(err, fs.ErrNotExist) || d.Has(ref) {
			t.Errorf("%s: in the tree %v, the daemon has it: %v", ref, err, d.Has(ref))
		}
	}
	ctl := func(t *testing.T, file, text string, want error) {
		t.Helper()
		if err := os.WriteFile(m.Path("ctl", file), []byte(text+"\n"), 0); !errors.Is(err, want) {
			t.Errorf("%s %s: %v, want %v\n%s", file, text, err, want, m.Read(t, "ctl/last"))
		}
	}

	t.Run("tag", func(t *testing.T) {
		s.Run(t, "tag", "odd:1", "odd:mine")
		ctl(t, "tag", "odd:2 localhost:5000/deep/er:x", nil)
		if err := os.Symlink("odd:2", m.Path("images/linked")); err == nil {
			t.Error("a name without a tag was made")
		}
		ctl(t, "tag", "odd:2 odd:mine", nil)
		if d.ID(t, "odd:mine") != d.ID(t, "odd:2") {
			t.Error("odd:mine was not moved")
		}
		ctl(t, "tag", "nosuch:1 odd:3", unix.ENOENT)
		agree(t)
	})
	t.Run("untag", func(t *testing.T) {
		if err := os.Remove(m.Path("images/odd/mine")); err != nil {
			t.Fatal(err)
		}
		gone(t, "odd:mine")
		id := d.ID(t, "kit:1")
		// Its only name, while a container uses it.
		c := strings.TrimSpace(d.Run(t, "run", "-d", "--network", "none", "kit:1", "sleep", "1000"))
		if err := os.Remove(m.Path("images/kit/1")); err != nil {
			t.Fatalf("%v\n%s", err, m.Read(t, "ctl/last"))
		}
		gone(t, "kit:1")
		if d.ID(t, id) != id {
			t.Error("the image went with its name")
		}
		harness.CheckImage(t, m, byID(t, root, id))
		d.Run(t, "rm", "-f", c)
		s.Run(t, "tag", id, "kit:1")
		agree(t)
	})
	t.Run("rename", func(t *testing.T) {
		s.Run(t, "tag", "odd:1", "a:x")
		if err := os.MkdirAll(m.Path("images/b"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(m.Path("images/a/x"), m.Path("images/b/y")); err != nil {
			t.Fatalf("%v\n%s", err, m.Read(t, "ctl/last"))
		}
		gone(t, "a:x")
		if d.ID(t, "b:y") != d.ID(t, "odd:1") {
			t.Error("b:y is another image")
		}
		s.Run(t, "rmi", "b:y")
		agree(t)
	})
	t.Run("rmi", func(t *testing.T) {
		id := d.ID(t, "odd:2")
		ctl(t, "rmi", id, unix.EBUSY) // names in several repositories
		if _, said := s.Fail(t, "rmi", id); !strings.Contains(said, "must be forced") || strings.Count(said, "\n") != 1 {
			t.Errorf("%q", said)
		}
		c := strings.TrimSpace(d.Run(t, "run", "-d", "--network", "none", "odd:1", "sleep", "1000"))
		ctl(t, "rmi", "odd:1", unix.EBUSY)
		if !d.Has("odd:1") {
			t.Error("odd:1 was removed although it is in use")
		}
		d.Run(t, "rm", "-f", c)
		if out := s.Run(t, "rmi", "-f", id); !strings.Contains(out, "Untagged: odd:2\n") || !strings.Contains(out, "Deleted: "+id+"\n") {
			t.Errorf("%s", out)
		}
		ctl(t, "rmi", "odd:1", nil)
		ctl(t, "rmi", "odd:1", unix.ENOENT)
		gone(t, "odd:1")
		gone(t, "odd:2")
		agree(t)
	})
	t.Run("load", func(t *testing.T) { loadLive(t, d, m, s, agree) })
	moreLive(t, d, m, s, agree)
	t.Run("nothing written", func(t *testing.T) { nothingWritten(t, root, s, d) })
	t.Run("stopped", func(t *testing.T) {
		d.Stop(t)
		ctl(t, "tag", "kit:1 after:1", nil)
		s.Run(t, "check")
		d = start(t, root)
		t.Setenv("IMAGEFS_DOCKER_HOST", d.Host) // the mount knows the old one only
		if d.ID(t, "after:1") != d.ID(t, "kit:1") {
			t.Error("the daemon does not see the tag")
		}
		ctl(t, "tag", "kit:1 after:2", unix.EROFS)
		if last := m.Read(t, "ctl/last"); !strings.Contains(last, "--docker-host") {
			t.Errorf("%s", last)
		}
		s.Run(t, "rmi", "after:1")
		agree(t)
	})
}

// byID finds an image of a data root by its ID.
func byID(t *testing.T, root, id string) harness.DiskImage {
	t.Helper()
	all := harness.ReadRoot(t, root)
	n := slices.IndexFunc(all, func(i harness.DiskImage) bool { return i.ID == id })
	if n < 0 {
		t.Fatalf("%s is not in the store", id)
	}
	return all[n]
}

// loadLive loads one image in all forms into the store of a living daemon.
func loadLive(t *testing.T, d *harness.Docker, m *harness.Mount, s harness.Imagefs, agree func(*testing.T)) {
	id := d.ID(t, "kit:1")
	own := harness.Imagefs{Store: d.Root}
	dir := t.TempDir()
	forms := map[string][]string{
		"docker.tar": nil, "docker.tar.gz": {"--compress", "gzip"}, "docker.tar.zst": {"--compress", "zstd"},
		"oci.tar": {"--format", "oci"}, "oci.zst": {"--format", "oci", "--compress", "zstd"}, "layout": {"--format", "oci-dir"},
	}
	for name, args := range forms {
		own.Run(t, append([]string{"save", "-q", "-o", filepath.Join(dir, name), "kit:1"}, args...)...)
	}
	for name := range forms {
		t.Run(name, func(t *testing.T) {
			d.Run(t, "rmi", "kit:1")
			p := filepath.Join(dir, name)
			var err error
			if st, serr := os.Stat(p); serr == nil && !st.IsDir() && name != "oci.tar" {
				// Streamed, as cp does it.
				harness.Run(t, "cp", p, m.Path("ctl/load"))
			} else {
				err = os.WriteFile(m.Path("ctl/load"), []byte(p+"\n"), 0)
			}
			if err != nil {
				t.Fatalf("%v\n%s", err, m.Read(t, "ctl/last"))
			}
			if got := d.ID(t, "kit:1"); got != id {
				t.Errorf("kit:1 is %s, was %s", got, id)
			}
			agree(t)
			harness.CheckImage(t, m, byID(t, d.Root, id))
		})
	}
	t.Run("again", func(t *testing.T) {
		// All layers are there, so that none is sent.
		if out := s.Run(t, "load", "-q", "-i", filepath.Join(dir, "docker.tar")); out != "Loaded image: kit:1\n" {
			t.Errorf("%q", out)
		}
		agree(t)
	})
	t.Run("cut", func(t *testing.T) {
		d.Run(t, "rmi", "kit:1")
		loadCut(t, s, filepath.Join(dir, "docker.tar"))
		if d.Has(id) {
			t.Error("there is an image of a cut archive")
		}
		s.Run(t, "load", "-q", "-i", filepath.Join(dir, "docker.tar"))
		agree(t)
	})
}

// loadCut tries to load the half of an archive.
func loadCut(t *testing.T, s harness.Imagefs, archive string) {
	t.Helper()
	b, err := os.ReadFile(archive)
	if err != nil {
		t.Fatal(err)
	}
	p := filepath.Join(t.TempDir(), "cut.tar")
	if err := os.WriteFile(p, b[:len(b)/2], 0o644); err != nil {
		t.Fatal(err)
	}
	if code, said := s.Fail(t, "load", "-q", "-i", p); code != 1 || !strings.Contains(said, "truncated") {
		t.Errorf("%d %q", code, said)
	}
}

// nothingWritten looks at every file that imagefs opens or changes while a daemon
// changes a store for it: none is below the root, but for reading.
func nothingWritten(t *testing.T, root string, s harness.Imagefs, d *harness.Docker) {
	archive := filepath.Join(t.TempDir(), "kit.tar")
	s.Run(t, "save", "-q", "-o", archive, "kit:1")
	d.Run(t, "rmi", "kit:1")
	for n, args := range [][]string{
		{"load", "-q", "-i", archive}, {"tag", "kit:1", "kit:2"}, {"rmi", "kit:2"},
	} {
		trace := filepath.Join(t.TempDir(), fmt.Sprint(n))
		c := s.Cmd(t, args...)
		// With -y descriptors show what they are of.
		c.Args = append([]string{"strace", "-f", "-y", "-s", "4096", "-e", "trace=%file,openat2,flock,ftruncate,fchmod,fchown", "-o", trace, c.Path}, c.Args[1:]...)
		c.Path = "/usr/bin/strace"
		harness.RunCmd(t, c)
		b, err := os.ReadFile(trace)
		if err != nil {
			t.Fatal(err)
		}
		seen := 0
		for line := range strings.Lines(string(b)) {
			if !strings.Contains(line, root) {
				continue
			}
			seen++
			for _, w := range []string{"O_WRONLY", "O_RDWR", "O_CREAT", "O_TRUNC", "mkdir", "rename", "unlink", "symlink", "linkat(", "chmod", "chown", "utimens", "ftruncate", "setxattr", "mknod"} {
				if strings.Contains(line, w) && !strings.Contains(line, "execve") && !strings.Contains(line, "readlink") {
					t.Errorf("imagefs %s: %s", args[0], line)
				}
			}
		}
		if seen == 0 {
			t.Errorf("imagefs %s: nothing was seen of the store", args[0])
		}
	}
	if _, err := os.Lstat(filepath.Join(root, "imagefs")); err == nil {
		t.Error("imagefs made a directory of its own in the data root")
	}
}
