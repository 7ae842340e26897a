package main

import (
	"bytes"
	"strings"
	"sync"
	"testing"
	"time"

	"imagefs/store/archive"
)

// safeBuffer is a terminal of sorts.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// The bar is drawn while the work goes on reporting, and neither waits for the other.
func TestProgressIsDrawnWhileItIsReported(t *testing.T) {
	for _, counted := range []bool{false, true} {
		out := &safeBuffer{}
		show := make(chan any)
		close(show)
		p := &progress{out: out, show: show, total: -1, wait: time.NewTimer(0)}
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			n := int64(0)
			for end := time.Now().Add(time.Second); time.Now().Before(end); n++ {
				if counted {
					p.count("images", int(n%1000), 1000)
				} else {
					p.report(archive.Progress{Read: n % 1e6, Total: 1e6, What: "layer one"})
				}
			}
			p.done()
			p.report(archive.Progress{Read: 1, Total: 2}) // late
			p.done()
		}()
		select {
		case <-ended:
		case <-time.After(20 * time.Second):
			t.Fatal("the work waits for its progress bar")
		}
		for _, want := range []string{map[bool]string{false: "layer one", true: "images"}[counted], map[bool]string{false: " of 1MB", true: " of 1000"}[counted]} {
			if !strings.Contains(out.String(), want) {
				t.Errorf("counted %v: no %q in %.500q", counted, want, out.String())
			}
		}
	}
}

// Nobody sees a bar of work that is soon done.
func TestNoProgressOfShortWork(t *testing.T) {
	out := &safeBuffer{}
	p := &progress{out: out, show: make(chan any), total: -1, wait: time.NewTimer(time.Hour)}
	p.report(archive.Progress{Read: 1, Total: 2, What: "x"})
	p.done()
	if s := out.String(); s != "" {
		t.Errorf("%q", s)
	}
}
