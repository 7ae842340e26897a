package layer

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
)

// memoryDir makes a directory in memory, where removing files costs the next
// ones nothing; elsewhere if there is no such place.
func memoryDir(b *testing.B) string {
	b.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "imagefs-bench-")
	if err != nil {
		return b.TempDir()
	}
	b.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// One layer of 50 directories with 10 small files each: hashed, split, written
// and indexed.
func BenchmarkUnpack(b *testing.B) {
	var hdrs []tar.Header
	content := map[string][]byte{}
	for d := range 50 {
		dir := fmt.Sprintf("usr/share/d%02d/", d)
		hdrs = append(hdrs, tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755})
		for f := range 10 {
			name := fmt.Sprintf("%sfile%02d", dir, f)
			content[name] = bytes.Repeat([]byte{byte(f)}, 100+f*500)
			hdrs = append(hdrs, tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644})
		}
	}
	raw := makeTar(b, hdrs, content)
	base := memoryDir(b)
	spill, err := os.CreateTemp(base, "spill")
	if err != nil {
		b.Fatal(err)
	}
	defer spill.Close()
	b.SetBytes(int64(len(raw)))
	b.ReportAllocs()
	for b.Loop() {
		path := filepath.Join(base, "diff")
		if err := os.Mkdir(path, 0o755); err != nil {
			b.Fatal(err)
		}
		dst, err := os.Open(path)
		if err != nil {
			b.Fatal(err)
		}
		u, err := Unpack(context.Background(), bytes.NewReader(raw), UnpackOptions{Dst: dst, Split: io.Discard, Spill: spill, Unprivileged: os.Geteuid() != 0})
		if err == nil {
			err = u.Settle(context.Background(), nil, nil)
		}
		if err == nil {
			_, err = u.Index()
		}
		if err != nil {
			b.Fatal(err)
		}
		u.Close()
		dst.Close()
		b.StopTimer()
		if err := os.RemoveAll(path); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

// A diff directory of 300 directories, three deep, with 10 files each.
func BenchmarkScan(b *testing.B) {
	base := memoryDir(b)
	for d := range 300 {
		dir := filepath.Join(base, fmt.Sprintf("usr/d%02d/e%02d", d/20, d%20))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			b.Fatal(err)
		}
		for f := range 10 {
			if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("file%02d", f)), nil, 0o644); err != nil {
				b.Fatal(err)
			}
		}
	}
	dir, err := os.Open(base)
	if err != nil {
		b.Fatal(err)
	}
	defer dir.Close()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Scan(context.Background(), dir, Limits{}); err != nil {
			b.Fatal(err)
		}
	}
}

// The tar of a layer read in order, in pieces as large as the kernel asks for.
func BenchmarkReadTar(b *testing.B) {
	for _, c := range []struct {
		name  string
		files int
		size  int
	}{{"large", 4, 16 << 20}, {"small", 4000, 16 << 10}} {
		b.Run(c.name, func(b *testing.B) {
			hdrs := []tar.Header{{Typeflag: tar.TypeDir, Name: "d/", Mode: 0o755}}
			content := map[string][]byte{}
			for f := range c.files {
				name := fmt.Sprintf("d/%05d", f)
				content[name] = bytes.Repeat([]byte{byte(f), 1, 2, 3}, c.size/4)
				hdrs = append(hdrs, tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644})
			}
			path := filepath.Join(memoryDir(b), "diff")
			u, err := unpackIn(b, path, makeTar(b, hdrs, content))
			if err != nil {
				b.Fatal(err)
			}
			f, err := OpenTar(TarSource{Split: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(u.split)), nil }, Dir: u.dir,
				Temp: func() (*os.File, error) { return os.CreateTemp(b.TempDir(), "map") }})
			if err != nil {
				b.Fatal(err)
			}
			defer f.Close()
			buf := make([]byte, 1<<20)
			b.SetBytes(f.Size())
			for b.Loop() {
				for off := int64(0); off < f.Size(); off += int64(len(buf)) {
					if _, err := f.ReadAt(buf, off); err != nil && err != io.EOF {
						b.Fatal(err)
					}
				}
			}
		})
	}
}
