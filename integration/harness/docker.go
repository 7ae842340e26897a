package harness

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// Docker is a Docker daemon on a data root.
type Docker struct {
	Root string
	Host string // its socket, as DOCKER_HOST names it

	stop       func(testing.TB) // nil for a daemon that others started
	client     string           // "" is Debian's
	containerd *Containerd      // where its images are; nil: not in one
}

// StartDocker starts a private daemon on a data root, which ends with the test.
func StartDocker(t testing.TB, root string) *Docker {
	t.Helper()
	return StartDockerWith(t, root, "overlay2")
}

// StartDockerWith is StartDocker with another storage driver.
func StartDockerWith(t testing.TB, root, driver string) *Docker {
	t.Helper()
	Need(t, "root", "dockerd", "docker", "containerd", "runc")
	// Paths of sockets are short, those of tests are not.
	run, err := os.MkdirTemp("", "d")
	if err != nil {
		t.Fatal(err)
	}
	d := &Docker{Root: root, Host: "unix://" + run + "/s"}
	c := exec.Command("dockerd", "--data-root", root, "--exec-root", run+"/x", "-H", d.Host, "--pidfile", run+"/pid",
		"--iptables=false", "--ip6tables=false", "--bridge=none", "--storage-driver", driver)
	d.stop = startDaemon(t, c, run, func() bool { return d.command("info").Run() == nil })
	return d
}

// Stop ends the daemon, if StartDocker started it. It runs at the end of the test; earlier is allowed.
func (d *Docker) Stop(t testing.TB) {
	if d.stop != nil {
		d.stop(t)
	}
}

// command prepares a docker command. Debian's own client goes before one that
// was put in its way: it fits the daemon, unless the daemon has one of its own.
func (d *Docker) command(args ...string) *exec.Cmd {
	name := d.client
	if name == "" {
		name = debianClient()
	}
	return d.with(name, args...)
}

// debianClient is the client that has BuildKit in it.
func debianClient() string {
	const name = "/usr/bin/docker"
	if _, err := os.Stat(name); err != nil {
		return "docker"
	}
	return name
}

// with prepares a command of one of the clients.
func (d *Docker) with(client string, args ...string) *exec.Cmd {
	c := exec.Command(client, args...)
	c.Env = append(os.Environ(), "DOCKER_HOST="+d.Host, "DOCKER_CONFIG="+os.TempDir())
	return c
}

// Cmd prepares a docker command.
func (d *Docker) Cmd(args ...string) *exec.Cmd { return d.command(args...) }

// Run runs a docker command, which must succeed, and returns its standard output.
func (d *Docker) Run(t testing.TB, args ...string) string {
	t.Helper()
	return RunCmd(t, d.command(args...))
}

// Build builds an image from a context directory, with the classic builder or
// BuildKit, without a network.
func (d *Docker) Build(t testing.TB, buildkit bool, tag, context string, args ...string) {
	t.Helper()
	kit := "0"
	if buildkit {
		kit = "1"
	}
	// A later client has BuildKit in a plugin.
	c := d.with(debianClient(), append([]string{"build", "-q", "--network", "none", "-t", tag, context}, args...)...)
	c.Env = append(c.Env, "DOCKER_BUILDKIT="+kit)
	RunCmd(t, c)
}

// Lines splits what a command printed.
func Lines(s string) []string {
	s = strings.TrimRight(s, "\n")
	if s == "" {
		return nil
	}
	return strings.Split(s, "\n")
}

// ID returns the image ID of a reference.
func (d *Docker) ID(t testing.TB, ref string) string {
	t.Helper()
	return strings.TrimSpace(d.Run(t, "image", "inspect", "-f", "{{.Id}}", ref))
}

// Has tells whether the daemon has an image.
func (d *Docker) Has(ref string) bool {
	return d.command("image", "inspect", ref).Run() == nil
}

// String names the daemon in messages.
func (d *Docker) String() string { return fmt.Sprintf("dockerd on %s", d.Root) }
