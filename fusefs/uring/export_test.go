package uring

import "testing"

// Fail is what a queue does that cannot go on.
func (s *Server) Fail(err error) { s.fail(err) }

// WithCPUs makes it look as if only these were online.
func WithCPUs(t *testing.T, online ...int) {
	before := onlineCPUs
	onlineCPUs = func() ([]int, error) { return online, nil }
	t.Cleanup(func() { onlineCPUs = before })
}
