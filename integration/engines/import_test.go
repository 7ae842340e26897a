package engines

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/docker/go-units"

	"imagefs/integration/harness"
)

func human(n int64) string { return units.HumanSize(float64(n)) }

// imported is the config of an image without what differs from one import to
// the next and from one program to the other: the time, and Docker's version.
func imported(t *testing.T, root, id string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, "image/overlay2/imagedb/content/sha256", strings.TrimPrefix(id, "sha256:")))
	if err != nil {
		t.Fatal(err)
	}
	var c struct {
		Created       string
		DockerVersion string `json:"docker_version"`
	}
	if err := json.Unmarshal(b, &c); err != nil {
		t.Fatal(err)
	}
	return strings.NewReplacer(c.Created, "CREATED", `"docker_version":"`+c.DockerVersion+`",`, "").Replace(string(b))
}

// An import by docker, by the command and by a control file gives the same
// config, byte for byte, and the same layer; a dockerd on a copy of our store
// shows and runs it.
func TestImport(t *testing.T) {
	harness.Need(t, "root", "/dev/fuse", "tar", "gzip", "xz", "bzip2", "/bin/busybox")
	d := harness.StartDocker(t, filepath.Join(t.TempDir(), "docker"))
	s := harness.NewStore(t)
	dir := t.TempDir()
	harness.Run(t, "sh", "-c", "mkdir -p '"+dir+"/root/bin' && cp /bin/busybox '"+dir+"/root/bin/' && ln -s busybox '"+dir+"/root/bin/sh' && mkdir -m 1777 '"+dir+"/root/tmp'")
	plain := filepath.Join(dir, "root.tar")
	harness.Run(t, "tar", "-C", filepath.Join(dir, "root"), "-cf", plain, ".")
	both := func(t *testing.T, args ...string) (docker, ours string) {
		t.Helper()
		return strings.TrimSpace(d.Run(t, append([]string{"import"}, args...)...)), strings.TrimSpace(s.Run(t, append([]string{"import"}, args...)...))
	}
	same := func(t *testing.T, docker, ours string) {
		t.Helper()
		if want, got := imported(t, d.Root, docker), imported(t, s.Store, ours); got != want {
			t.Errorf("config\n%s\ndocker's is\n%s", got, want)
		}
	}
	for name, args := range map[string][]string{
		"plain":   {plain},
		"named":   {plain, "me/app:v1"},
		"message": {"-m", `a "message" <&> ü`, plain, "me/app:v2"},
		"changes": {"-c", `CMD ["sh", "-c", "echo $A"]`, "-c", `ENV A="b c" D=$HOME`, "-c", "EXPOSE 80", plain, "run:1"},
	} {
		t.Run(name, func(t *testing.T) {
			docker, ours := both(t, args...)
			same(t, docker, ours)
		})
	}
	for _, c := range []string{"gzip", "bzip2", "xz"} {
		t.Run(c, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "root."+c)
			harness.Run(t, "sh", "-c", c+" -c <'"+plain+"' >'"+file+"'")
			docker, ours := both(t, file)
			same(t, docker, ours)
		})
	}
	t.Run("every change", func(t *testing.T) { everyChange(t, both, same) })
	t.Run("control file", func(t *testing.T) {
		docker := strings.TrimSpace(d.Run(t, "import", plain, "ctl:1"))
		m := s.Mount(t)
		for _, way := range []string{"path", "stream"} {
			cmd := []byte(plain + " ctl:1\n")
			if way == "stream" {
				var err error
				if cmd, err = os.ReadFile(plain); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.WriteFile(m.Path("ctl/import"), cmd, 0); err != nil {
				t.Error(err)
			}
			var last struct{ ID string }
			if err := json.Unmarshal([]byte(m.Read(t, "ctl/last")), &last); err != nil {
				t.Fatal(err)
			}
			same(t, docker, last.ID)
		}
		if m.Read(t, "images/ctl/1/rootfs/bin/busybox") != m.Read(t, "images/me/app/v1/rootfs/bin/busybox") {
			t.Error("the file differs")
		}
	})
	t.Run("adopted", func(t *testing.T) {
		root := filepath.Join(t.TempDir(), "docker")
		harness.Run(t, "cp", "-a", s.Store, root)
		a := harness.StartDocker(t, root)
		sameList(t, a, s)
		if got := a.Run(t, "run", "--rm", "--network", "none", "run:1"); got != "b c\n" {
			t.Errorf("it says %q", got)
		}
		for _, ref := range []string{"me/app:v2", "run:1"} {
			if want, got := a.Run(t, "image", "inspect", ref), s.Run(t, "inspect", ref); strings.ReplaceAll(want, root, s.Store) != got {
				harness.Same(t, "docker inspect and imagefs inspect of "+ref, harness.Lines(strings.ReplaceAll(want, root, s.Store)), harness.Lines(got))
			}
		}
	})
}

// everyChange asks both about all instructions for which package change knows Docker's answer.
func everyChange(t *testing.T, both func(*testing.T, ...string) (string, string), same func(*testing.T, string, string)) {
	golden, err := os.ReadFile(filepath.Join(harness.Repo(), "store/change/testdata/docker.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "small.tar")
	harness.Run(t, "tar", "-C", "/etc", "-cf", file, "hostname")
	for line := range bytes.Lines(golden) {
		var c struct {
			Name    string
			Changes []string
			Error   string
		}
		if err := json.Unmarshal(line, &c); err != nil {
			t.Fatal(err)
		}
		if c.Error != "" {
			continue
		}
		t.Run(c.Name, func(t *testing.T) {
			var args []string
			for _, i := range c.Changes {
				args = append(args, "-c", i)
			}
			docker, ours := both(t, append(args, file)...)
			same(t, docker, ours)
		})
	}
}

// The filters and formats of images give what docker gives on the same data root.
func TestImagesAsDocker(t *testing.T) {
	harness.Need(t, "root", "tar")
	root := filepath.Join(t.TempDir(), "docker")
	until := prunable(t, root)
	d := harness.StartDocker(t, root)
	s := harness.Imagefs{Store: root}
	for _, args := range [][]string{
		{}, {"-a"}, {"-q"}, {"-q", "--no-trunc"}, {"--digests"}, {"--digests", "-a"}, {"second"}, {"second:2"}, {"localhost:5000/*/*"}, {"nothing"},
		{"--filter", "dangling=true"}, {"--filter", "dangling=false"}, {"-a", "--filter", "dangling=true"},
		{"--filter", "label=team"}, {"--filter", "label=team=a"}, {"--filter", "label=team=a", "--filter", "label=keep"}, {"--filter", "label=none"},
		{"--filter", "before=second:1"}, {"--filter", "since=second:1"}, {"--filter", "since=first:1", "--filter", "before=built:1"},
		{"--filter", "reference=sec*"}, {"--filter", "reference=sec*", "--filter", "reference=base"}, {"--filter", "reference=pulled@sha256:*"},
		{"--format", "{{json .}}"}, {"--no-trunc", "--format", "table {{.ID}}\t{{.Digest}}\t{{.CreatedAt}}\t{{.Size}}"},
		{"--format", "{{.ID}} {{.Repository}} {{.Tag}} {{.Digest}} {{.CreatedAt}} {{.Size}} {{.VirtualSize}} {{.SharedSize}} {{.UniqueSize}} {{.Containers}}"},
	} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			// The order of the names of one image, and of images of one second, is that of a map in the daemon.
			var want, got []string
			for range 5 { // ages in words change as time goes by
				want = slices.Sorted(slices.Values(harness.Lines(d.Run(t, append([]string{"images"}, args...)...))))
				got = slices.Sorted(slices.Values(harness.Lines(s.Run(t, append([]string{"images"}, args...)...))))
				if slices.Equal(want, got) {
					return
				}
				time.Sleep(200 * time.Millisecond)
			}
			harness.Same(t, "docker images and imagefs images", want, got)
		})
	}
	if out := s.Run(t, "images", "--filter", "until="+until, "--format", "{{.Repository}}"); !strings.Contains(out, "first") || strings.Contains(out, "second") {
		t.Errorf("until the second image was made:\n%s", out)
	}
	for _, args := range [][]string{
		{}, {"-q"}, {"--no-trunc"}, {"--human=false"}, {"-q", "--no-trunc"},
		{"--format", "{{json .}}"}, {"--format", "table {{.ID}}\t{{.CreatedSince}}\t{{.CreatedAt}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}"},
	} {
		t.Run(strings.Join(append([]string{"history"}, args...), " "), func(t *testing.T) {
			var want, got string
			for range 5 {
				want = d.Run(t, append([]string{"history", "built:1"}, args...)...)
				if got = s.Run(t, append([]string{"history", "built:1"}, args...)...); got == want {
					return
				}
				time.Sleep(200 * time.Millisecond)
			}
			harness.Same(t, "docker history and imagefs history", harness.Lines(want), harness.Lines(got))
		})
	}
}
