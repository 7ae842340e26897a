package bench

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"imagefs/integration/harness"
)

// serverMemory measures what a server has resident when find has seen every
// file of the image of many files through it: that, and the part that is the
// process's own (the rest is its program and the indexes, which the page cache
// holds). overlayfs has no server; its inodes are the kernel's, as ours are.
func serverMemory(r *run) {
	s := r.set(r.t, setFiles)
	r.everyRound(func(n int) {
		r.byTurns(n, s.names(), func(t testing.TB, name string) {
			v := s.view(name)
			if strings.HasPrefix(name, kernel) {
				return
			}
			defer v.unmount(t)
			roots := v.mount(t)
			before := v.memory(t)
			workloads[0].run(t, s, roots)
			after := v.memory(t)
			r.addBytes("mounted", name, before.resident)
			r.addBytes("resident", name, after.resident)
			r.addBytes("anonymous", name, after.anonymous)
		})
	})
}

// manyTags measures a store of 1,000 images with ten tags each: from nothing to
// a tree that is ready, and then the first look at the root file system of a tag.
func manyTags(r *run) {
	dir := r.dir(r.t)
	images := manyImages(r.t, dir, size(1000, 5), size(10, 2))
	archive := filepath.Join(dir, "many.tar")
	writeArchive(r.t, archive, images...)
	s := harness.Imagefs{Store: filepath.Join(r.dir(r.t), "store")}
	s.Run(r.t, "load", "-i", archive)
	shell(r.t, "sync")
	views := r.oursOf(r.t, s, nil)
	r.everyRound(func(n int) {
		r.byTurns(n, titles(views), func(t testing.TB, name string) {
			v := views[slices.Index(titles(views), name)]
			defer v.unmount(t)
			r.add("mount", name, timed(func() { v.mount(t) }))
			repo, tag, _ := strings.Cut(images[n%len(images)].tags[1], ":")
			r.add("first ls of a tag", name, timed(func() { shell(t, "ls "+v.m.Path("images", repo, tag, "rootfs")+" >/dev/null") }))
		})
	})
}

func titles(views []*imagefs) (out []string) {
	for _, v := range views {
		out = append(out, v.title)
	}
	return out
}

// foreign measures the first look into a store that imagefs did not write: a
// copy of the layers' directories and records without our own files. It gets
// another name before each measurement, so that nothing kept for it fits.
func foreign(r *run) {
	s := r.set(r.t, setFiles)
	parent := r.dir(r.t)
	root := filepath.Join(parent, "0")
	if err := os.Mkdir(root, 0o755); err != nil {
		r.t.Fatal(err)
	}
	shell(r.t, "cp -a "+s.s.Store+"/image "+s.s.Store+"/overlay2 "+root+" && sync")
	defer keepCache(r.t)()
	ids, dirs := s.ids, []string{"", "usr/a01/b01/c01"}
	stacks := []stack{newStack(r.t, r.dir(r.t), harness.ReadRoot(r.t, root)[0].Dirs)}
	views := r.oursOf(r.t, harness.Imagefs{}, ids)
	base := &overlay{program: []string{"mount", "-t", "overlay", "overlay"}, title: kernel, stacks: stacks, at: []string{r.dir(r.t)}}
	count := 0
	look := func(t testing.TB, root string) {
		line := "ls"
		for _, d := range dirs {
			if p := filepath.Join(root, d); *full || d == "" {
				line += " " + p
			}
		}
		shell(t, line+" >/dev/null")
	}
	r.everyRound(func(n int) {
		for _, state := range []string{"", ", cold"} {
			r.byTurns(n, append([]string{kernel}, titles(views)...), func(t testing.TB, name string) {
				var v view = base
				if name != kernel {
					count++
					next := filepath.Join(parent, string(rune('0'+count/10%10))+string(rune('0'+count%10))+"x")
					if err := os.Rename(root, next); err != nil {
						t.Fatal(err)
					}
					root = next
					i := views[slices.Index(titles(views), name)]
					i.s.Store = root
					v = i
				} else {
					restack(t, base, root)
				}
				if state != "" {
					dropCaches(t)
				} else {
					warmDirs(t, root)
				}
				defer v.unmount(t)
				var roots []string
				r.add("mount"+state, name, timed(func() { roots = v.mount(t) }))
				r.add("ls"+state, name, timed(func() { look(t, roots[0]) }))
			})
		}
	})
}

// restack has an overlay's short links lead below another root.
func restack(t testing.TB, o *overlay, root string) {
	t.Helper()
	links, err := os.ReadDir(o.stacks[0].dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		name := filepath.Join(o.stacks[0].dir, l.Name())
		to, err := os.Readlink(name)
		if err != nil {
			t.Fatal(err)
		}
		_, below, _ := strings.Cut(to, "/overlay2/")
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(filepath.Join(root, "overlay2", below), name); err != nil {
			t.Fatal(err)
		}
	}
}

// warmDirs reads what is looked at in a store: names and attributes.
func warmDirs(t testing.TB, root string) {
	t.Helper()
	shell(t, "find "+root+" -printf '%s' | cat >/dev/null; find "+root+"/image -type f -exec cat {} + >/dev/null")
}

// cacheDir is where imagefs keeps the indexes of foreign stores for root.
const cacheDir = "/var/cache/imagefs"

// keepCache returns a function that removes what came to the cache since. Not in
// the short run, beside which other tests use the cache.
func keepCache(t testing.TB) func() {
	if !*full {
		return func() {}
	}
	had := map[string]bool{}
	entries, _ := os.ReadDir(cacheDir) // not there yet: nothing is in it
	for _, e := range entries {
		had[e.Name()] = true
	}
	return func() {
		entries, _ := os.ReadDir(cacheDir)
		for _, e := range entries {
			if !had[e.Name()] {
				if err := os.RemoveAll(filepath.Join(cacheDir, e.Name())); err != nil {
					t.Error(err)
				}
			}
		}
	}
}

func storeRows() []row {
	return []row{
		{"foreign", rowForeign, 4.5, foreign},
		{"memory", rowMemory, 2, serverMemory},
		{"many", rowMany, 1.5, manyTags},
	}
}
