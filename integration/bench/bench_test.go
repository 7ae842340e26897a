// Package bench measures imagefs against the kernel's overlayfs and
// fuse-overlayfs on the same layer directories, and loading against docker load
// and tar. `make bench` runs it whole and writes RESULTS.md; without -full it
// only goes once through everything on a small image, to see that it works.
package bench

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"imagefs/integration/harness"
)

var (
	full   = flag.Bool("full", false, "measure, and write RESULTS.md and results.json")
	budget = flag.Duration("budget", 6*time.Minute, "stop measuring trees after this time, but not before three rounds")
	rounds = flag.Int("rounds", 7, "at most this many rounds")
)

func TestMain(m *testing.M) { os.Exit(harness.Main(m)) }

// A workload is one command on one or two mounted root file systems.
type workload struct {
	name    string
	command func(roots []string, big string) string
}

var workloads = []workload{
	{"find -printf", func(r []string, _ string) string {
		return "find " + r[0] + " -printf '%p %s %m %U %T@ %l\\n' >/dev/null"
	}},
	{"tar to a pipe", func(r []string, _ string) string { return "tar -C " + r[0] + " -cf - . | cat >/dev/null" }},
	{"diff -r of two tags", func(r []string, _ string) string {
		return "diff -r --no-dereference " + r[0] + " " + r[1] + " >/dev/null; [ $? -le 1 ]"
	}},
	{"cat of the biggest file", func(r []string, big string) string { return "cat " + filepath.Join(r[0], big) + " >/dev/null" }},
}

// The states in which a workload is measured. Before each measurement in the
// first two the tree is mounted anew.
const (
	cold  = "cold"  // nothing is cached: the caches of the whole machine are dropped
	fresh = "fresh" // what lies below the mount is in the page cache
	warm  = "warm"  // the same command ran on this mount just before
)

func TestBench(t *testing.T) {
	harness.Need(t, "root", "/dev/fuse")
	archive, refs := archiveOf(t)
	s := harness.NewStore(t)
	s.Run(t, "load", "-i", archive)
	b := &bench{t: t, load: loadAverage(), archive: archive, times: map[key][]time.Duration{}, memory: map[string]int64{}}
	b.views = b.peers(s, refs)
	b.big = biggest(t, b.views[0])
	n := *rounds
	if !*full {
		n = 1
	}
	start := time.Now()
	for r := range n {
		if r >= 3 && time.Since(start) > *budget {
			break
		}
		// Who comes first alternates, so that no view always follows the same other.
		for v := range b.views {
			b.measure(b.views[(v+r)%len(b.views)])
		}
		t.Logf("round %d: %s", r+1, time.Since(start).Round(time.Second))
	}
	b.loads(min(n, 3))
	b.report()
}

// bench collects measurements.
type bench struct {
	t       *testing.T
	archive string
	big     string // a big file in the first image
	views   []view
	times   map[key][]time.Duration
	memory  map[string]int64 // the most that a view's server had resident, in bytes
	missing []string         // what could not be measured, and why
	load    string           // the load average before the first measurement
}

type key struct{ workload, state, view string }

func (b *bench) add(workload, state, view string, d time.Duration) {
	k := key{workload, state, view}
	b.times[k] = append(b.times[k], d)
}

// measure runs every workload in every state on one view.
func (b *bench) measure(v view) {
	for _, state := range []string{cold, fresh} {
		b.prepare(state)
		b.add("mount to first ls", state, v.name(), b.time(func() {
			b.shell("ls " + v.mount(b.t)[0] + " >/dev/null")
		}))
		v.unmount(b.t)
	}
	for _, w := range workloads {
		for _, state := range []string{cold, fresh, warm} {
			if state != warm {
				v.unmount(b.t)
				b.prepare(state)
			}
			roots := v.mount(b.t)
			b.add(w.name, state, v.name(), b.time(func() { b.shell(w.command(roots, b.big)) }))
		}
		b.memory[v.name()] = max(b.memory[v.name()], v.memory(b.t))
		v.unmount(b.t)
	}
}

// prepare brings the machine's caches into a state.
func (b *bench) prepare(state string) {
	b.t.Helper()
	if state != cold {
		return
	}
	b.shell("sync")
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) time(f func()) time.Duration {
	start := time.Now()
	f()
	return time.Since(start)
}

func (b *bench) shell(command string) {
	b.t.Helper()
	harness.RunCmd(b.t, exec.Command("sh", "-c", command))
}

// biggest finds the largest file of the first image.
func biggest(t *testing.T, v view) string {
	t.Helper()
	defer v.unmount(t)
	out := harness.Run(t, "sh", "-c", "cd "+v.mount(t)[0]+" && find . -type f -printf '%s %p\\n' | sort -n | tail -1")
	var size int64
	var name string
	if _, err := fmt.Sscan(out, &size, &name); err != nil {
		t.Fatal(err)
	}
	t.Logf("big file: %s, %d MB", name, size>>20)
	return strings.TrimPrefix(name, "./")
}
