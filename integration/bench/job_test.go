package bench

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"imagefs/integration/harness"
)

// jobVariable makes this program do a job and print what it took, instead of
// running tests: nanoseconds, and for a command the most kilobytes it had resident.
const jobVariable = "IMAGEFS_BENCH_JOB"

// The jobs, with their arguments.
const (
	jobSmall   = "small"   // DIR LIST: open, read and close each file that LIST names, relative to DIR
	jobRandom  = "random"  // FILE COUNT: read COUNT times 4 KiB anywhere in FILE
	jobCommand = "command" // NAME ARGUMENT…
)

// job runs a job and returns the time that it measured itself, so that the
// start of the program is not part of it, and the memory of a command.
func job(t testing.TB, name string, args ...string) (time.Duration, int64) {
	t.Helper()
	return jobOf(t, nil, name, args...)
}

// jobOf is job with an environment, nil for this program's own.
func jobOf(t testing.TB, env []string, name string, args ...string) (time.Duration, int64) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(self, args...)
	if env == nil {
		env = os.Environ()
	}
	c.Env = append(env, jobVariable+"="+name)
	var ns, kb int64
	if out := harness.RunCmd(t, c); true {
		if _, err := fmt.Sscan(out[strings.LastIndexByte(strings.TrimSpace(out), '\n')+1:], &ns, &kb); err != nil {
			t.Fatalf("job %s: %v: %q", name, err, out)
		}
	}
	return time.Duration(ns), kb << 10
}

// work does a job and returns the exit code.
func work(name string, args []string) int {
	var kb int64
	var took time.Duration
	var err error
	switch {
	case name == jobSmall && len(args) == 2:
		took, err = readSmall(args[0], args[1])
	case name == jobRandom && len(args) == 2:
		took, err = readRandom(args[0], args[1])
	case name == jobCommand && len(args) > 0:
		took, kb, err = runCommand(args)
	default:
		err = errors.New("no such job, or other arguments than it takes")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, name+":", err)
		return 1
	}
	fmt.Println(took.Nanoseconds(), kb)
	return 0
}

func readSmall(dir, list string) (time.Duration, error) {
	names, err := os.ReadFile(list)
	if err != nil {
		return 0, err
	}
	// Relative, so that how deep each side's mount point lies does not count.
	if err := os.Chdir(dir); err != nil {
		return 0, err
	}
	files := strings.Fields(string(names))
	buf := make([]byte, 64<<10)
	start := time.Now()
	for _, f := range files {
		// Not by package os, whose poller costs more than what is measured.
		fd, err := unix.Open(f, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", f, err)
		}
		for {
			n, err := unix.Read(fd, buf)
			if err != nil {
				return 0, fmt.Errorf("%s: %w", f, err)
			}
			if n == 0 {
				break
			}
		}
		unix.Close(fd)
	}
	return time.Since(start), nil
}

func readRandom(name, count string) (time.Duration, error) {
	n, err := strconv.Atoi(count)
	if err != nil {
		return 0, err
	}
	f, err := os.Open(name)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return 0, err
	}
	// The same places on both sides, and in each round.
	rnd := rand.New(rand.NewPCG(1, 2))
	buf := make([]byte, 4096)
	fd := int(f.Fd())
	start := time.Now()
	for range n {
		if _, err := unix.Pread(fd, buf, rnd.Int64N(max(1, st.Size()/4096))*4096); err != nil {
			return 0, err
		}
	}
	return time.Since(start), nil
}

// runCommand measures from a small process: a child starts with the peak of
// memory of the one that it came from.
func runCommand(args []string) (time.Duration, int64, error) {
	c := exec.Command(args[0], args[1:]...)
	c.Stdout, c.Stderr = io.Discard, os.Stderr
	c.Env = append(os.Environ(), jobVariable+"=")
	start := time.Now()
	err := c.Run()
	took := time.Since(start)
	var use unix.Rusage
	if err == nil {
		err = unix.Getrusage(unix.RUSAGE_CHILDREN, &use)
	}
	return took, use.Maxrss, err
}
