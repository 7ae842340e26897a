package storetest

import (
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
)

// ServeSocket serves a handler on a Unix socket until the test ends, and
// returns its address as DOCKER_HOST has it.
func ServeSocket(t testing.TB, h http.Handler) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "s") // paths of sockets are short
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: h}
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(func() {
		_ = srv.Close()
		_ = os.RemoveAll(dir)
	})
	return "unix://" + l.Addr().String()
}
