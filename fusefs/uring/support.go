package uring

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Setting is the file that root switches FUSE over io_uring on with, for the
// whole machine: 1 or 0. This package only reads it.
const Setting = "/sys/module/fuse/parameters/enable_uring"

// Why FUSE over io_uring cannot be used here. A tree can still be shown over the device.
var (
	ErrUnavailable = errors.New("FUSE over io_uring is not available")
	// ErrOff is wrapped, with ErrUnavailable, when only the setting is off.
	ErrOff = fmt.Errorf("%w: it is switched off; as root: echo 1 > %s", ErrUnavailable, Setting)
	// ErrNone is wrapped, with ErrUnavailable, when the kernel does not know of it.
	ErrNone = fmt.Errorf("%w: it needs Linux 6.14 with CONFIG_FUSE_IO_URING", ErrUnavailable)
)

// Supported tells whether this machine has FUSE over io_uring and lets this
// process use io_uring; the error, which says what to do, wraps ErrUnavailable.
func Supported() error {
	b, err := os.ReadFile(Setting)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return ErrNone
	case err != nil:
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	case !isOn(string(b)):
		return ErrOff
	}
	if _, err := cpus("possible"); err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	r, err := newRing(1, 2)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	r.close()
	return nil
}

func isOn(value string) bool {
	switch strings.TrimSpace(value) {
	case "Y", "y", "1":
		return true
	}
	return false
}

// maxCPUs is the largest number of CPUs that is believed.
const maxCPUs = 8192

// cpus returns the CPUs of the machine that are in a state: possible, online.
func cpus(state string) ([]int, error) {
	b, err := os.ReadFile("/sys/devices/system/cpu/" + state)
	if err != nil {
		return nil, err
	}
	return parseCPUs(string(b))
}

// parseCPUs reads a list like "0-3,8", in ascending order.
func parseCPUs(list string) (out []int, err error) {
	for _, part := range strings.Split(strings.TrimSpace(list), ",") {
		from, to, isRange := strings.Cut(part, "-")
		first, err := strconv.Atoi(from)
		last := first
		if err == nil && isRange {
			last, err = strconv.Atoi(to)
		}
		if err != nil || first < 0 || last < first || last >= maxCPUs || len(out) > 0 && first <= out[len(out)-1] {
			return nil, fmt.Errorf("list of CPUs %q: %w", list, unix.EINVAL)
		}
		for c := first; c <= last; c++ {
			out = append(out, c)
		}
	}
	return out, nil
}
