package bench

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"imagefs/integration/harness"
)

// A view shows the root file systems of some images.
type view interface {
	name() string
	mount(t testing.TB) []string // the roots; mounted already: nothing happens
	unmount(t testing.TB)        // not mounted: nothing happens
	memory(t testing.TB) memory  // of its servers; the zero value if it has none
}

// memory is what processes have resident, in bytes.
type memory struct{ resident, anonymous int64 }

// stack is the layers of one image, ready to be named in mount options.
type stack struct {
	dir    string // has a short link for each layer
	option string // top first
}

func newStack(t testing.TB, dir string, layers []string) stack {
	t.Helper()
	s := stack{dir: dir}
	var names []string
	for n, d := range layers {
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
	at      []string // the mount point of each
	server  bool     // it has servers, which are called like the program
	mounted int      // how many are mounted
}

func (o *overlay) name() string { return o.title }

func (o *overlay) mount(t testing.TB) []string {
	t.Helper()
	for ; o.mounted < len(o.stacks); o.mounted++ {
		s := o.stacks[o.mounted]
		c := exec.Command(o.program[0], append(o.program[1:], "-o", s.option, o.at[o.mounted])...)
		c.Dir = s.dir
		harness.RunCmd(t, c)
	}
	return o.at
}

func (o *overlay) unmount(t testing.TB) {
	t.Helper()
	for ; o.mounted > 0; o.mounted-- {
		harness.Run(t, "umount", o.at[o.mounted-1])
	}
}

func (o *overlay) memory(t testing.TB) (sum memory) {
	if !o.server {
		return memory{}
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
		for _, at := range o.at {
			if strings.HasSuffix(string(b), "\x00"+at+"\x00") {
				m := residentOf(t, filepath.Dir(p))
				sum.resident, sum.anonymous = sum.resident+m.resident, sum.anonymous+m.anonymous
			}
		}
	}
	return sum
}

// copied is a copy of what another view shows, in memory. It stays until the run
// ends, so it is always warm.
type copied struct {
	of   view
	at   string
	made bool
}

func (c *copied) name() string { return inMemory }

func (c *copied) mount(t testing.TB) []string {
	t.Helper()
	if !c.made {
		harness.Run(t, "mount", "-t", "tmpfs", "tmpfs", c.at)
		c.made = true
		harness.Run(t, "cp", "-a", c.of.mount(t)[0]+"/.", c.at)
		c.of.unmount(t)
	}
	return []string{c.at}
}

func (c *copied) unmount(testing.TB) {}

func (c *copied) memory(testing.TB) memory { return memory{} }

// end takes the copy away.
func (c *copied) end(t testing.TB) {
	t.Helper()
	if c.made {
		harness.Run(t, "umount", c.at)
	}
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
	if m := i.m; m != nil {
		i.m = nil
		m.Stop(t)
	}
}

func (i *imagefs) memory(t testing.TB) memory {
	return residentOf(t, fmt.Sprintf("/proc/%d", i.m.Server.Pid))
}

// residentOf reads what a process has resident now.
func residentOf(t testing.TB, proc string) (m memory) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(proc, "status"))
	if err != nil {
		t.Fatal(err)
	}
	for name, to := range map[string]*int64{"VmRSS:": &m.resident, "RssAnon:": &m.anonymous} {
		_, after, _ := strings.Cut(string(b), name)
		if _, err := fmt.Sscan(after, to); err != nil {
			t.Fatalf("%s in %s: %v", name, proc, err)
		}
		*to <<= 10
	}
	return m
}
