package layer

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"imagefs/overlay"
	"imagefs/store"
)

// unpackIn is unpack at a path of the caller's, unprivileged so that no fuzzer makes devices.
func unpackIn(t testing.TB, path string, raw []byte) (*unpacked, error) {
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
	f.Add([]byte(`{"type":1,"size":1}` + "\n"))
	f.Add([]byte(`{"type":1,"name":"/","size":7}` + "\n" + `{"type":1,"name":"a/..","size":7}`))
	f.Fuzz(func(t *testing.T, split []byte) {
		if _, err := SplitSize(bytes.NewReader(split)); err != nil && !errors.Is(err, store.ErrCorrupt) && !errors.Is(err, store.ErrTooLarge) {
			t.Fatal(err)
		}
		if _, err := ScanSplit(context.Background(), bytes.NewReader(split), nil, Limits{}); err != nil && !errors.Is(err, store.ErrCorrupt) && !errors.Is(err, store.ErrTooLarge) {
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

// FuzzHeader makes records of hostile headers: what is accepted is something
// that a layer can have.
func FuzzHeader(f *testing.F) {
	f.Add("a/b", "", byte('0'), int64(5), int64(0o644), int64(0), int64(0), int64(0), "SCHILY.xattr.user.a", "v")
	f.Add("../x", "../../etc", byte('1'), int64(-1), int64(-1), int64(1<<40), int64(-62135596800), int64(1<<40), "SCHILY.xattr.trusted.overlay.opaque", "y")
	f.Add(".wh.x", "", byte('0'), int64(3), int64(0o4755), int64(0), int64(1<<60), int64(0), "GNU.sparse.major", "1")
	f.Add("d/.wh..wh..opq", "t", byte('3'), int64(0), int64(0), int64(0), int64(0), int64(0), "SCHILY.xattr.user.overlay.opaque", "y")
	f.Fuzz(func(t *testing.T, name, link string, typ byte, size, mode, id, sec, dev int64, k, v string) {
		r, err := parseHeader(&tar.Header{Name: name, Linkname: link, Typeflag: typ, Size: size, Mode: mode, Uid: int(id), Gid: int(id),
			ModTime: time.Unix(sec, 0), Devmajor: dev, Devminor: dev, PAXRecords: map[string]string{k: v}})
		if err != nil {
			if !errors.Is(err, store.ErrCorrupt) {
				t.Fatal(err)
			}
			return
		}
		if r.skip {
			return
		}
		for s := range strings.SplitSeq(r.Path, "/") {
			if s == ".." || s == "." || s == "" && r.Path != "" {
				t.Fatalf("path %q", r.Path)
			}
		}
		for _, x := range r.Xattrs {
			if strings.HasPrefix(x.Name, "trusted.") || strings.HasPrefix(x.Name, "user.overlay.") {
				t.Fatalf("xattr %q", x.Name)
			}
		}
		if r.Kind != overlay.Hardlink && r.Sec < 0 || r.Mode&^0o7777 != 0 {
			t.Fatalf("%+v", r)
		}
		b := overlay.NewBuilder()
		if err := b.Add(r.Entry); err != nil && !errors.Is(err, overlay.ErrTooLarge) && !errors.Is(err, overlay.ErrNoTarget) {
			t.Fatalf("%+v: %v", r, err)
		}
	})
}

// FuzzSpill reads hostile spill files.
func FuzzSpill(f *testing.F) {
	f.Add([]byte("content\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x07\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00imgspill"))
	f.Add([]byte("\xff\xff\xff\xff\xff\xff\xff\xffimgspill"))
	f.Fuzz(func(t *testing.T, b []byte) {
		fl, err := os.CreateTemp(t.TempDir(), "spill")
		if err != nil {
			t.Fatal(err)
		}
		defer fl.Close()
		if _, err := fl.Write(b); err != nil {
			t.Fatal(err)
		}
		table, err := readSpill(fl)
		if err != nil && !errors.Is(err, store.ErrCorrupt) {
			t.Fatal(err)
		}
		for ref, e := range table {
			if e.off < 0 || e.size < 0 || e.off+e.size > int64(len(b)) {
				t.Fatalf("%d: %+v of %d bytes", ref, e, len(b))
			}
		}
	})
}
