package bench

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A workload is measured on every view of a set.
type workload struct {
	name   string
	set    string
	weight float64
	cold   bool // measured cold too
	run    func(t testing.TB, s *set, roots []string) time.Duration
}

// command is a workload's run by a shell command, whose start is part of the time.
func command(line func(roots []string) string) func(testing.TB, *set, []string) time.Duration {
	return func(t testing.TB, _ *set, roots []string) time.Duration {
		t.Helper()
		return timed(func() { shell(t, line(roots)) })
	}
}

// workloads are the rows of reading. Every view shows the same layer
// directories; the mount is not part of the time. Those that take a slow file
// system long read /var of the image of many files, which has a fifth of all.
var workloads = []workload{
	// Metadata only: names, sizes, modes, owners, times and links of every file.
	{rowFind, setFiles, 6, true, command(func(r []string) string { return "find " + r[0] + " -printf '%p %s %m %U %T@ %l\\n' >/dev/null" })},
	// The same, sorted, with names of users and a look for ACLs at each file.
	{rowLs, setFiles, 2.5, false, command(func(r []string) string { return "ls -lR " + r[0] + "/var >/dev/null" })},
	// The same without reading links.
	{rowDu, setFiles, 1, false, command(func(r []string) string { return "du -s " + r[0] + "/var >/dev/null" })},
	// Everything is read: tar looks at what it writes to, so that is a pipe.
	{rowTar, setFiles, 4, false, func(t testing.TB, _ *set, r []string) time.Duration {
		return timed(func() { piped(t, "tar -C "+r[0]+"/var -cf - .") })
	}},
	// Every file is read, for a word that none has.
	{rowGrep, setFiles, 4, false, command(func(r []string) string { return "grep -r 'THE WORD' " + r[0] + "/var >/dev/null; [ $? -eq 1 ]" })},
	// open, read to the end and close of the first 10,000 files, one directory
	// after the other, by one thread; the start of the program is not part of it.
	{rowSmall, setFiles, 3, false, readSmallFiles},
	// Two tags of a real image: most files are the same inode in imagefs, which
	// diff sees and skips; two overlay mounts have device numbers of their own.
	{rowDiff, setTags, 3, false, command(func(r []string) string {
		return "diff -r --no-dereference " + r[0] + " " + r[1] + " >/dev/null; [ $? -le 1 ]"
	})},
	// One file, in reads of 128 KiB.
	{rowBig, setBig, 4, true, command(func(r []string) string { return "cat " + filepath.Join(r[0], bigFile) + " >/dev/null" })},
}

// readSmallFiles lists the files once for a set, on the first view that asks, and
// has all views read the same ones.
func readSmallFiles(t testing.TB, s *set, roots []string) time.Duration {
	t.Helper()
	list := filepath.Join(s.s.Store, "..", "small.txt")
	if _, err := os.Stat(list); err != nil {
		var names []string
		err := filepath.WalkDir(roots[0], func(p string, e fs.DirEntry, err error) error {
			if err == nil && e.Type().IsRegular() {
				names = append(names, strings.TrimPrefix(p, roots[0]+"/"))
			}
			if len(names) == size(10000, 100) {
				return fs.SkipAll
			}
			return err
		})
		if err == nil {
			err = os.WriteFile(list, []byte(strings.Join(names, "\n")), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	took, _ := job(t, jobSmall, roots[0], list)
	return took
}

// reading measures a workload in all its states.
func reading(w workload) func(r *run) {
	return func(r *run) {
		s := r.set(r.t, w.set)
		if w.name == rowSmall {
			// Listed on a view that is not measured: that would warm it.
			prepareList(r, s, w)
		}
		s.warmUp(r.t)
		names := s.names()
		if s.copy != nil {
			names = append(names, inMemory)
		}
		r.everyRound(func(n int) {
			r.byTurns(n, names, func(t testing.TB, name string) {
				v := s.view(name)
				defer v.unmount(t)
				roots := v.mount(t)
				if first := w.run(t, s, roots); name != inMemory {
					r.add(fresh, name, first)
				}
				r.add(warm, name, w.run(t, s, roots))
			})
		})
		if !w.cold {
			return
		}
		r.everyRound(func(n int) {
			r.byTurns(n, s.names(), func(t testing.TB, name string) {
				v := s.view(name)
				defer v.unmount(t)
				dropCaches(t)
				roots := v.mount(t)
				r.add(cold, name, w.run(t, s, roots))
			})
		})
	}
}

func prepareList(r *run, s *set, w workload) {
	v := s.view(kernel)
	defer v.unmount(r.t)
	w.run(r.t, s, v.mount(r.t))
}

// firstLs measures from nothing to the list of an image's root directory:
// mounting an overlay of its layers, or a store with it, is part of the time.
func firstLs(r *run) {
	s := r.set(r.t, setFiles)
	one := func(state string) func(testing.TB, string) {
		return func(t testing.TB, name string) {
			v := s.view(name)
			defer v.unmount(t)
			if state == cold {
				dropCaches(t)
			}
			r.add(state, name, timed(func() { shell(t, "ls "+v.mount(t)[0]+" >/dev/null") }))
		}
	}
	s.warmUp(r.t)
	for _, state := range []string{fresh, cold} {
		r.everyRound(func(n int) { r.byTurns(n, s.names(), one(state)) })
	}
}

// randomReads measures 4 KiB reads of a big file that was read once through the
// same mount: pread by one thread, the start of the program is not part of it.
func randomReads(r *run) {
	s := r.set(r.t, setBig)
	s.warmUp(r.t)
	r.everyRound(func(n int) {
		r.byTurns(n, s.names(), func(t testing.TB, name string) {
			v := s.view(name)
			defer v.unmount(t)
			file := filepath.Join(v.mount(t)[0], bigFile)
			shell(t, "cat "+file+" >/dev/null")
			took, _ := job(t, jobRandom, file, fmt.Sprint(size(100000, 100)))
			r.add(warm, name, took)
		})
	})
}

// readRows are the rows of the first table.
func readRows() (out []row) {
	out = append(out, row{"read", rowFirst, 5, firstLs})
	for _, w := range workloads {
		out = append(out, row{"read", w.name, w.weight, reading(w)})
	}
	return append(out, row{"read", rowRandom, 2, randomReads})
}
