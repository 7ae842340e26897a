package bench

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"imagefs/integration/harness"
)

// The names of the views, in the order of the tables.
const (
	kernel   = "overlayfs"
	ours     = "imagefs"
	readOnly = "imagefs --read-only"
	fuseOvl  = "fuse-overlayfs"
)

// A view shows the root file systems of some images.
type view interface {
	name() string
	mount(t testing.TB) []string // the roots; mounted already: nothing happens
	unmount(t testing.TB)        // not mounted: nothing happens
	memory(t testing.TB) int64   // resident bytes of its servers, at their most
}

// peers makes the views of the images of a store. All read the same layer directories.
func (b *bench) peers(s harness.Imagefs, refs []string) []view {
	b.t.Helper()
	images := harness.ReadRoot(b.t, s.Store)
	var stacks []stack
	var ids []string
	for _, ref := range refs {
		n := slices.IndexFunc(images, func(d harness.DiskImage) bool { return slices.Contains(d.Names, ref) })
		if n < 0 {
			b.t.Fatalf("%s is not in the store", ref)
		}
		ids = append(ids, strings.TrimPrefix(images[n].ID, "sha256:"))
		stacks = append(stacks, newStack(b.t, images[n].Dirs))
	}
	out := []view{&overlay{program: []string{"mount", "-t", "overlay", "overlay"}, title: kernel, stacks: stacks},
		&imagefs{title: ours, s: s, ids: ids, dir: b.t.TempDir()},
		&imagefs{title: readOnly, flags: []string{"--read-only"}, s: s, ids: ids, dir: b.t.TempDir()}}
	if _, err := exec.LookPath(fuseOvl); err != nil {
		b.missing = append(b.missing, fuseOvl+" is not installed")
	} else {
		out = append(out, &overlay{program: []string{fuseOvl}, title: fuseOvl, stacks: stacks, server: true})
	}
	for _, v := range out {
		b.t.Cleanup(func() { v.unmount(b.t) })
	}
	return out
}

// stack is the layers of one image, ready to be named in mount options.
type stack struct {
	dir    string // has a short link for each layer
	option string // top first
	at     string // mount point
}

func newStack(t testing.TB, dirs []string) stack {
	t.Helper()
	s := stack{dir: t.TempDir(), at: t.TempDir()}
	var names []string
	for n, d := range dirs {
		name := strconv.Itoa(n)
		if err := os.Symlink(d, filepath.Join(s.dir, name)); err != nil {
			t.Fatal(err)
		}
		names = append([]string{name}, names...)
	}
	s.option = "lowerdir=" + strings.Join(names, ":")
	return s
}

// overlay is a view by a program that takes a lowerdir option.
type overlay struct {
	program []string
	title   string
	stacks  []stack
	server  bool // it has servers, which are called like the program
	mounted bool
}

func (o *overlay) name() string { return o.title }

func (o *overlay) mount(t testing.TB) (roots []string) {
	t.Helper()
	for _, s := range o.stacks {
		if !o.mounted {
			c := exec.Command(o.program[0], append(o.program[1:], "-o", s.option, s.at)...)
			c.Dir = s.dir
			harness.RunCmd(t, c)
		}
		roots = append(roots, s.at)
	}
	o.mounted = true
	return roots
}

func (o *overlay) unmount(t testing.TB) {
	t.Helper()
	for _, s := range o.stacks {
		if o.mounted {
			harness.Run(t, "umount", s.at)
		}
	}
	o.mounted = false
}

func (o *overlay) memory(t testing.TB) (sum int64) {
	if !o.server {
		return 0
	}
	procs, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range procs {
		b, err := os.ReadFile(p)
		if err != nil {
			continue
		}
		for _, s := range o.stacks {
			if strings.HasSuffix(string(b), "\x00"+s.at+"\x00") {
				sum += resident(t, filepath.Dir(p))
			}
		}
	}
	return sum
}

// imagefs is the view by imagefs: one server for all images.
type imagefs struct {
	title string
	flags []string
	s     harness.Imagefs
	ids   []string
	dir   string
	m     *harness.Mount
}

func (i *imagefs) name() string { return i.title }

func (i *imagefs) mount(t testing.TB) (roots []string) {
	t.Helper()
	if i.m == nil {
		i.m = i.s.MountAt(t, i.dir, i.flags...)
	}
	for _, id := range i.ids {
		roots = append(roots, i.m.Path("ids", id, "rootfs"))
	}
	return roots
}

func (i *imagefs) unmount(t testing.TB) {
	t.Helper()
	if i.m != nil {
		i.m.Stop(t)
		i.m = nil
	}
}

func (i *imagefs) memory(t testing.TB) int64 {
	return resident(t, fmt.Sprintf("/proc/%d", i.m.Server.Pid))
}

// resident is the most memory that a process had resident, in bytes.
func resident(t testing.TB, proc string) int64 {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(proc, "status"))
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(b), "VmHWM:")
	var kb int64
	if _, err := fmt.Sscan(after, &kb); err != nil {
		t.Fatal(err)
	}
	return kb << 10
}
