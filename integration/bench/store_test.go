package bench

import (
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
// copy of the layers' directories and records without our own files, with
// nothing kept in the cache.
func foreign(r *run) {
	s := r.set(r.t, setFiles)
	root := r.dir(r.t)
	shell(r.t, "cp -a "+s.s.Store+"/image "+s.s.Store+"/overlay2 "+root+" && sync")
	views := map[string]view{kernel: &overlay{program: []string{"mount", "-t", "overlay", "overlay"}, title: kernel,
		stacks: []stack{newStack(r.t, r.dir(r.t), harness.ReadRoot(r.t, root)[0].Dirs)}, at: []string{r.dir(r.t)}}}
	names := []string{kernel}
	for _, v := range r.oursOf(r.t, harness.Imagefs{Store: root}, s.ids) {
		views[v.title] = v
		names = append(names, v.title)
	}
	// The root, and a directory that the short run has too.
	deep := "usr/a00/b01/c00"
	for _, state := range []string{"", ", cold"} {
		// Names, attributes and records are read, as they are in a store in use.
		shell(r.t, "find "+root+" -printf %s | cat >/dev/null; find "+root+"/image -type f -exec cat {} + >/dev/null")
		r.everyRound(func(n int) {
			r.byTurns(n, names, func(t testing.TB, name string) {
				v := views[name]
				defer v.unmount(t)
				forget(t)
				if state != "" {
					dropCaches(t)
				}
				var at string
				r.add("mount"+state, name, timed(func() { at = v.mount(t)[0] }))
				r.add("ls"+state, name, timed(func() { shell(t, "ls "+at+" "+filepath.Join(at, deep)+" >/dev/null") }))
			})
		})
	}
}

func storeRows() []row {
	return []row{
		{"foreign", rowForeign, 4.5, foreign},
		{"memory", rowMemory, 2, serverMemory},
		{"many", rowMany, 1.5, manyTags},
	}
}
