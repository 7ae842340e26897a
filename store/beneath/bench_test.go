package beneath

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// How much of opening a file it costs that nothing else than a file is opened.
func BenchmarkOpenRegular(b *testing.B) {
	root := b.TempDir()
	if err := os.MkdirAll(filepath.Join(root, "usr/share/doc"), 0o755); err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "usr/share/doc/file"), nil, 0o644); err != nil {
		b.Fatal(err)
	}
	dir, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer unix.Close(dir)
	run := func(name string, open func() (int, error)) {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				fd, err := open()
				if err != nil {
					b.Fatal(err)
				}
				unix.Close(fd)
			}
		})
	}
	run("regular", func() (int, error) {
		fd, _, err := OpenRegular(dir, "usr/share/doc/file", unix.O_RDONLY)
		return fd, err
	})
	run("openat2", func() (int, error) { return openat2(dir, "usr/share/doc/file", unix.O_RDONLY, 0) })
}
