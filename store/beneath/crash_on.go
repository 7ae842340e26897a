//go:build imagefs_crash

package beneath

import (
	"os"
	"strconv"
	"sync/atomic"
	"syscall"
)

var (
	steps   atomic.Int64
	crashAt = func() int64 {
		n, _ := strconv.ParseInt(os.Getenv("IMAGEFS_CRASH_AT"), 10, 64)
		return n
	}()
)

// Step kills the process, as kill -9 does, at the step whose number, from 1, is
// in the environment. Every change that a Root makes is a step. Only the tests
// of recovery build with this tag.
func Step() {
	if steps.Add(1) == crashAt {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
}
