package api

import (
	"os"
	"path/filepath"
)

// Usual returns the addresses at which a daemon of this machine may be found:
// DOCKER_HOST first, then the system's socket and the user's own (rootless).
func Usual() []string {
	var out []string
	if h := os.Getenv("DOCKER_HOST"); h != "" {
		out = append(out, h)
	}
	out = append(out, "unix:///var/run/docker.sock")
	if d := os.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(d) {
		out = append(out, "unix://"+filepath.Join(d, "docker.sock"))
	}
	return out
}
