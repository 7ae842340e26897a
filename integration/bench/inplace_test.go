package bench

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"imagefs/integration/harness"
)

// inPlace measures looking into an archive without loading it, against loading
// it first, which needs the space and the time once. Every measurement is from
// nothing to the result, with the archive in the page cache. ratarmount shows
// the union of the layers' tars, unpacked from the archive before, and
// fuse-archive can show the largest of them only: both have less to do.
func inPlace(name string) func(r *run) {
	return func(r *run) {
		l := r.oneImage(r.t)
		archive := l.archive
		if name == rowGzip {
			if archive = realArchive("web-1.docker.tar.gz"); archive == "" || l.ref != "web:1" {
				archive = filepath.Join(r.dir(r.t), "image.tar.gz")
				shell(r.t, "gzip -1 -c "+l.archive+" >"+archive)
			}
		}
		p := &place{archive: archive, dir: r.dir(r.t)}
		if !has(r.t, "stores", "an archive of docker save") {
			r.without("", "imagefs mount takes no archive")
			return
		}
		names := []string{ours, loadFirst}
		if name == rowGzip {
			names = append(names, plainGzip)
		} else {
			names = append(names, peersInPlace()...)
		}
		r.everyRound(func(n int) {
			r.byTurns(n, names, func(t testing.TB, name string) {
				shell(t, "cat "+archive+" >/dev/null; sync")
				switch name {
				case ours:
					forget(t)
					r.add("first ls", name, timed(func() { p.mount(t); p.ls(t) }))
					p.unmount(t)
					r.add("first ls, seen before", name, timed(func() { p.mount(t); p.ls(t) }))
					p.unmount(t)
					forget(t)
					r.add("full read", name, timed(func() { p.mount(t); p.read(t) }))
					p.unmount(t)
				case loadFirst:
					s := harness.Imagefs{Store: filepath.Join(r.dir(t), "store")}
					load := timed(func() { s.Run(t, "load", "-q", "-i", archive) })
					v := &imagefs{s: s, ids: []string{strings.TrimPrefix(harness.ReadRoot(t, s.Store)[0].ID, "sha256:")}, dir: r.dir(t)}
					defer v.unmount(t)
					look := timed(func() { shell(t, "ls "+v.mount(t)[0]+" >/dev/null") })
					v.unmount(t)
					r.add("first ls", name, load+look)
					r.add("full read", name, load+timed(func() { piped(t, "tar -C "+v.mount(t)[0]+" -cf - .") }))
				case plainGzip:
					r.add("first ls", name, timed(func() { shell(t, "gzip -dc "+archive+" >/dev/null") }))
				default:
					peer := peerMount(l, name)
					dir := r.dir(t)
					for state, line := range map[string]string{"first ls": "ls " + dir + " >/dev/null", "full read": "tar -C " + dir + " -cf - . | cat >/dev/null"} {
						r.add(state, name, timed(func() { harness.Run(t, peer[0], append(peer[1:], dir)...); shell(t, line) }))
						harness.Run(t, "fusermount3", "-u", dir)
					}
				}
			})
		})
	}
}

// place is an archive that imagefs mounts in place, as a user does it.
type place struct{ archive, dir string }

func (p *place) command(t testing.TB, args ...string) *exec.Cmd {
	c := exec.Command(harness.Binary(t), args...)
	c.Env = append(os.Environ(), "IMAGEFS_STORE=")
	return c
}

func (p *place) mount(t testing.TB) {
	t.Helper()
	harness.RunCmd(t, p.command(t, "mount", p.archive, p.dir))
}

// unmount waits for the server: what it keeps for the next mount is written then.
func (p *place) unmount(t testing.TB) {
	t.Helper()
	harness.RunCmd(t, p.command(t, "umount", p.dir))
}

// root is the root file system of the archive's one image.
func (p *place) root(t testing.TB) string {
	t.Helper()
	roots, err := filepath.Glob(filepath.Join(p.dir, "ids/*/rootfs"))
	if err != nil || len(roots) == 0 {
		t.Fatalf("no image in the tree of %s (%v)", p.archive, err)
	}
	return roots[0]
}

func (p *place) ls(t testing.TB) { t.Helper(); shell(t, "ls "+p.root(t)+" >/dev/null") }

func (p *place) read(t testing.TB) { t.Helper(); piped(t, "tar -C "+p.root(t)+" -cf - .") }

// peersInPlace are the other programs that are here.
func peersInPlace() (out []string) {
	for _, p := range []string{ratarmount, fuseArchive} {
		if _, err := exec.LookPath(p); err == nil {
			out = append(out, p)
		}
	}
	return out
}

// peerMount is the command by which another program shows the layers, before
// the mount point.
func peerMount(l *loaded, name string) []string {
	if name == ratarmount {
		c := []string{name, "--index-file", ":memory:"}
		for _, f := range l.layers {
			c = append(c, f.file)
		}
		return c
	}
	largest := l.layers[0]
	for _, f := range l.layers {
		if f.size > largest.size {
			largest = f
		}
	}
	return []string{name, largest.file}
}

func inPlaceRows() []row {
	return []row{{"in place", rowPlain, 4, inPlace(rowPlain)}, {"in place", rowGzip, 6, inPlace(rowGzip)}}
}

// allRows are all rows in the order in which they are measured: what deletes
// comes last.
func allRows() (out []row) {
	for _, rows := range [][]row{readRows(), storeRows(), loadRows(), saveRows(), copyRows(), inPlaceRows()} {
		out = append(out, rows...)
	}
	return append(out, row{"rmi", rowRmi, 1, removing})
}
