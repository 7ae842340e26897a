package fusefs

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"imagefs/fusefs/uring/uringtest"
)

// overEach runs a test on a mount over each transport.
func overEach(t *testing.T, test func(p pairTest, dir string, srv *Server)) {
	for _, over := range []Transport{Dev, IOUring} {
		t.Run(string(over), func(t *testing.T) {
			if over == IOUring {
				uringtest.Need(t)
			}
			p := newPairTest(t, first(equalSize()), second(equalSize()))
			dir := t.TempDir()
			srv, err := Mount(context.Background(), dir, p.g, Options{Source: "test", Transport: over})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := srv.Unmount(false); err != nil {
					t.Error(err)
					_ = srv.Unmount(true)
				}
				srv.Wait()
			})
			test(p, dir, srv)
		})
	}
}

// A reader who gives up ends the comparison.
func TestCompareIsInterrupted(t *testing.T) {
	overEach(t, func(p pairTest, dir string, srv *Server) {
		shut := make(chan struct{})
		defer close(shut)
		p.g.closed.Store(&shut)
		for _, command := range [][]string{{"cat", "changes"}, {"stat", "summary"}, {"ls", "added"}} {
			before := p.g.opens.Load()
			c := exec.Command(command[0], filepath.Join(dir, "diff/a:1..b:1", command[1]))
			if err := c.Start(); err != nil {
				p.Fatal(err)
			}
			until(p.T, "it is under way", func() bool { return p.g.opens.Load() > before })
			if err := c.Process.Signal(os.Interrupt); err != nil {
				p.Error(err)
			}
			if err := c.Wait(); err == nil {
				p.Errorf("%v: it ended well", command)
			}
			until(p.T, "the comparison has ended", func() bool { return len(srv.fs.pairs.working) == 0 })
		}
	})
}

// What the kernel counts of a pair's nodes is what is counted here.
func TestCompareCountsAsTheKernel(t *testing.T) {
	overEach(t, func(p pairTest, dir string, srv *Server) {
		f := srv.fs
		spellings := []string{"a:1..b:1", "docker.io+library+a:1..b:1"}
		for _, name := range spellings {
			for range 3 {
				if _, err := os.ReadFile(filepath.Join(dir, "diff", name, "changed/d/f")); err != nil {
					p.Fatal(err)
				}
			}
		}
		real, err := os.Readlink(filepath.Join(dir, "diff/a:1..b:1"))
		if err != nil {
			p.Fatal(err)
		}
		slot, ok := f.pairs.find(real)
		if !ok {
			p.Fatalf("no pair %s", real)
		}
		known := func() uint64 {
			record := f.pairs.get(slot)
			record.mu.Lock()
			defer record.mu.Unlock()
			return record.known
		}
		if known() < 3 {
			p.Errorf("known %d times", known())
		}
		for _, name := range append(spellings, real) {
			f.forgetEntry(diffNode, name)
		}
		until(p.T, "the kernel has forgotten it", func() bool { return known() == 0 })
		if _, err := os.ReadFile(filepath.Join(dir, "diff/a:1..b:1/changes")); err != nil {
			p.Error(err)
		}
	})
}
