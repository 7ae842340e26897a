package fusefs

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestEndedBySignal(t *testing.T) {
	stat := func(name string, flags, code int) string {
		f := make([]string, 52)
		for i := range f {
			f[i] = "0"
		}
		f[0], f[1], f[2], f[8], f[51] = "7", "("+name+")", "R", fmt.Sprint(flags), fmt.Sprint(code)
		return strings.Join(f, " ") + "\n"
	}
	for _, c := range []struct {
		name, stat string
		want       bool
	}{
		{"runs", stat("cat", 0x400000, 0), false},
		{"exits", stat("cat", 0x400004, 0), false},
		{"exits with an error", stat("cat", 0x400004, 1<<8), false},
		{"killed", stat("cat", 0x400004, 9), true},
		{"dumped core", stat("cat", 0x400004, 0x80|11), true},
		{"has an odd name", stat("a) R 1 (b", 0x400004, 2), true},
		{"cut", "7 (cat) R 1", false},
		{"empty", "", false},
	} {
		if got := endedBySignal([]byte(c.stat)); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
	// The kernel's own has the fields where they are looked for.
	own, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		t.Fatal(err)
	}
	if f := strings.Fields(string(own[strings.LastIndex(string(own), ")")+1:])); len(f) <= statExitCode {
		t.Errorf("%d fields, want more than %d", len(f), statExitCode)
	}
}

func TestPendingSignals(t *testing.T) {
	file := filepath.Join(t.TempDir(), "status")
	for _, c := range []struct {
		name, text string
		set        uint64
		ok, stops  bool
	}{
		{"none", "SigPnd:\t0000000000000000\nShdPnd:\t0000000000000000\nSigBlk:\t0000000000000000\n", 0, true, false},
		{"SIGINT to the process", "SigPnd:\t0000000000000000\nShdPnd:\t0000000000000002\nSigBlk:\t0000000000000000\n", 2, true, true},
		{"a child", "Name:\tsh\nSigPnd:\t0000000000010000\nShdPnd:\t0000000000000000\nSigBlk:\t0000000000000000\n", 1 << 16, true, false},
		{"SIGINT blocked", "SigPnd:\t0000000000010000\nShdPnd:\t0000000000000002\nSigBlk:\t0000000000000002\n", 1 << 16, true, false},
		{"nothing", "", 0, false, false},
	} {
		if err := os.WriteFile(file, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if set, ok := pendingSignals(file); set != c.set || ok != c.ok || set&stopSignals != 0 != c.stops {
			t.Errorf("%s: %#x %v", c.name, set, ok)
		}
	}
}
