package bench

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"imagefs/fusefs/uring"
	"imagefs/fusefs/uring/uringtest"
	"imagefs/integration/harness"
)

// The sets of images, each in a store of its own.
const (
	setFiles = "files" // one image of many small files
	setBig   = "big"   // one image of one big file
	setTags  = "tags"  // two tags that share most of their layers
)

// set is some images in a store, with all views of them.
type set struct {
	archive string
	refs    []string
	s       harness.Imagefs
	ids     []string // of the refs
	dirs    []string // the layers' directories, each once
	stacks  []stack  // of the refs
	views   []view
	copy    *copied // of the image of many files; nil of others
}

// set returns a set, which is made at the first call and stays until the end.
func (b *bench) set(t testing.TB, name string) *set {
	t.Helper()
	if s := b.sets[name]; s != nil {
		return s
	}
	s := &set{s: harness.Imagefs{Store: filepath.Join(b.dir(t), "store")}}
	s.archive, s.refs = b.archive(t, name)
	s.s.Run(t, "load", "-i", s.archive)
	images := harness.ReadRoot(t, s.s.Store)
	for _, ref := range s.refs {
		n := slices.IndexFunc(images, func(d harness.DiskImage) bool { return slices.Contains(d.Names, ref) })
		if n < 0 {
			t.Fatalf("%s is not in the store", ref)
		}
		s.ids = append(s.ids, strings.TrimPrefix(images[n].ID, "sha256:"))
		s.stacks = append(s.stacks, newStack(t, b.dir(t), images[n].Dirs))
		for _, d := range images[n].Dirs {
			if !slices.Contains(s.dirs, d) {
				s.dirs = append(s.dirs, d)
			}
		}
	}
	s.views = b.viewsOf(t, s)
	if name == setBig && has(t, "mount", "--passthrough") {
		s.views = append(s.views, &imagefs{title: passthrough, flags: append([]string{"--read-only", "--passthrough"}, b.dev()...), s: s.s, ids: s.ids, dir: b.dir(t)})
	}
	if name == setFiles {
		s.copy = &copied{of: s.views[0], at: b.dir(t)}
	}
	b.t.Cleanup(func() {
		if s.copy != nil {
			s.copy.end(b.t)
		}
		for _, v := range s.views {
			v.unmount(b.t)
		}
	})
	shell(t, "sync")
	b.sets[name] = s
	return s
}

// archive makes the archive of a set.
func (b *bench) archive(t testing.TB, name string) (file string, refs []string) {
	t.Helper()
	dir := b.dir(t)
	var images []imageOf
	switch name {
	case setFiles:
		images = append(images, filesImage(t, dir, size(*manyFiles, 300)))
	case setBig:
		images = append(images, bigImage(t, dir, int64(size(512<<20, 1<<20))))
	case setTags:
		if f := realArchive("web-both.docker.tar"); f != "" {
			return f, []string{"web:1", "web:2"}
		}
		images = ownFiles(t, dir, int64(size(400<<20, 4<<20)))
	}
	file = filepath.Join(dir, name+".tar")
	writeArchive(t, file, images...)
	for _, i := range images {
		refs = append(refs, i.tags[0])
	}
	return file, refs
}

// size is what the full run takes, or the short one.
func size(whole, short int) int {
	if *full {
		return whole
	}
	return short
}

// realArchive is an archive that the reference scripts made of real images; ""
// if it is not there, and in the short run.
func realArchive(name string) string {
	cache, err := harness.CacheDir()
	if err != nil || !*full {
		return ""
	}
	f := filepath.Join(cache, "images", name)
	if _, err := os.Stat(f); err != nil {
		return ""
	}
	return f
}

func (s *set) view(name string) view {
	if name == inMemory {
		return s.copy
	}
	return s.views[slices.IndexFunc(s.views, func(v view) bool { return v.name() == name })]
}

func (s *set) names() (out []string) {
	for _, v := range s.views {
		out = append(out, v.name())
	}
	return out
}

// warmUp has everything that lies below the views read once: the layers'
// inodes and content, which all views read, and our index.
func (s *set) warmUp(t testing.TB) {
	t.Helper()
	shell(t, "for d in "+strings.Join(s.dirs, " ")+"; do tar -C $d -cf - .; done | cat >/dev/null; cat "+
		filepath.Join(s.s.Store, "imagefs/index")+"/* >/dev/null")
}

// viewsOf makes all views of a set.
func (b *bench) viewsOf(t testing.TB, s *set) []view {
	t.Helper()
	mount := []string{"mount", "-t", "overlay", "overlay"}
	out := []view{
		&overlay{program: mount, title: kernel, stacks: s.stacks, at: dirs(t, b, s.stacks)},
		&overlay{program: mount, title: kernelAgain, stacks: s.stacks, at: dirs(t, b, s.stacks)},
	}
	for _, v := range b.oursOf(t, s.s, s.ids) {
		out = append(out, v)
	}
	if _, err := exec.LookPath(fuseOvl); err != nil {
		b.lackOnce(fuseOvl + " is not installed")
	} else {
		out = append(out, &overlay{program: []string{fuseOvl}, title: fuseOvl, stacks: s.stacks, at: dirs(t, b, s.stacks), server: true})
	}
	return out
}

func dirs(t testing.TB, b *bench, stacks []stack) (out []string) {
	for range stacks {
		out = append(out, b.dir(t))
	}
	return out
}

// oursOf makes the views by imagefs of images of a store.
func (b *bench) oursOf(t testing.TB, s harness.Imagefs, ids []string) []*imagefs {
	t.Helper()
	plain := b.dev()
	out := []*imagefs{
		{title: ours, flags: plain, s: s, ids: ids, dir: b.dir(t)},
		{title: readOnly, flags: append([]string{"--read-only"}, plain...), s: s, ids: ids, dir: b.dir(t)},
	}
	if b.ring {
		over := []string{"--transport", "io_uring"}
		out = append(out, &imagefs{title: ring, flags: over, s: s, ids: ids, dir: b.dir(t)},
			&imagefs{title: ringReadOnly, flags: append([]string{"--read-only"}, over...), s: s, ids: ids, dir: b.dir(t)})
	}
	return out
}

// dev has imagefs use /dev/fuse where it could choose io_uring.
func (b *bench) dev() []string {
	if b.ring {
		return []string{"--transport", "dev"}
	}
	return nil
}

// has tells whether imagefs's help on a command or topic says a word.
func has(t testing.TB, topic, word string) bool {
	t.Helper()
	return strings.Contains(harness.Run(t, harness.Binary(t), "help", topic), word)
}

// lackOnce notes what the whole run lacks.
func (b *bench) lackOnce(what string) {
	if !slices.Contains(b.missing, what) {
		b.missing = append(b.missing, what)
	}
}

// allowRing has the kernel allow FUSE over io_uring until the run ends, if
// imagefs can use it.
func allowRing(b *bench) {
	if !has(b.t, "mount", "--transport") {
		b.lackOnce("FUSE over io_uring: imagefs mount has no --transport")
		return
	}
	err := uringtest.SwitchOn()
	b.t.Cleanup(func() {
		if err := uringtest.Release(); err != nil {
			b.t.Error(err)
		}
	})
	if err == nil {
		err = uring.Supported()
	}
	if err != nil {
		b.lackOnce("FUSE over io_uring: " + err.Error())
		return
	}
	b.ring = true
}
