package storetest

import (
	"os"
	"testing"
)

// NeedRoot skips a test that gives files to others unless it runs as root; with
// CI=true it fails instead.
func NeedRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatal("needs root")
	}
	t.Skip("needs root")
}
