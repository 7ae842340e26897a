package guard

import (
	"bytes"
	"errors"
	"io"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

func TestRun(t *testing.T) {
	if err := Run(func() error { return nil }); err != nil {
		t.Error(err)
	}
	if err := Run(func() error { return io.EOF }); err != io.EOF {
		t.Errorf("an error of its own became %v", err)
	}
	var p *Panic
	if err := Run(func() error { panic("mistake") }); !errors.As(err, &p) || p.What != "mistake" || !bytes.Contains(p.Stack, []byte("guard_test.go")) {
		t.Errorf("a panic became %v", err)
	}
}

// A mapped file that became shorter is what a failing disk looks like.
func TestFault(t *testing.T) {
	f, err := os.CreateTemp(t.TempDir(), "mapped")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(4096); err != nil {
		t.Fatal(err)
	}
	b, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(b)
	if err := f.Truncate(0); err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { done <- Run(func() error { _ = bytes.Clone(b[:1]); return nil }) }()
	var p *Panic
	if err := <-done; !errors.As(err, &p) {
		t.Errorf("a fault became %v", err)
	}
}
