package uring

import (
	"fmt"
	"testing"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"

	"imagefs/fusefs/conn"
)

// The structures are the kernel's, to the byte.
func TestLayouts(t *testing.T) {
	for what, c := range map[string][2]uintptr{
		"submission":            {unsafe.Sizeof(sqe{}), 128},
		"FUSE's part of it":     {unsafe.Offsetof(sqe{}.cmdFlags), 48},
		"user data":             {unsafe.Offsetof(sqe{}.userData), 32},
		"queue":                 {unsafe.Offsetof(sqe{}.qid), 64},
		"completion":            {unsafe.Sizeof(cqe{}), 16},
		"parameters":            {unsafe.Sizeof(params{}), 120},
		"completions' offsets":  {unsafe.Offsetof(params{}.cq), 80},
		"request header":        {unsafe.Sizeof(fuse.InHeader{}), uintptr(conn.SizeIn)},
		"answer's header":       {unsafe.Sizeof(fuse.OutHeader{}), uintptr(conn.SizeOut)},
		"READ after its header": {unsafe.Offsetof(fuse.ReadIn{}.Fh), uintptr(conn.SizeIn)},
	} {
		if c[0] != c[1] {
			t.Errorf("%s: %d bytes, want %d", what, c[0], c[1])
		}
	}
}

func TestParseCPUs(t *testing.T) {
	for list, want := range map[string]string{
		"0\n":       "[0]",
		"0-3\n":     "[0 1 2 3]",
		"0-1,4,6-7": "[0 1 4 6 7]",
	} {
		if got, err := parseCPUs(list); err != nil || fmt.Sprint(got) != want {
			t.Errorf("%q: %v, %v", list, got, err)
		}
	}
	for _, bad := range []string{"", "\n", "a", "1-", "-1", "3-1", "0,0", "2,1", "0-999999999", "0-1-2", "0,,1"} {
		if got, err := parseCPUs(bad); err == nil {
			t.Errorf("%q: %v", bad, got)
		}
	}
}

func TestIsOn(t *testing.T) {
	for value, want := range map[string]bool{"Y\n": true, "1\n": true, "N\n": false, "0": false, "": false} {
		if isOn(value) != want {
			t.Errorf("%q is not %v", value, want)
		}
	}
}
