package harness

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// docker29 is the directory of Docker 29's programs, built if they are not there.
var docker29 = sync.OnceValues(func() (string, error) {
	cache, err := CacheDir()
	if err != nil {
		return "", err
	}
	c := exec.Command(filepath.Join(Repo(), "integration/scripts/docker29.sh"))
	c.Env = append(os.Environ(), "TMPDIR=/tmp", "ENGINES="+cache)
	c.Stderr = os.Stderr
	out, err := c.Output()
	return strings.TrimSpace(string(out)), err
})

// Docker29 says how a daemon of Docker 29 keeps its images. The zero value is
// its default: in a containerd of its own, with its root in the data root.
type Docker29 struct {
	Graph      bool        // in a storage driver's layers, overlay2's, as older ones did
	Containerd *Containerd // in this containerd
}

// Start starts a private daemon on a data root, which ends with the test.
func (o Docker29) Start(t testing.TB, root string) *Docker {
	t.Helper()
	Need(t, "root", "docker", "containerd", "runc")
	bin, err := docker29()
	if err != nil {
		t.Log(err)
		Missing(t, "Docker 29 (integration/scripts/docker29.sh builds it)")
	}
	// Paths of sockets are short, those of tests are not.
	run, err := os.MkdirTemp("", "d")
	if err != nil {
		t.Fatal(err)
	}
	// Debian's runc has no time namespaces, which this daemon takes from the kernel.
	config, err := json.Marshal(map[string]any{"features": map[string]bool{"containerd-snapshotter": !o.Graph, "time-namespaces": false}})
	if err == nil {
		err = os.WriteFile(run+"/json", config, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	d := &Docker{Root: root, Host: "unix://" + run + "/s", client: bin + "/docker",
		containerd: &Containerd{Root: filepath.Join(root, "containerd/daemon"), socket: run + "/x/containerd/containerd.sock"}}
	c := exec.Command(bin+"/dockerd", "--config-file", run+"/json", "--data-root", root, "--exec-root", run+"/x", "-H", d.Host, "--pidfile", run+"/pid",
		"--iptables=false", "--ip6tables=false", "--bridge=none")
	if o.Graph {
		c.Args = append(c.Args, "--storage-driver", "overlay2")
	}
	if o.Containerd != nil {
		d.containerd = o.Containerd
		c.Args = append(c.Args, "--containerd", o.Containerd.socket)
	}
	d.stop = startDaemon(t, c, run, func() bool { return d.command("info").Run() == nil })
	return d
}

// Containerd is the containerd of a daemon of Docker 29, which has its images in the namespace "moby".
func (d *Docker) Containerd() *Containerd { return d.containerd }
