//go:build imagefs_crash

package docker

import (
	"os"
	"strconv"
	"sync/atomic"
	"syscall"
)

var steps atomic.Int64

// step kills the process, as kill -9 does, at the step whose number is in the
// environment. Only the tests of recovery build with this tag.
func step(string) {
	at, err := strconv.ParseInt(os.Getenv("IMAGEFS_CRASH_AT"), 10, 64)
	if err == nil && steps.Add(1) == at {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
}
