package harness

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"
)

// startDaemon starts a private daemon, with its log in a directory, waits until
// it answers, and returns what stops it. It ends with the test, and if the test
// should be killed.
func startDaemon(t testing.TB, c *exec.Cmd, dir string, answers func() bool) (stop func(testing.TB)) {
	t.Helper()
	name := filepath.Base(c.Path)
	logFile, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer logFile.Close()
	c.Stdout, c.Stderr = logFile, logFile
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM, Setpgid: true}
	started, done := make(chan error), make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // the death that Pdeathsig means is that of this thread
		err := c.Start()
		started <- err
		if err == nil {
			_ = c.Wait()
		}
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	stopped := false
	stop = func(t testing.TB) {
		if stopped {
			return
		}
		stopped = true
		_ = c.Process.Signal(syscall.SIGTERM)
		select {
		case <-done:
		case <-time.After(60 * time.Second):
			t.Errorf("%s: still there a minute after SIGTERM", name)
			_ = c.Process.Kill()
			<-done
		}
	}
	t.Cleanup(func() { stop(t) })
	for deadline := time.Now().Add(60 * time.Second); !answers(); time.Sleep(50 * time.Millisecond) {
		select {
		case <-done:
		default:
			if time.Now().Before(deadline) {
				continue
			}
		}
		b, _ := os.ReadFile(logFile.Name())
		t.Fatalf("%s does not answer\n%s", name, tail(string(b)))
	}
	return stop
}
