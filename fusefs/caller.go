package fusefs

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// The kernel interrupts a request when its caller has any signal to handle, be
// it that a child has ended, and closes the files of a process that is killed as
// if it had closed them itself. What is meant is with the caller's own state.

// callerTick is how often a caller is looked at whose signal was no reason to stop.
const callerTick = 50 * time.Millisecond

// stopSignals are those by which people and programs say that something is to end.
const stopSignals = 1<<(unix.SIGHUP-1) | 1<<(unix.SIGINT-1) | 1<<(unix.SIGQUIT-1) | 1<<(unix.SIGKILL-1) |
	1<<(unix.SIGPIPE-1) | 1<<(unix.SIGALRM-1) | 1<<(unix.SIGTERM-1)

// command is the context of a command: it ends when the caller, a thread, gets a
// signal to stop, is no longer there, or the mount ends. The caller calls done.
func (f *fsys) command(cancel <-chan struct{}, tid uint32) (ctx context.Context, done func()) {
	ctx, stop := context.WithCancel(f.life)
	go func() {
		select {
		case <-cancel:
		case <-ctx.Done():
			return
		}
		// There is no second interrupt for a request, so it is looked for.
		for ctx.Err() == nil {
			if waiting(tid) {
				time.Sleep(callerTick)
				continue
			}
			stop()
		}
	}()
	return ctx, stop
}

// waiting tells whether a thread that was interrupted still waits, for signals
// that it has yet to handle, none of which is to stop it.
func waiting(tid uint32) bool {
	pending, ok := pendingSignals(fmt.Sprintf("/proc/%d/status", tid))
	return ok && pending != 0 && pending&stopSignals == 0
}

// pendingSignals returns the signals that a thread has yet to handle, but for those it has blocked.
func pendingSignals(status string) (set uint64, ok bool) {
	b, err := os.ReadFile(status)
	if err != nil {
		return 0, false
	}
	var blocked uint64
	for _, line := range bytes.Split(b, []byte("\n")) {
		name, value, _ := bytes.Cut(line, []byte(":"))
		n, err := strconv.ParseUint(string(bytes.TrimSpace(value)), 16, 64)
		if err != nil {
			continue
		}
		switch string(name) {
		case "SigPnd", "ShdPnd":
			set, ok = set|n, true
		case "SigBlk":
			blocked = n
		}
	}
	return set &^ blocked, ok
}

// The fields of /proc/<pid>/stat that follow the name, see proc_pid_stat(5).
const (
	statFlags    = 9 - 3
	statExitCode = 52 - 3
	flagExiting  = 0x4 // PF_EXITING of the kernel's include/linux/sched.h
)

// killed tells whether a thread is at its end because of a signal. Files are closed
// in execve(2), too, and there the kernel lets nobody read its stat before they are:
// that would wait for this answer. Its status can be read at any time, and tells
// that it has memory, which who ends has let go of before the files.
func killed(tid uint32) bool {
	if tid == 0 {
		return false // of another PID namespace
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", tid))
	if err != nil || bytes.Contains(status, []byte("\nVmSize:")) {
		return false
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", tid))
	if err != nil {
		return false
	}
	return endedBySignal(b)
}

func endedBySignal(stat []byte) bool {
	end := bytes.LastIndexByte(stat, ')')
	if end < 0 {
		return false
	}
	fields := bytes.Fields(stat[end+1:])
	if len(fields) <= statExitCode {
		return false
	}
	flags, err1 := strconv.ParseUint(string(fields[statFlags]), 10, 64)
	code, err2 := strconv.ParseUint(string(fields[statExitCode]), 10, 64)
	return err1 == nil && err2 == nil && flags&flagExiting != 0 && code&0x7f != 0
}
