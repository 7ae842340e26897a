// Package detach puts a mount into the background: the program starts itself
// again with the same arguments, and returns to its caller when that process
// says that its tree is ready.
//
//	caller ── imagefs mount DIR ─────────── waits ─────────────┐ exits
//	            └─ fork, exec ── imagefs mount DIR ── Leave ── Ready ── serves
//
// A Go program cannot fork and go on, and one with many packages needs some
// milliseconds before main runs: the caller would wait for that twice. So
// this package looks at the arguments itself. If they are plainly those of a
// mount in the background it starts the second process at once, and the first
// never gets any further. All else runs as if it were not there, and a mount
// that it did not recognize calls Start.
//
// It imports as little as it can: Go initializes a package when those that it
// imports are, in the order of their paths; this one then comes before all that
// take time. Even strings and golang.org/x/sys/unix would put it behind some.
package detach

import (
	"errors"
	"os"
	"os/signal"
	"strconv"
	"syscall"
)

// readyEnv names, to the second process, the descriptor on which it says that it is ready.
const readyEnv = "IMAGEFS_READY_FD"

// What golang.org/x/sys/unix knows of close_range(2), on all architectures but mips.
const (
	sysCloseRange     = 436
	closeRangeCloexec = 4
)

// StopSignals are those that are meant to stop a process.
var StopSignals = []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP}

// ready is that descriptor in the second process, nil in all others.
var ready = take()

// failed is why the second process could not be started early.
var failed error

func init() {
	if ready != nil || !early(os.Args) {
		return
	}
	code, err := Start()
	if err == nil {
		os.Exit(code)
	}
	failed = err // which the call of Start by the command tells
}

// take returns what readyEnv names, for this process alone.
func take() *os.File {
	fd, err := strconv.Atoi(os.Getenv(readyEnv))
	_ = os.Unsetenv(readyEnv)
	if err != nil || fd < 3 {
		return nil
	}
	syscall.CloseOnExec(fd)
	return os.NewFile(uintptr(fd), "ready")
}

// early tells whether the arguments of a process are certainly those of a mount
// in the background. What it does not know it leaves to the command line's parser.
func early(args []string) bool {
	for i := 1; i < len(args); i++ {
		switch a := args[i]; {
		case a == "--store":
			i++
		case begins(a, "--store="):
		case a == "mount":
			return inBackground(args[i+1:])
		default:
			return false
		}
	}
	return false
}

// inBackground tells that of what follows the word mount.
func inBackground(args []string) bool {
	for _, a := range args {
		switch {
		case begins(a, "--f"), begins(a, "--h"): // --foreground, --help
			return false
		case begins(a, "--"), begins(a, "-o"), !begins(a, "-"):
		default:
			return false
		}
	}
	return len(args) > 0
}

func begins(s, with string) bool { return len(s) >= len(with) && s[:len(with)] == with }

// Second tells whether Start started this process.
func Second() bool { return ready != nil }

// Start starts this program again, with the same arguments in a session of its
// own, and waits until that says that it is ready, or ends. It returns the exit
// code for this process. What the other one says of errors goes to the same
// standard error; an error that is returned says why there is no such process,
// or that it was killed. A signal that is meant to stop this process is passed on,
// and the code is 128 and its number, when the other one has ended.
func Start() (code int, err error) {
	if failed != nil {
		return 0, failed
	}
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	heard, tell, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer heard.Close()
	defer tell.Close()
	// What the caller has open, a lock perhaps, must not stay open as long as the mount.
	_, _, _ = syscall.RawSyscall(sysCloseRange, 3, uintptr(^uint32(0)), closeRangeCloexec)
	// From before there is the other process until this one exits: no signal may end only this one.
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, StopSignals...)
	p, err := os.StartProcess(self, os.Args, &os.ProcAttr{
		Env:   append(os.Environ(), readyEnv+"=3"),
		Files: []*os.File{os.Stdin, os.Stdout, os.Stderr, tell},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return 0, err
	}
	tell.Close()
	isReady := make(chan bool, 1)
	go func() {
		n, _ := heard.Read(make([]byte, 1))
		isReady <- n == 1
	}()
	select {
	case s := <-signals:
		_ = p.Signal(s)
		go func() {
			for again := range signals {
				_ = p.Signal(again)
			}
		}()
		_, _ = p.Wait()
		return 128 + int(s.(syscall.Signal)), nil
	case ok := <-isReady:
		if ok {
			return 0, p.Release()
		}
	}
	state, err := p.Wait()
	if err != nil {
		return 0, err
	}
	if code := state.ExitCode(); code >= 0 {
		return code, nil
	}
	return 0, errors.New("the process in the background ended early: " + state.String())
}

// Leave makes the second process independent of where it was started: its
// directory is the root, its standard input and output are gone. Standard
// error stays until Ready, for what is still to be said.
func Leave() error {
	if err := os.Chdir("/"); err != nil {
		return err
	}
	return toNull(0, 1)
}

// Ready lets the first process return to its caller. After it standard error is gone too.
func Ready() {
	if ready == nil {
		return
	}
	_ = toNull(2)
	_, _ = ready.Write([]byte{1})
	ready.Close()
}

// toNull replaces descriptors by the null device.
func toNull(fds ...int) error {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	for _, fd := range fds {
		if err := syscall.Dup3(int(null.Fd()), fd, 0); err != nil {
			return err
		}
	}
	return nil
}
