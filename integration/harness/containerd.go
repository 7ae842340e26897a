package harness

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// Containerd is a containerd daemon on a root directory.
type Containerd struct {
	Root   string
	socket string
	views  int
	stop   func(testing.TB)
}

// StartContainerd starts a private daemon on a root, which ends with the test.
func StartContainerd(t testing.TB, root string) *Containerd {
	t.Helper()
	Need(t, "root", "containerd", "ctr")
	// Paths of sockets are short, those of tests are not.
	run, err := os.MkdirTemp("", "c")
	if err != nil {
		t.Fatal(err)
	}
	c := &Containerd{Root: root, socket: run + "/s"}
	config := fmt.Sprintf("version = 2\nroot = %q\nstate = %q\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = %q\n", root, run+"/x", c.socket)
	if err := os.WriteFile(run+"/toml", []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	c.stop = startDaemon(t, exec.Command("containerd", "--config", run+"/toml"), run, func() bool { return c.command("version").Run() == nil })
	return c
}

// Stop ends the daemon. It runs at the end of the test; earlier is allowed.
func (c *Containerd) Stop(t testing.TB) { c.stop(t) }

func (c *Containerd) command(args ...string) *exec.Cmd {
	return exec.Command("ctr", append([]string{"--address", c.socket}, args...)...)
}

// Run runs a ctr command, which must succeed, and returns its standard output.
func (c *Containerd) Run(t testing.TB, space string, args ...string) string {
	t.Helper()
	return RunCmd(t, c.command(append([]string{"--namespace", space}, args...)...))
}

// Target returns the digest that an image's name leads to.
func (c *Containerd) Target(t testing.TB, space, name string) string {
	t.Helper()
	for _, l := range Lines(c.Run(t, space, "images", "list")) {
		if f := strings.Fields(l); len(f) > 2 && f[0] == name {
			return f[2]
		}
	}
	t.Fatalf("containerd has no image %s in %s", name, space)
	return ""
}

// Image returns an image of one platform as the daemon tells it: the digest of
// a manifest, the layers' directories as it would mount them; no directories
// for one that it has not unpacked, or that Docker committed.
func (c *Containerd) Image(t testing.TB, space, manifest string) DiskImage {
	t.Helper()
	var m struct{ Config struct{ Digest string } }
	var config struct {
		RootFS struct {
			DiffIDs []string `json:"diff_ids"`
		}
	}
	c.json(t, space, manifest, &m)
	c.json(t, space, m.Config.Digest, &config)
	img := DiskImage{ID: m.Config.Digest, DiffIDs: config.RootFS.DiffIDs}
	chains := ChainIDs(img.DiffIDs)
	if len(chains) == 0 {
		return img
	}
	top := chains[len(chains)-1]
	list := c.Run(t, space, "snapshots", "list")
	if !strings.Contains(list, top) {
		return img
	}
	for _, l := range Lines(list) {
		// Docker commits a container's layer on files of its own, which are no part of the image.
		if f := strings.Fields(l); len(f) == 3 && slices.Contains(chains, f[0]) && strings.HasSuffix(f[1], "-init") {
			return img
		}
	}
	c.views++
	view := fmt.Sprintf("view-%d", c.views)
	// "mount -t overlay overlay /mnt -o lowerdir=TOP:…:BOTTOM", "mount -t bind DIR /mnt -o …" for one layer
	mount := strings.Fields(c.Run(t, space, "snapshots", "view", "--target", "/mnt", view, top))
	_ = c.command("--namespace", space, "snapshots", "remove", view).Run() // it may have been collected already
	if len(mount) > 3 && mount[2] == "bind" {
		img.Dirs = []string{mount[3]}
	}
	for _, o := range strings.Split(mount[len(mount)-1], ",") {
		if dirs, ok := strings.CutPrefix(o, "lowerdir="); ok {
			img.Dirs = strings.Split(dirs, ":")
			slices.Reverse(img.Dirs)
		}
	}
	if len(img.Dirs) != len(img.DiffIDs) {
		t.Fatalf("the mount %q names %d directories, of %s and its %d layers", mount, len(img.Dirs), manifest, len(img.DiffIDs))
	}
	return img
}

func (c *Containerd) json(t testing.TB, space, digest string, v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(c.Run(t, space, "content", "get", digest)), v); err != nil {
		t.Fatalf("blob %s: %v", digest, err)
	}
}
