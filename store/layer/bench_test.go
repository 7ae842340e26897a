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
