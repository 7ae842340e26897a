// Package integration tests imagefs as its users run it: the built command,
// real mounts, and the kernel's overlayfs as the judge. Tests with engines are
// in the package engines below.
package integration

import (
	"fmt"
	"os"
	"testing"

	"imagefs/fusefs/uring"
	"imagefs/fusefs/uring/uringtest"
	"imagefs/integration/harness"
)

func TestMain(m *testing.M) {
	harness.Race = true
	code := harness.Main(m)
	if err := uringtest.Release(); err != nil {
		fmt.Fprintln(os.Stderr, "FAIL: put back", uring.Setting, "-", err)
		code = 1
	}
	os.Exit(code)
}
