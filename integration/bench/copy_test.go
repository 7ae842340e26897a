package bench

import (
	"os/exec"
	"path/filepath"
	"testing"

	"imagefs/integration/harness"
)

// copying measures imagefs copy of the image of an archive, read where it lies,
// against skopeo copy. Both write the same: layers uncompressed into an archive, or
// each compressed with gzip into a layout; imagefs is durable when it returns.
func copying(kind, compress string) func(r *run) {
	return func(r *run) {
		l := r.oneImage(r.t)
		names := []string{ours}
		if _, err := exec.LookPath("skopeo"); err == nil {
			names = append(names, skopeoCopy)
		} else {
			r.without(skopeoCopy, "skopeo is not installed")
		}
		r.everyRound(func(n int) {
			r.byTurns(n, names, func(t testing.TB, name string) {
				to := kind + ":" + filepath.Join(r.dir(t), "copy")
				l.read(t)
				if name == skopeoCopy {
					r.add("", name, timed(func() {
						harness.Run(t, "skopeo", "copy", "-q", "--insecure-policy", "docker-archive:"+l.archive, to+":"+l.ref)
					}))
					return
				}
				s := harness.Imagefs{Store: "docker-archive:" + l.archive}
				r.add("", name, timed(func() { s.Run(t, "copy", "-q", l.ref, "--to", to, "--compress", compress) }))
			})
		})
	}
}

func copyRows() []row {
	return []row{
		{"copy", rowCopyTar, 2, copying("docker-archive", "none")},
		{"copy", rowCopyGzip, 6, copying("oci", "gzip")},
	}
}
