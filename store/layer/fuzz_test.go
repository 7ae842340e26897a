package layer

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"syscall"
	"testing"

	"imagefs/store"
)

// unpackIn is unpack at a path of the caller's, unprivileged so that no fuzzer makes devices.
func unpackIn(t *testing.T, path string, raw []byte) (*unpacked, error) {
	if err := os.Mkdir(path, 0o755); err != nil {
		t.Fatal(err)
	}
	dir, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dir.Close() })
	spill, err := os.CreateTemp(t.TempDir(), "spill")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { spill.Close() })
	var split bytes.Buffer
	u, err := Unpack(context.Background(), bytes.NewReader(raw), UnpackOptions{Dst: dir, Split: &split, Spill: spill, Unprivileged: true,
		Limits: Limits{Sparse: 1 << 20}})
	if err != nil {
		return nil, err
	}
	defer u.Close()
	if err := u.Settle(context.Background(), nil, nil); err != nil {
		return nil, err
	}
	if _, err := u.Index(); err != nil {
		return nil, err
	}
	return &unpacked{dir: dir, split: split.Bytes(), spill: spill, tar: raw, u: u}, nil
}

func isSystem(err error) bool {
	var e syscall.Errno
	return errors.As(err, &e)
}

// FuzzTarSplit feeds hostile tar-splits to everything that reads one.
func FuzzTarSplit(f *testing.F) {
	f.Add([]byte(`{"type":2,"payload":"YWJj","position":0}` + "\n" + `{"type":1,"name":"f","size":3,"payload":"AAAAAAAAAAA=","position":1}` + "\n"))
	f.Add([]byte(`{"type":1,"name":"../../etc/passwd","size":9223372036854775807,"payload":null}` + "\n"))
	f.Fuzz(func(t *testing.T, split []byte) {
		if _, err := SplitSize(bytes.NewReader(split)); err != nil && !errors.Is(err, store.ErrCorrupt) && !errors.Is(err, store.ErrTooLarge) {
			t.Fatal(err)
		}
		if _, err := ScanSplit(context.Background(), bytes.NewReader(split), Limits{}); err != nil && !errors.Is(err, store.ErrCorrupt) && !errors.Is(err, store.ErrTooLarge) {
			t.Fatal(err)
		}
		dir, err := os.Open(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		defer dir.Close()
		fl, err := OpenTar(TarSource{Split: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(split)), nil }, Dir: dir,
			Temp: func() (*os.File, error) { return os.CreateTemp(t.TempDir(), "map") }})
		if err != nil {
			return
		}
		defer fl.Close()
		buf := make([]byte, 4096)
		for _, off := range []int64{0, 1, fl.Size() / 2, fl.Size() - 1} {
			if off >= 0 {
				_, _ = fl.ReadAt(buf, off)
			}
		}
	})
}
