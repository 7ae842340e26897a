// Package integration tests imagefs as its users run it: the built command,
// real mounts, and the kernel's overlayfs as the judge. Tests with engines are
// in the package engines below.
package integration

import (
	"os"
	"testing"

	"imagefs/integration/harness"
)

func TestMain(m *testing.M) {
	harness.Race = true
	os.Exit(harness.Main(m))
}
