package bench

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"imagefs/integration/harness"
)

// savedImage is the image that was loaded, in a store of ours and, unless it is
// not installed, in a dockerd's.
type savedImage struct {
	*loaded
	s      harness.Imagefs
	id     string
	views  []*imagefs
	docker *harness.Docker
	save   string // the command that saves the image from dockerd
}

func (r *run) savedImage() *savedImage {
	l := r.oneImage(r.t)
	if len(l.stores) == 0 {
		r.loadOurs(r.t)
	}
	i := &savedImage{loaded: l, s: harness.Imagefs{Store: l.stores[0]}}
	i.id = strings.TrimPrefix(harness.ReadRoot(r.t, i.s.Store)[0].ID, "sha256:")
	i.views = r.oursOf(r.t, i.s, []string{i.id})
	if !haveDocker(r) {
		return i
	}
	had := l.docker != ""
	if !had {
		l.docker = filepath.Join(r.dir(r.t), "docker")
	}
	i.docker = harness.StartDocker(r.t, l.docker)
	if !had {
		i.docker.Run(r.t, "load", "-i", l.archive)
	}
	client := "/usr/bin/docker"
	if _, err := os.Stat(client); err != nil {
		client = "docker"
	}
	i.save = "DOCKER_HOST=" + i.docker.Host + " " + client + " save " + l.ref
	return i
}

func (i *savedImage) names() []string {
	names := titles(i.views)
	if i.docker != nil {
		names = append(names, dockerSave)
	}
	return names
}

// measureDocker measures docker save, which stands for each of the states that
// ours has: the daemon reads its files, which are in the page cache, each time.
func (i *savedImage) measureDocker(r *run, t testing.TB, states ...string) {
	took := timed(func() { piped(t, i.save) })
	for _, state := range states {
		r.addMoved(state, dockerSave, took, i.size())
	}
}

// size is about what there is to save.
func (i *savedImage) size() (sum int64) {
	for _, l := range i.layers {
		sum += l.size
	}
	return sum
}

// savingFiles measures files of the tree, against docker save of the same image:
// both write into a pipe. What docker save writes is the layers' tars and a few
// kilobytes. Both have the layers' files in the page cache; fresh is the first
// read on a mount, warm the second.
func savingFiles(pattern string) func(r *run) {
	return func(r *run) {
		i := r.savedImage()
		if i.docker != nil {
			defer i.docker.Stop(r.t)
		}
		shell(r.t, "find "+i.s.Store+" -type f -exec cat {} + >/dev/null; sync")
		r.everyRound(func(n int) {
			r.byTurns(n, i.names(), func(t testing.TB, name string) {
				if name == dockerSave {
					i.measureDocker(r, t, fresh, warm)
					return
				}
				v := i.views[slices.Index(titles(i.views), name)]
				defer v.unmount(t)
				v.mount(t)
				files, err := filepath.Glob(v.m.Path("ids", i.id, pattern))
				if err != nil || len(files) == 0 {
					t.Skipf("the tree has no %s", pattern)
				}
				var size int64
				for _, f := range files {
					st, err := os.Stat(f)
					if err != nil {
						t.Fatal(err)
					}
					size += st.Size()
				}
				for _, state := range []string{fresh, warm} {
					r.addMoved(state, name, timed(func() { piped(t, "cat "+strings.Join(files, " ")) }), size)
				}
			})
		})
	}
}

// saveCommand measures imagefs save, which needs no mount and no daemon, against
// docker save, whose daemon runs.
func saveCommand(r *run) {
	if !has(r.t, "save", "imagefs save") {
		r.without("", "there is no imagefs save")
		return
	}
	i := r.savedImage()
	if i.docker != nil {
		defer i.docker.Stop(r.t)
	}
	shell(r.t, "find "+i.s.Store+" -type f -exec cat {} + >/dev/null; sync")
	names := []string{ours}
	if i.docker != nil {
		names = append(names, dockerSave)
	}
	r.everyRound(func(n int) {
		r.byTurns(n, names, func(t testing.TB, name string) {
			if name == dockerSave {
				i.measureDocker(r, t, fresh)
				return
			}
			line := harness.Binary(t) + " --store " + i.s.Store + " save " + i.ref
			r.addMoved(fresh, name, timed(func() { piped(t, line) }), i.size())
		})
	})
}

// piped runs a command with its output in a pipe, since some programs look at
// what they write to. It fails when the command does.
func piped(t testing.TB, line string) {
	t.Helper()
	harness.RunCmd(t, exec.Command("bash", "-o", "pipefail", "-c", line+" | cat >/dev/null"))
}

func saveRows() []row {
	return []row{
		{"save", rowLayerTar, 2.5, savingFiles("layers/*/layer.tar")},
		{"save", rowImageTar, 2.5, savingFiles("image.tar")},
		{"save", rowSave, 1.5, saveCommand},
	}
}
