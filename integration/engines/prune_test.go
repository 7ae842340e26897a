package engines

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"imagefs/integration/harness"
)

// prunable makes a data root with images of every sort that a prune tells
// apart, and stops its daemon: with one name and several, none, a digest only;
// with labels; built step by step, one step with a name; rebuilt, so that the
// old one dangles; used by a container. It returns the time of "second:1".
func prunable(t *testing.T, root string) (until string) {
	t.Helper()
	d := harness.StartDocker(t, root)
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("f", "the base\n")
	tarball := func(name string) string {
		t.Helper()
		write(name, strings.Repeat(name, 1000))
		file := filepath.Join(t.TempDir(), "root.tar")
		harness.Run(t, "tar", "-C", dir, "-cf", file, name)
		return file
	}
	base := tarball("base")
	d.Run(t, "import", base, "base:1")
	d.Run(t, "import", "-c", "LABEL team=a keep=1", tarball("first"), "first:1")
	d.Run(t, "import", "-c", "LABEL team=b", tarball("second"), "second:1")
	d.Run(t, "tag", "second:1", "localhost:5000/x/second:1")
	d.Run(t, "tag", "second:1", "second:2")
	d.Run(t, "import", "-c", "LABEL team=a", base)           // dangling, with a layer that base:1 has
	d.Run(t, "import", "-c", "LABEL old=", tarball("third")) // dangling
	write("Dockerfile", "FROM base:1\nCOPY f /f\nLABEL step=1\nCOPY f /g\nLABEL team=a\n")
	d.Build(t, false, "built:1", dir)
	write("f", "it changed\n")
	d.Build(t, false, "built:1", dir) // the one before dangles
	history := harness.Lines(d.Run(t, "history", "-q", "--no-trunc", "built:1"))
	d.Run(t, "tag", history[1], "step:1") // an image that another was built on
	d.Run(t, "import", tarball("pulled"), "pulled:1")
	d.Run(t, "import", "-c", `CMD ["/x"]`, tarball("used"), "used:1")
	d.Run(t, "tag", "used:1", "used:2")
	d.Run(t, "create", "used:1")
	until = strings.TrimSpace(d.Run(t, "image", "inspect", "-f", "{{.Created}}", "second:1"))
	pulled := d.ID(t, "pulled:1")
	d.Stop(t)
	digestOnly(t, root, pulled)
	return until
}

// digestOnly gives an image a digest reference instead of its tag, as a pull by digest does.
func digestOnly(t *testing.T, root, id string) {
	t.Helper()
	file := filepath.Join(root, "image/overlay2/repositories.json")
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var repos struct {
		Repositories map[string]map[string]string
	}
	if err := json.Unmarshal(b, &repos); err != nil {
		t.Fatal(err)
	}
	repos.Repositories["pulled"] = map[string]string{"pulled@sha256:" + strings.Repeat("ab", 32): id}
	if b, err = json.Marshal(repos); err == nil {
		err = os.WriteFile(file, b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// onDisk is what a data root has of images and layers: names, configs, layers, directories.
func onDisk(t *testing.T, root string) (out []string) {
	t.Helper()
	for _, img := range harness.ReadRoot(t, root) {
		out = append(out, "image "+img.ID+" "+strings.Join(slices.Sorted(slices.Values(img.Names)), " "))
	}
	for _, dir := range []string{"image/overlay2/imagedb/content/sha256", "image/overlay2/imagedb/metadata/sha256", "image/overlay2/layerdb/sha256", "overlay2", "overlay2/l"} {
		entries, err := os.ReadDir(filepath.Join(root, dir))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			out = append(out, dir+"/"+e.Name())
		}
	}
	slices.Sort(out)
	return out
}

// A prune by docker, by the command and by a control file removes the same,
// says the same and leaves the same, from equal data roots, step by step.
func TestPrune(t *testing.T) {
	harness.Need(t, "root", "/dev/fuse", "tar")
	root := filepath.Join(t.TempDir(), "docker")
	until := prunable(t, root)
	command := harness.Imagefs{Store: filepath.Join(t.TempDir(), "command")}
	control := harness.Imagefs{Store: filepath.Join(t.TempDir(), "control")}
	for _, s := range []harness.Imagefs{command, control} {
		harness.Run(t, "cp", "-a", root, s.Store)
	}
	d := harness.StartDocker(t, root)
	m := control.Mount(t)
	for _, args := range [][]string{{"prune", "-f"}, {"prune", "--dry-run"}} {
		before := onDisk(t, root)
		if code, said := (harness.Imagefs{Store: root}).Fail(t, args...); code != 1 || !strings.Contains(said, "a Docker daemon is running") {
			t.Errorf("%q under a living daemon: exit %d, %s", args, code, said)
		}
		harness.Same(t, "a living daemon's store", before, onDisk(t, root))
	}
	for _, step := range []struct {
		args []string
		ctl  string
		goes bool
	}{
		{[]string{"--filter", "label=nothing"}, "label=nothing", false},
		{[]string{"--filter", "label=old"}, "label=old", true},
		{[]string{"--filter", "label!=team"}, "dangling label!=team", true},
		{nil, "dangling", true},
		{nil, "dangling", false},
		{[]string{"-a", "--filter", "until=" + until, "--filter", "label=team=b"}, "all label=team=b until=" + until, true},
		{[]string{"-a", "--filter", "label=keep=1"}, "all label=keep=1", true},
		{[]string{"-a", "--filter", "until=2001-01-01"}, "all until=2001-01-01", false},
		{[]string{"-a"}, "all", true},
		{[]string{"-a"}, "all", false},
	} {
		t.Run(step.ctl, func(t *testing.T) {
			plan := harness.Lines(command.Run(t, append([]string{"prune", "--dry-run"}, step.args...)...))
			want := harness.Lines(d.Run(t, append([]string{"image", "prune", "-f"}, step.args...)...))
			got := harness.Lines(command.Run(t, append([]string{"prune", "-f"}, step.args...)...))
			if goes := len(want) > 1; goes != step.goes {
				t.Errorf("docker removed something: %v\n%s", goes, strings.Join(want, "\n"))
			}
			// The order of images is that of a map in the daemon.
			slices.Sort(want)
			slices.Sort(got)
			harness.Same(t, "docker image prune and imagefs prune", want, got)
			for i, l := range plan {
				plan[i] = strings.NewReplacer("Images that would be deleted:", "Deleted Images:", "Total space that would be reclaimed:", "Total reclaimed space:").Replace(l)
			}
			slices.Sort(plan)
			harness.Same(t, "docker image prune and a dry run", want, plan)

			if err := os.WriteFile(m.Path("ctl/prune"), []byte(step.ctl+"\n"), 0); err != nil {
				t.Error(err)
			}
			harness.Same(t, "docker image prune and ctl/prune", want, ctlPruned(t, m, want))
			harness.Same(t, "what docker and imagefs leave", onDisk(t, root), onDisk(t, command.Store))
			harness.Same(t, "what docker and ctl/prune leave", onDisk(t, root), onDisk(t, control.Store))
			sameList(t, d, command)
		})
	}
	command.Run(t, "check")
	if names := command.Run(t, "images", "--format", "{{.Repository}}:{{.Tag}}"); !strings.Contains(names, "used:") || strings.Contains(names, "built") {
		t.Errorf("left are:\n%s", names)
	}
}

// ctlPruned is what ctl/last tells of a prune, in the words of the command;
// the size in words is the one that was wanted, if it is right.
func ctlPruned(t *testing.T, m *harness.Mount, want []string) (out []string) {
	t.Helper()
	var last struct {
		Tags, Deleted []string
		Reclaimed     int64
	}
	if err := json.Unmarshal([]byte(m.Read(t, "ctl/last")), &last); err != nil {
		t.Fatal(err)
	}
	for _, r := range last.Tags {
		out = append(out, "untagged: "+r)
	}
	for _, id := range last.Deleted {
		out = append(out, "deleted: "+id)
	}
	if len(out) > 0 {
		out = append(out, "", "Deleted Images:")
	}
	for _, l := range want {
		if strings.HasPrefix(l, "Total") {
			out = append(out, "Total reclaimed space: "+human(last.Reclaimed))
		}
	}
	slices.Sort(out)
	return out
}
