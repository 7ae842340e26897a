package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// readyEnv names the descriptor on which a process that background started
// tells that its tree is ready.
const readyEnv = "IMAGEFS_READY_FD"

// background starts this program again, detached, and returns when its tree is
// ready. What it says until then goes to the user.
func background(ctx context.Context, a *app, o mountOptions, dir string) error {
	self, err := os.Executable()
	if err != nil {
		return during("mount", err)
	}
	args, err := o.args(a, dir)
	if err != nil {
		return during("mount", err)
	}
	ready, tell, err := os.Pipe()
	if err != nil {
		return during("mount", err)
	}
	defer ready.Close()
	defer tell.Close()
	errors, said, err := os.Pipe()
	if err != nil {
		return during("mount", err)
	}
	defer errors.Close()
	defer said.Close()
	cmd := exec.Command(self, args...)
	cmd.Env = append(os.Environ(), readyEnv+"=3")
	cmd.Dir = "/"
	cmd.Stderr = said
	cmd.ExtraFiles = []*os.File{tell}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	// What the caller has open, a lock perhaps, must not stay open as long as the mount.
	_ = unix.CloseRange(3, ^uint(0), unix.CLOSE_RANGE_CLOEXEC)
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("mount: start in the background: %w", err)
	}
	tell.Close()
	said.Close()
	heard := make(chan struct{})
	go func() {
		_, _ = io.Copy(a.err, errors)
		close(heard)
	}()
	result := make(chan bool, 1)
	go func() {
		n, _ := ready.Read(make([]byte, 1))
		result <- n == 1
	}()
	ok := false
	select {
	case ok = <-result:
	case <-ctx.Done():
		_ = cmd.Process.Signal(unix.SIGTERM)
		<-result
	}
	if ok && ctx.Err() == nil {
		<-heard
		return cmd.Process.Release()
	}
	err = cmd.Wait()
	<-heard
	if ctx.Err() != nil {
		return during("mount", ctx.Err())
	}
	if code := cmd.ProcessState.ExitCode(); code > 0 {
		return &exitError{code}
	}
	return fmt.Errorf("mount: the process in the background ended early: %w", err)
}

// args is the command line of the process in the background.
func (o mountOptions) args(a *app, dir string) ([]string, error) {
	var args []string
	specs, err := a.named()
	if err != nil {
		return nil, err
	}
	for _, s := range specs {
		args = append(args, "--store", s.String())
	}
	args = append(args, a.memory.flag("--cache-memory")...)
	args = append(args, a.disk.flag("--cache-size")...)
	args = append(args, a.logs.flags()...)
	args = append(args, "mount", "--foreground", "--transport", o.transport)
	for flag, set := range map[string]bool{
		"--allow-other": o.allowOther, "--read-only": o.readOnly, "--suid": o.suid, "--dev": o.dev, "--debug": o.debug,
		"--passthrough": o.passthrough, "--list-origin": o.listOrigin,
	} {
		if set {
			args = append(args, flag)
		}
	}
	if o.noexec {
		args = append(args, "-o", "noexec")
	}
	if o.logFile != "" {
		args = append(args, "--log-file", o.logFile)
	}
	return append(args, "--", dir), nil
}

// inBackground tells, before newReady is called, whether background started this process.
func inBackground() bool { return os.Getenv(readyEnv) != "" }

// newReady returns the function that tells the process that started this one,
// if one is waiting, that the tree is ready, and lets go of its standard error.
func newReady() func() {
	fd, err := strconv.Atoi(os.Getenv(readyEnv))
	if err != nil || fd < 3 {
		return func() {}
	}
	_ = os.Unsetenv(readyEnv)
	// fusermount3 must not hold it open.
	unix.CloseOnExec(fd)
	f := os.NewFile(uintptr(fd), "ready")
	return func() {
		if null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0); err == nil {
			_ = unix.Dup3(int(null.Fd()), 2, 0)
			null.Close()
		}
		_, _ = f.Write([]byte{1})
		f.Close()
	}
}
